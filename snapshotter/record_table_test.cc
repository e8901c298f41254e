#include "snapshotter/record_table.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/file_io.h"

namespace banyan::snapshotter {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

Record Sample(uint64_t id) {
  return {.id = id,
          .info = {.name = "k8s.io/" + std::to_string(id) + "/ümläut",
                   .parent = "parent",
                   .kind = Kind::kCommitted,
                   .labels = {{"a", "b"}, {"quote\"", "line\nbreak"}},
                   .created = Time(std::chrono::nanoseconds(1'700'000'000'123'456'789)),
                   .updated = Time(std::chrono::nanoseconds(1'700'000'001'000'000'001))},
          .usage = Usage{4096, 7},
          .chain = LazyChain{.image_reference = "r/i:1",
                             .manifest_digest = Digest::Of("m"),
                             .artifact_digest = Digest::Of("a"),
                             .map_digest = Digest::Of("p"),
                             .chain_id = Digest::Of("c"),
                             .layers = 3,
                             .image_layers = 5}};
}

class RecordTableTest : public ::testing::Test {
 protected:
  void Write(const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileDurably(path() + "/" + name, text).has_value());
  }
  std::string path() const { return directory_->path() + "/meta"; }

  Result<TempDir> directory_ = TempDir::Make("records");
  Result<RecordTable> table_ = RecordTable::Open(path());
};

TEST_F(RecordTableTest, KeepsAllFields) {
  Record plain{.id = 2, .info = {.name = "x", .kind = Kind::kView}};
  ASSERT_TRUE(table_->Put(Sample(1)).has_value());
  ASSERT_TRUE(table_->Put(plain).has_value());
  EXPECT_THAT(table_->Load()->records, UnorderedElementsAre(Sample(1), plain));

  plain.info.labels["new"] = "label";
  ASSERT_TRUE(table_->Put(plain).has_value());
  ASSERT_TRUE(table_->Remove(1).has_value());
  ASSERT_TRUE(table_->Remove(1).has_value());
  EXPECT_THAT(table_->Load()->records, ElementsAre(plain));
}

TEST_F(RecordTableTest, RefusesWhatJsonCannotHold) {
  Record record = Sample(1);
  record.info.labels["x"] = "\xff";
  EXPECT_EQ(table_->Put(record).error().code, Code::kInvalidArgument);
  EXPECT_THAT(table_->Load()->records, IsEmpty());
}

TEST_F(RecordTableTest, SetsDamagedRecordsAsideAndNamesThem) {
  ASSERT_TRUE(table_->Put(Sample(1)).has_value());
  const std::string whole = *SerializeRecord(Sample(2));
  Write("2.json", whole.substr(0, whole.size() / 2));
  Write("3.json", "");
  Write("4.json", *SerializeRecord(Sample(5)));  // another's
  Write("6.json", R"({"id":6,"name":7})");
  std::string unknown_kind = *SerializeRecord(Sample(7));
  unknown_kind.replace(unknown_kind.find("committed"), 9, "confirmed");
  Write("7.json", unknown_kind);

  auto contents = table_->Load();
  ASSERT_TRUE(contents.has_value()) << contents.error().message;
  EXPECT_THAT(contents->records, ElementsAre(Sample(1)));
  EXPECT_THAT(contents->damaged, UnorderedElementsAre(2, 3, 4, 6, 7));
  EXPECT_THAT(contents->notes, ::testing::Contains(HasSubstr("2.json")));

  contents = table_->Load();
  EXPECT_THAT(contents->damaged, UnorderedElementsAre(2, 3, 4, 6, 7));
  EXPECT_THAT(contents->notes, IsEmpty());
}

TEST_F(RecordTableTest, RemovesWhatAnUnfinishedWriteLeft) {
  Write("9.json.tmp.123", "{");
  Write("stranger", "x");
  const auto contents = table_->Load();
  EXPECT_THAT(contents->damaged, IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(path() + "/9.json.tmp.123"));
  EXPECT_TRUE(std::filesystem::exists(path() + "/stranger"));
}

TEST(Record, AnyCutOfARecordIsDamageNotACrash) {
  const std::string whole = *SerializeRecord(Sample(2));
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_FALSE(ParseRecord(whole.substr(0, length)).has_value()) << length;
  }
}

}  // namespace
}  // namespace banyan::snapshotter
