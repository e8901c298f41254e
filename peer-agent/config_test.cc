#include "peer-agent/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/file_io.h"

namespace banyan::peer_agent {
namespace {

using ::testing::HasSubstr;

class ConfigFileTest : public ::testing::Test {
 protected:
  Result<Config> Load(const std::string& text) {
    const std::string path = dir_.path() + "/agent.toml";
    EXPECT_TRUE(WriteFileDurably(path, text));
    return LoadConfig(path);
  }
  const TempDir dir_ = TempDir::Make("banyan-config").value();
};

TEST_F(ConfigFileTest, TheReferenceLoadsAndChangesNothing) {
  const auto config = Load(ConfigReference());
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->data_root, Config().data_root);
  EXPECT_EQ(config->store_budget.bytes, Config().store_budget.bytes);
  EXPECT_EQ(config->read_timeout, Config().read_timeout);
  EXPECT_TRUE(config->snapshotter_socket.empty());
}

TEST_F(ConfigFileTest, RefusesWhatMakesNoSense) {
  EXPECT_THAT(Load("data_root = \"relative\"\n").error().message, HasSubstr("data_root"));
  EXPECT_THAT(Load("log_level = \"loud\"\n").error().message, HasSubstr("log_level"));
  EXPECT_THAT(Load("[mount]\nform = \"zip\"\n").error().message, HasSubstr("mount.form"));
  EXPECT_THAT(Load("[metrics]\naddress = \"nowhere\"\n").error().message, HasSubstr("metrics.address"));
  EXPECT_THAT(Load("[registries.\"a\"]\nmirrors = [\"ftp://x\"]\n").error().message,
              HasSubstr("registries.\"a\".mirrors"));
  EXPECT_THAT(Load("[snapshotter]\nsock = \"x\"\n").error().message,
              HasSubstr("agent.toml:2: snapshotter.sock: no such key"));
  EXPECT_EQ(LoadConfig(dir_.path() + "/absent").error().code, Code::kNotFound);
}

TEST_F(ConfigFileTest, ReadsRegistries) {
  const auto config = Load("[registries.\"r.example\"]\nmirrors = [\"http://p:1\"]\nplain_http = true\n");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->registries.at("r.example").mirrors, std::vector<std::string>{"http://p:1"});
  EXPECT_TRUE(config->registries.at("r.example").plain_http);
}

}  // namespace
}  // namespace banyan::peer_agent
