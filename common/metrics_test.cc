#include "common/metrics.h"

#include <cstdlib>
#include <ctime>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace banyan {
namespace {

using ::testing::HasSubstr;

TEST(MetricsPageTest, WritesFamiliesOnceWithTheirLabelsEscaped) {
  MetricsPage page;
  page.Counter("banyan_fetched_bytes_total", "Bytes.", {{"source", "registry"}}, 12);
  page.Counter("banyan_fetched_bytes_total", "Bytes.", {{"source", "a\"b"}}, 3);
  page.Gauge("banyan_mounts", "Mounts.", 2);
  page.Process("1.2.3");
  const std::string text = page.Text();
  EXPECT_THAT(text, HasSubstr("# TYPE banyan_fetched_bytes_total counter\n"
                              "banyan_fetched_bytes_total{source=\"registry\"} 12\n"
                              "banyan_fetched_bytes_total{source=\"a\\\"b\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE banyan_mounts gauge\nbanyan_mounts 2\n"));
  EXPECT_THAT(text, HasSubstr("banyan_build_info{version=\"1.2.3\"} 1\n"));
  EXPECT_EQ(text.find("process_resident_memory_bytes 0\n"), std::string::npos);
  const std::string name = "\nprocess_start_time_seconds ";
  const size_t at = text.find(name);
  ASSERT_NE(at, std::string::npos);
  // A test that has run for less than an hour.
  const auto now = static_cast<double>(std::time(nullptr));
  const double began = std::strtod(text.c_str() + at + name.size(), nullptr);
  EXPECT_LE(began, now + 1);
  EXPECT_GE(began, now - 3600);
}

}  // namespace
}  // namespace banyan
