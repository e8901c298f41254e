#include "common/bitmap.h"

#include <gtest/gtest.h>

namespace banyan {
namespace {

TEST(BitmapTest, CountsChangesOnly) {
  Bitmap bitmap(11);
  EXPECT_TRUE(bitmap.Set(10));
  EXPECT_FALSE(bitmap.Set(10));
  EXPECT_TRUE(bitmap.Test(10));
  EXPECT_EQ(bitmap.count(), 1U);
  EXPECT_TRUE(bitmap.Clear(10));
  EXPECT_FALSE(bitmap.Clear(10));
  EXPECT_EQ(bitmap.count(), 0U);
}

TEST(BitmapTest, PersistedFormRoundTrips) {
  Bitmap bitmap(20);
  for (const uint32_t index : {0U, 7U, 8U, 19U}) bitmap.Set(index);
  const Bitmap copy(20, bitmap.bytes());
  EXPECT_EQ(copy.bytes(), bitmap.bytes());
  EXPECT_EQ(copy.count(), 4U);
}

TEST(BitmapTest, ForeignBytesNeverCountBeyondTheSize) {
  const Bitmap bitmap(3, std::string(4, '\xff'));
  EXPECT_EQ(bitmap.count(), 3U);
  EXPECT_TRUE(bitmap.full());
  EXPECT_EQ(Bitmap(20, std::string_view("\xff", 1)).count(), 8U);
}

TEST(BitmapTest, AnEmptyBitmapIsFull) { EXPECT_TRUE(Bitmap(0).full()); }

}  // namespace
}  // namespace banyan
