#include "common/result.h"

#include <cerrno>

#include <gtest/gtest.h>

namespace banyan {
namespace {

Result<int> Half(int value) {
  if (value % 2 != 0) return Fail(Code::kInvalidArgument, "odd");
  return value / 2;
}

Result<int> Quarter(int value) {
  BANYAN_ASSIGN(const int half, Half(value));
  return Half(half);
}

Status CheckEven(int value) {
  BANYAN_TRY(Half(value));
  return {};
}

TEST(ResultTest, MacrosPassValuesAndErrorsOn) {
  EXPECT_EQ(Quarter(8).value(), 2);
  EXPECT_EQ(Quarter(6).error().message, "odd");
  EXPECT_TRUE(CheckEven(2));
  EXPECT_EQ(CheckEven(1).error().code, Code::kInvalidArgument);
}

TEST(ResultTest, ErrnoGoesThereAndBack) {
  EXPECT_EQ(ErrnoError("x", ENOSPC).code, Code::kResourceExhausted);
  EXPECT_EQ(ErrnoError("open f", ENOENT).message, "open f: No such file or directory");
  EXPECT_EQ(ErrnoOf(ErrnoError("x", ENOENT)), ENOENT);
  EXPECT_EQ(ErrnoOf(Error{Code::kDataLoss, ""}), EIO);
}

TEST(ErrorTest, ContextGoesInFront) {
  const Error error = Error{Code::kDataLoss, "digest mismatch"}.WithContext("chunk 3");
  EXPECT_EQ(error.message, "chunk 3: digest mismatch");
  EXPECT_EQ(error.code, Code::kDataLoss);
}

}  // namespace
}  // namespace banyan
