#include "tree-manager/dashboard/query.h"

#include <gtest/gtest.h>

namespace banyan::tree_manager {
namespace {

TEST(QueryTest, NamesAndValuesAreDecoded) {
  const auto query = ParseQuery("/api/v1/tree?function=sha256%3aab&n+1=a%26b&last");
  ASSERT_TRUE(query);
  EXPECT_EQ(TextOf(*query, "function"), "sha256:ab");
  EXPECT_EQ(TextOf(*query, "n 1"), "a&b");
  EXPECT_TRUE(query->contains("last"));
  EXPECT_EQ(TextOf(*query, "none"), "");
  EXPECT_TRUE(ParseQuery("/")->empty());
  EXPECT_TRUE(ParseQuery("/?")->empty());
}

TEST(QueryTest, WhatIsMalformedIsRefused) {
  for (const char* target : {"/?a=%", "/?a=%4", "/?a=%zz", "/?%4=1"}) {
    EXPECT_EQ(ParseQuery(target).error().code, Code::kInvalidArgument) << target;
  }
  std::string many = "/?";
  for (int i = 0; i < 17; ++i) many += "a=1&";
  EXPECT_FALSE(ParseQuery(many));
}

TEST(QueryTest, NumbersHaveALimit) {
  const auto query = ParseQuery("/?good=7&big=700&bad=7x&huge=99999999999999999999");
  ASSERT_TRUE(query);
  EXPECT_EQ(NumberOf(*query, "good", 1, 10), 7U);
  EXPECT_EQ(NumberOf(*query, "big", 1, 10), 10U);
  EXPECT_EQ(NumberOf(*query, "bad", 1, 10), 1U);
  EXPECT_EQ(NumberOf(*query, "huge", 1, 10), 1U);
  EXPECT_EQ(NumberOf(*query, "none", 1, 10), 1U);
}

}  // namespace
}  // namespace banyan::tree_manager
