#include "snapshotter/filter.h"

#include <gtest/gtest.h>

namespace banyan::snapshotter {
namespace {

const SnapshotInfo kLayer{.name = "k8s.io/2/sha256:ab",
                          .parent = "base",
                          .kind = Kind::kCommitted,
                          .labels = {{"containerd.io/snapshot.ref", "sha256:ab"}, {"simple", "yes"}, {"a.b", "dots"}}};

bool Matches(const std::string& filter) {
  const auto parsed = Filter::Parse({filter});
  EXPECT_TRUE(parsed.has_value()) << (parsed ? "" : parsed.error().message);
  return parsed && parsed->Matches(kLayer);
}

TEST(Filter, NoneOrAnEmptyOneMatchesAll) {
  EXPECT_TRUE(Filter::Parse({})->Matches(kLayer));
  EXPECT_TRUE(Filter::Parse({""})->Matches(kLayer));
}

TEST(Filter, WhatContainerdAsksForAClaimedLayer) {
  EXPECT_TRUE(Matches(R"(labels."containerd.io/snapshot.ref"==sha256:ab,parent=="base")"));
  EXPECT_FALSE(Matches(R"(labels."containerd.io/snapshot.ref"==sha256:ab,parent=="")"));
  EXPECT_FALSE(Matches(R"(labels."containerd.io/snapshot.ref"==sha256:a,parent=="base")"));
}

TEST(Filter, FieldsAndOperators) {
  EXPECT_TRUE(Matches("kind==committed"));
  EXPECT_FALSE(Matches("kind==active"));
  EXPECT_TRUE(Matches("kind!=active"));
  EXPECT_TRUE(Matches("name==k8s.io/2/sha256:ab"));
  EXPECT_TRUE(Matches("labels.simple"));
  EXPECT_FALSE(Matches("labels.other"));
  EXPECT_TRUE(Matches("labels.a.b==dots"));
  EXPECT_FALSE(Matches("labels"));
  EXPECT_TRUE(Matches("labels.other!=yes"));
  EXPECT_FALSE(Matches("unknown"));
  EXPECT_FALSE(Matches("unknown==\"\""));
  EXPECT_TRUE(Matches(" name ~= ^k8s , labels.simple == yes "));
}

TEST(Filter, ExpressionsMatchAnywhereUnlessAnchored) {
  EXPECT_TRUE(Matches("name~=sha256"));
  EXPECT_FALSE(Matches("name~=^sha256"));
  EXPECT_TRUE(Matches("name~=/io.2/"));
  EXPECT_TRUE(Matches(R"(name~=|io/\x32|)"));
  EXPECT_TRUE(Matches("labels.other~=^$"));
}

TEST(Filter, AnyOfSeveral) {
  const auto filter = Filter::Parse({"name==x", "labels.simple,kind==view", "parent==base"});
  ASSERT_TRUE(filter.has_value());
  EXPECT_TRUE(filter->Matches(kLayer));
  EXPECT_FALSE(Filter::Parse({"name==x", "labels.simple,kind==view"})->Matches(kLayer));
}

TEST(Filter, EscapesAreThoseOfGo) {
  SnapshotInfo info;
  info.name = "a\n\"\\A\xC3\xA9\xF0\x9F\x8C\xB3Z\xFF";
  const auto filter = Filter::Parse({R"(name=="a\n\"\\\x41\u00e9\U0001f333\132\377")"});
  ASSERT_TRUE(filter.has_value()) << filter.error().message;
  EXPECT_TRUE(filter->Matches(info));
}

TEST(Filter, RefusesWhatMakesNoSense) {
  for (const char* text : {"==x",
                           "name==",
                           "name=x",
                           "name===x",
                           "name==x y",
                           "name==x,",
                           ",name",
                           "name..x",
                           "name==\"x",
                           "name==\"\\q\"",
                           "name==\"\\x4\"",
                           "name==\"\\400\"",
                           "name==\"\\U00110000\"",
                           "name==/x/",
                           "na-me==x",
                           "name~=(",
                           "/name/==x",
                           "name==\"a\nb\"",
                           "name=={\x01}",
                           "\"name",
                           "name.\"\\"}) {
    const auto filter = Filter::Parse({text});
    ASSERT_FALSE(filter.has_value()) << text;
    EXPECT_EQ(filter.error().code, Code::kInvalidArgument) << text;
  }
}

TEST(Filter, CostIsBounded) {
  EXPECT_FALSE(Filter::Parse({"name~=" + std::string(5000, 'a')}).has_value());
  EXPECT_FALSE(Filter::Parse({"name~=((((a{1000}){1000}){1000}){1000})"}).has_value());
  EXPECT_FALSE(Filter::Parse({"name==" + std::string(100'000, 'a')}).has_value());
  EXPECT_FALSE(Filter::Parse(std::vector<std::string>(1000, "name")).has_value());
  EXPECT_FALSE(Filter::Parse(std::vector<std::string>(65, "name~=x")).has_value());

  // Takes exponential time, or the stack, where expressions are matched by backtracking.
  SnapshotInfo info;
  info.name = std::string(16'000, 'a');
  const auto filter = Filter::Parse({"name~=^(a+)+$,name~=(a|aa)*b"});
  ASSERT_TRUE(filter.has_value());
  EXPECT_FALSE(filter->Matches(info));
}

}  // namespace
}  // namespace banyan::snapshotter
