#include "peer-agent/mount_table.h"

#include <gtest/gtest.h>

#include "common/file_io.h"

namespace banyan::peer_agent {
namespace {

MountRecord Record(const std::string& directory) {
  MountRecord record;
  record.reference = "docker://127.0.0.1:5000/app:1";
  record.directory = directory;
  record.form = "file";
  record.manifest_digest = Digest::Of("manifest");
  record.artifact_digest = Digest::Of("artifact");
  record.map_digest = Digest::Of("map");
  record.image_config = R"({"config":{"Cmd":["sh"]}})";
  record.plain_http = true;
  record.lower_directory = "/prefix";
  record.local_devices = {true, false};
  return record;
}

TEST(MountTableTest, RecordsSurviveAReopenAndGoWhenRemoved) {
  const TempDir dir = TempDir::Make("banyan-mounts").value();
  {
    MountTable table = MountTable::Open(dir.path() + "/mounts").value();
    ASSERT_TRUE(table.Put(Record("/a")));
    ASSERT_TRUE(table.Put(Record("/b")));
    ASSERT_TRUE(table.Put(Record("/b")));
  }
  MountTable table = MountTable::Open(dir.path() + "/mounts").value();
  const auto contents = table.Load().value();
  ASSERT_EQ(contents.records.size(), 2U);
  EXPECT_EQ(contents.records[0].map_digest, Digest::Of("map"));
  EXPECT_EQ(contents.records[0].local_devices, (std::vector<bool>{true, false}));
  EXPECT_TRUE(contents.records[0].plain_http);
  EXPECT_EQ(contents.records[0].lower_directory, "/prefix");
  ASSERT_TRUE(table.Remove("/a"));
  ASSERT_TRUE(table.Remove("/a"));
  EXPECT_EQ(table.Load().value().records.at(0).directory, "/b");
}

TEST(MountTableTest, ADamagedRecordHindersNoOther) {
  const TempDir dir = TempDir::Make("banyan-mounts").value();
  MountTable table = MountTable::Open(dir.path()).value();
  ASSERT_TRUE(table.Put(Record("/a")));
  ASSERT_TRUE(WriteFileDurably(dir.path() + "/x.json", "{\"reference\": 7}"));
  ASSERT_TRUE(WriteFileDurably(dir.path() + "/y.json", "not json"));
  const auto contents = table.Load().value();
  EXPECT_EQ(contents.records.size(), 1U);
  EXPECT_EQ(contents.damaged.size(), 2U);
}

TEST(MountTableTest, BytesThatAreNotUtf8DoNotStopAMount) {
  const TempDir dir = TempDir::Make("banyan-mounts").value();
  MountTable table = MountTable::Open(dir.path()).value();
  MountRecord record = Record("/a");
  record.image_config = "{\"x\":\"\xff\xfe\"}";
  ASSERT_TRUE(table.Put(record));
  EXPECT_EQ(table.Load().value().records.size(), 1U);
}

}  // namespace
}  // namespace banyan::peer_agent
