#include "common/log.h"

#include <stdlib.h>

#include <gtest/gtest.h>

namespace banyan {
namespace {

// Leaves the process's level and environment as they were.
class LogTest : public ::testing::Test {
 protected:
  void SetUp() override { ::unsetenv("BANYAN_LOG"); }
  void TearDown() override {
    ::unsetenv("BANYAN_LOG");
    spdlog::set_level(level_);
  }
  const spdlog::level::level_enum level_ = spdlog::get_level();
};

TEST_F(LogTest, LevelsAreTheDocumentedWords) {
  EXPECT_EQ(ParseLogLevel("trace").value(), spdlog::level::trace);
  EXPECT_EQ(ParseLogLevel("error").value(), spdlog::level::err);
  EXPECT_EQ(ParseLogLevel("off").value(), spdlog::level::off);
  for (const char* text : {"", "loud", "INFO", "warning", "info "}) EXPECT_FALSE(ParseLogLevel(text)) << text;
}

TEST_F(LogTest, TheEnvironmentOutdoesTheConfiguration) {
  SetLogLevel("warn");
  EXPECT_EQ(spdlog::get_level(), spdlog::level::warn);
  ::setenv("BANYAN_LOG", "debug", 1);
  SetLogLevel("error");
  EXPECT_EQ(spdlog::get_level(), spdlog::level::warn);
  ::setenv("BANYAN_LOG", "loud", 1);  // no level: it says nothing
  SetLogLevel("error");
  EXPECT_EQ(spdlog::get_level(), spdlog::level::err);
}

}  // namespace
}  // namespace banyan
