#include "tree-manager/start_book.h"

#include <gtest/gtest.h>

namespace banyan::tree_manager {
namespace {

using proto::tree::StartReport;

StartReport ReportAt(uint64_t began, uint64_t end) {
  StartReport report;
  report.set_function("f");
  report.set_began_unix_micros(began);
  StartReport::Stage& stage = *report.add_stages();
  stage.set_name("resolve");
  stage.set_end(end);
  return report;
}

TEST(StartBookTest, ALaterReportReplacesAnEarlierOne) {
  StartBook book;
  ASSERT_NE(book.Add("a", ReportAt(1, 10)), nullptr);
  ASSERT_NE(book.Add("b", ReportAt(1, 20)), nullptr);
  ASSERT_NE(book.Add("a", ReportAt(1, 30)), nullptr);
  ASSERT_EQ(book.starts().size(), 2U);
  EXPECT_EQ(book.starts()[0].node(), "a");
  EXPECT_EQ(book.starts()[0].stages(0).end(), 30U);
}

TEST(StartBookTest, TheNodeIsWhoeverReports) {
  StartBook book;
  StartReport report = ReportAt(1, 10);
  report.set_node("somebody else");
  EXPECT_EQ(book.Add("a", report)->node(), "a");
}

TEST(StartBookTest, TheOldestGo) {
  StartBook book;
  for (uint64_t i = 0; i < StartBook::kKept + 5; ++i) book.Add("a", ReportAt(i, 1));
  ASSERT_EQ(book.starts().size(), StartBook::kKept);
  EXPECT_EQ(book.starts().front().began_unix_micros(), 5U);
}

TEST(StartBookTest, WhatIsTooMuchIsRefused) {
  StartBook book;
  StartReport report = ReportAt(1, 10);
  while (report.stages_size() <= StartBook::kMaxParts) report.add_stages();
  EXPECT_EQ(book.Add("a", report), nullptr);
  report = ReportAt(1, 10);
  report.mutable_stages(0)->set_name(std::string(StartBook::kMaxTextBytes + 1, 'x'));
  EXPECT_EQ(book.Add("a", report), nullptr);
  report = ReportAt(1, 10);
  report.mutable_stages(0)->set_begin(11);
  EXPECT_EQ(book.Add("a", report), nullptr);
  EXPECT_EQ(book.Add("a", StartReport()), nullptr);
  EXPECT_TRUE(book.starts().empty());
}

}  // namespace
}  // namespace banyan::tree_manager
