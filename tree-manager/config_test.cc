#include "tree-manager/config.h"

#include <gtest/gtest.h>

#include "common/file_io.h"
#include "common/settings.h"

namespace banyan::tree_manager {
namespace {

Result<Config> Load(const std::string& text) {
  const TempDir directory = TempDir::Make("config").value();
  const std::string path = directory.path() + "/tree-manager.toml";
  EXPECT_TRUE(WriteFileDurably(path, text));
  return LoadConfig(path);
}

TEST(ConfigTest, KeysAreRead) {
  const auto config = Load(
      "listen = \"[::]:4650\"\nhttp = \"\"\nstripes = 1\nidle_reclaim = \"5s\"\npeer_to_peer = false\nproxies = "
      "[\"unix:/p\", \"proxy:5051\"]");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(ParseHostPort(config->listen)->host, "::");
  EXPECT_EQ(config->stripes, 1);
  EXPECT_EQ(config->proxies.size(), 2U);
  EXPECT_EQ(config->idle_reclaim, std::chrono::seconds(5));
  EXPECT_FALSE(config->peer_to_peer);
}

TEST(ConfigTest, WhatMakesNoSenseIsRefused) {
  for (const char* text :
       {"lisen = \"a:1\"", "listen = \"nowhere\"", "listen = \":1\"", "listen = \"a:70000\"", "http = \"x\"",
        "data_root = \"relative\"", "stripes = 3", "stripes = 0", "spares = 3", "idle_reclaim = \"10ms\"",
        "proxies = [\"nowhere\"]", "proxies = [\"unix:relative\"]", "log_level = \"loud\""}) {
    const auto config = Load(text);
    ASSERT_FALSE(config) << text;
    EXPECT_EQ(config.error().code, Code::kInvalidArgument) << text;
  }
}

TEST(ConfigTest, TheReferenceIsGood) {
  const auto config = Load(ConfigReference());
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->listen, Config().listen);
}

}  // namespace
}  // namespace banyan::tree_manager
