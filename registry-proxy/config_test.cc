#include "registry-proxy/config.h"

#include <gtest/gtest.h>

#include "common/file_io.h"
#include "common/settings.h"

namespace banyan::registry_proxy {
namespace {

Result<Config> Load(const std::string& text) {
  const TempDir directory = TempDir::Make("config").value();
  const std::string path = directory.path() + "/proxy.toml";
  EXPECT_TRUE(WriteFileDurably(path, text));
  return LoadConfig(path);
}

TEST(ConfigTest, KeysAreRead) {
  const auto config = Load(R"(
listen = "[::1]:5000"
[store]
budget = "2GiB"
[registry]
push = true
[convert]
images = ["docker.io/library/*"]
[upstreams."docker.io"]
endpoints = ["https://mirror.example", "http://10.0.0.1:5000"]
auth = "client"
)");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->store_budget.bytes, 2 * kGiB);
  EXPECT_TRUE(config->push);
  EXPECT_EQ(config->upstreams.at("docker.io").endpoints.size(), 2U);
  EXPECT_EQ(ParseHostPort(config->listen)->host, "::1");
}

TEST(ConfigTest, WhatMakesNoSenseIsRefused) {
  for (const char* text :
       {"lisen = \"a:1\"", "listen = \"nowhere\"", "listen = \":5050\"", "status = \":1\"", "log_level = \"loud\"",
        "[mirror]\ndefault_upstream = \"docker.io\"", "[upstreams.\"docker.io\"]\nauth = \"none\"",
        "[convert]\nlevel = 20", "[upstreams.\"a b\"]", "[upstreams.\"docker.io\"]\nendpoints = [\"ftp://x\"]",
        "[upstreams.\"docker.io\"]\ncredentials_for = [\"*\"]", "data_root = \"relative\""}) {
    const auto config = Load(text);
    ASSERT_FALSE(config) << text;
    EXPECT_EQ(config.error().code, Code::kInvalidArgument) << text;
  }
}

// The documented sample is a configuration.
TEST(ConfigTest, TheReferenceIsGood) {
  const auto config = Load(ConfigReference());
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_TRUE(config->upstreams.contains("registry.example"));
}

}  // namespace
}  // namespace banyan::registry_proxy
