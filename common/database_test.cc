#include "common/database.h"

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include "common/file_io.h"

namespace banyan {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class DatabaseTest : public ::testing::Test {
 protected:
  Result<Database> Open() const { return OpenDatabase({.name = "things"}, path_); }

  // A database that holds a → 1 and is closed.
  void Make() const {
    auto database = Open();
    ASSERT_TRUE(database) << database.error().message;
    ASSERT_TRUE((*database)->Put(rocksdb::WriteOptions(), "a", "1").ok());
  }

  const TempDir directory_ = TempDir::Make("database").value();
  const std::string path_ = directory_.path() + "/db";
};

TEST_F(DatabaseTest, KeepsWhatWasWritten) {
  Make();
  auto database = Open();
  ASSERT_TRUE(database) << database.error().message;
  std::string value;
  EXPECT_TRUE((*database)->Get(rocksdb::ReadOptions(), "a", &value).ok());
  EXPECT_EQ(value, "1");
}

// Closing flushes: what was written is in a table, and there is no log to replay.
TEST_F(DatabaseTest, ClosingLeavesNothingToReplay) {
  Make();
  for (const auto& entry : std::filesystem::directory_iterator(path_)) {
    const bool is_log = entry.path().extension() == ".log";
    EXPECT_TRUE(!is_log || entry.file_size() == 0) << entry.path();
  }
  EXPECT_FALSE(std::filesystem::exists(path_ + "/LOG"));  // its own log file: it logs to ours
}

TEST_F(DatabaseTest, DamageIsToldFromWhatSaysNothing) {
  Make();
  {
    const auto held = Open();
    ASSERT_TRUE(held);
    const auto second = Open();  // the lock is taken
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, Code::kUnavailable);
    EXPECT_THAT(second.error().message, StartsWith("things: open " + path_));
  }
  ASSERT_TRUE(WriteFileDurably(path_ + "/CURRENT", "MANIFEST-999999\n"));
  const auto lost = Open();
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().code, Code::kDataLoss) << lost.error().message;

  std::filesystem::remove(path_ + "/CURRENT");
  const auto bare = Open();
  ASSERT_FALSE(bare);
  EXPECT_EQ(bare.error().code, Code::kDataLoss);
  EXPECT_THAT(bare.error().message, HasSubstr("CURRENT is missing"));
}

TEST_F(DatabaseTest, WhatIsSetAsideIsKept) {
  for (const char* aside : {".damaged-1", ".damaged-2"}) {
    Make();
    const Status set = SetDatabaseAside(path_);
    ASSERT_TRUE(set) << set.error().message;
    EXPECT_FALSE(std::filesystem::exists(path_));
    EXPECT_TRUE(std::filesystem::exists(path_ + aside + "/CURRENT"));
  }
  EXPECT_EQ(SetDatabaseAside(path_).error().code, Code::kNotFound);
}

TEST_F(DatabaseTest, ErrorsHaveTheCodesOfTheirCauses) {
  EXPECT_EQ(DatabaseError("n", "w", rocksdb::Status::NotFound()).code, Code::kNotFound);
  EXPECT_EQ(DatabaseError("n", "w", rocksdb::Status::Corruption()).code, Code::kDataLoss);
  EXPECT_EQ(DatabaseError("n", "w", rocksdb::Status::NoSpace()).code, Code::kResourceExhausted);
  EXPECT_EQ(DatabaseError("n", "w", rocksdb::Status::IOError("x")).code, Code::kUnavailable);
  EXPECT_EQ(DatabaseError("n", "w", rocksdb::Status::IOError("x")).message, "n: w: IO error: x");
}

}  // namespace
}  // namespace banyan
