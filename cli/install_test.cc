#include "cli/install.h"

#include <sys/stat.h>

#include <filesystem>

#include <gtest/gtest.h>

#include "common/file_io.h"

namespace banyan::cli {
namespace {

constexpr const char* kDebian = R"(version = 2

# ours
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
)";

constexpr const char* kKubernetes = R"(version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.example/pause:3.9"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"  # the default
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/srv/certs.d:/etc/docker/certs.d"
[proxy_plugins]
  [proxy_plugins.stargz]
    type = "snapshot"
    address = "/run/stargz.sock"
)";

void ExpectInstalled(const ContainerdConfig& config) {
  EXPECT_EQ(config.snapshotter, "banyan");
  EXPECT_EQ(config.disable_snapshot_annotations, false);
  EXPECT_TRUE(config.proxy_plugin);
  EXPECT_EQ(config.proxy_address, "/run/banyan/snapshotter.sock");
}

TEST(EditContainerdConfig, KeepsWhatOthersWroteAndIsTakenBackExactly) {
  for (const std::string text : {kDebian, kKubernetes, "version = 3\n", "version = 2\n[proxy_plugins]\n", ""}) {
    const auto edited = EditContainerdConfig(text, {});
    ASSERT_TRUE(edited) << edited.error().message << text;
    const auto config = ParseContainerdConfig(*edited);
    ASSERT_TRUE(config) << config.error().message;
    ExpectInstalled(*config);
    EXPECT_EQ(RemoveEdits(*edited), text);
    EXPECT_EQ(EditContainerdConfig(*edited, {}).value(), *edited) << "not idempotent";
  }
}

TEST(EditContainerdConfig, ReplacesAValueOnItsLineAndKeepsItsComment) {
  const std::string edited = EditContainerdConfig(kKubernetes, {}).value();
  EXPECT_NE(edited.find("\n# banyan install replaced:     snapshotter = \"overlayfs\"  # the default\n"),
            std::string::npos);
  EXPECT_NE(edited.find("\n    snapshotter = \"banyan\"  # the default  # set by banyan install\n"), std::string::npos);
  EXPECT_EQ(ParseContainerdConfig(edited)->config_path, "/srv/certs.d") << "a config_path that is set stays";
}

TEST(EditContainerdConfig, WhatIsAddedLaterByOthersStaysWhenItIsTakenBack) {
  std::string edited = EditContainerdConfig(kDebian, {}).value();
  edited += "[metrics]\n  address = \"127.0.0.1:1338\"\n";
  EXPECT_EQ(RemoveEdits(edited), std::string(kDebian) + "[metrics]\n  address = \"127.0.0.1:1338\"\n");
}

TEST(EditContainerdConfig, DottedKeysAndInlineTablesAreEditedWhereTheyStand) {
  const std::string dotted =
      "version = 2\n[plugins]\n\"io.containerd.grpc.v1.cri\".containerd = { snapshotter = \"native\", "
      "disable_snapshot_annotations = true }\n";
  const auto edited = EditContainerdConfig(dotted, {});
  ASSERT_TRUE(edited) << edited.error().message;
  ExpectInstalled(ParseContainerdConfig(*edited).value());
  EXPECT_EQ(RemoveEdits(*edited), dotted);
}

TEST(EditContainerdConfig, AnInlineTableThatWouldHaveToGrowIsLeftToTheUser) {
  const std::string text = "version = 2\nproxy_plugins = { stargz = { type = \"snapshot\" } }\n";
  const auto edited = EditContainerdConfig(text, {});
  ASSERT_FALSE(edited);
  EXPECT_EQ(edited.error().code, Code::kFailedPrecondition);
  EXPECT_NE(edited.error().message.find("proxy_plugins.banyan.type"), std::string::npos) << edited.error().message;
}

TEST(EditContainerdConfig, RefusesWithAReasonWhatItMustNotTouch) {
  const auto why = [](const std::string& text) {
    const auto edited = EditContainerdConfig(text, {});
    return edited ? "edited:\n" + *edited : edited.error().message;
  };
  EXPECT_NE(why("disabled_plugins = [\"cri\"]\n").find("disabled_plugins"), std::string::npos);
  EXPECT_NE(why("[plugins.cri]\n").find("version 1"), std::string::npos);
  EXPECT_NE(why("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\n"
                "endpoint = [\"https://mirror.example\"]\n")
                .find("registry.mirrors"),
            std::string::npos);
  EXPECT_NE(why("version = 2\n[plugins\n").find("config.toml:2"), std::string::npos);
}

TEST(EditContainerdConfig, AHeaderInsideAStringIsNoHeader) {
  const std::string text =
      "version = 2\n[debug]\naddress = '''\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n'''\n";
  const auto edited = EditContainerdConfig(text, {});
  if (edited) {
    ExpectInstalled(ParseContainerdConfig(*edited).value());
    EXPECT_EQ(RemoveEdits(*edited), text);
  } else {
    EXPECT_EQ(edited.error().code, Code::kFailedPrecondition);
  }
}

TEST(EditHostsToml, PutsTheMirrorFirstAndOnlyOnce) {
  const std::string text =
      "server = \"https://r.example\"\n[host.\"https://cache.example\"]\n  capabilities = [\"pull\"]\n";
  const std::string edited = EditHostsToml(text, "127.0.0.1:5065").value();
  EXPECT_LT(edited.find("127.0.0.1:5065"), edited.find("cache.example"));
  EXPECT_LT(edited.find("server"), edited.find("127.0.0.1:5065"));
  EXPECT_TRUE(HostsTomlNames(edited, "127.0.0.1:5065"));
  EXPECT_EQ(EditHostsToml(edited, "127.0.0.1:5065").value(), edited);
  EXPECT_EQ(RemoveEdits(edited), text);
  const std::string own = "[host.\"http://127.0.0.1:5065\"]\n";
  EXPECT_EQ(EditHostsToml(own, "127.0.0.1:5065").value(), own);
}

class InstallTest : public testing::Test {
 protected:
  void SetUp() override {
    request_.root = directory_.path();
    config_ = request_.root + "/etc/containerd/config.toml";
    ASSERT_TRUE(MakeDirectories(request_.root + "/etc/containerd"));
  }
  void Install() {
    const auto plan = PlanInstall(request_);
    ASSERT_TRUE(plan) << plan.error().message;
    ASSERT_TRUE(ApplyPlan(*plan));
  }
  void Uninstall() {
    const auto plan = PlanUninstall(request_);
    ASSERT_TRUE(plan) << plan.error().message;
    ASSERT_TRUE(ApplyPlan(*plan));
  }

  const TempDir directory_ = std::move(TempDir::Make("banyan-install").value());
  InstallRequest request_;
  std::string config_;
};

TEST_F(InstallTest, InstallsKeepsACopyAndTheModeAndTakesAllBack) {
  ASSERT_TRUE(WriteFileDurably(config_, kDebian, 0600));
  Install();
  ExpectInstalled(ReadContainerdConfig(request_.config_path, request_.root).value());
  struct stat status {};
  ASSERT_EQ(::stat(config_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 0600U);
  EXPECT_EQ(ReadFile(config_ + ".before-banyan").value(), kDebian);
  const std::string hosts = request_.root + "/etc/containerd/certs.d/_default/hosts.toml";
  EXPECT_TRUE(HostsTomlNames(ReadFile(hosts).value(), request_.options.mirror));
  EXPECT_TRUE(PlanInstall(request_)->changes.empty());

  Uninstall();
  EXPECT_EQ(ReadFile(config_).value(), kDebian);
  EXPECT_FALSE(std::filesystem::exists(hosts));
  EXPECT_FALSE(std::filesystem::exists(config_ + ".before-banyan"));
  EXPECT_TRUE(PlanUninstall(request_)->changes.empty());
}

TEST_F(InstallTest, MakesAConfigurationWhereThereIsNoneAndRemovesIt) {
  request_.registries = {"registry.example:5000"};
  Install();
  const auto config = ReadContainerdConfig(request_.config_path, request_.root);
  EXPECT_EQ(config->version, 2);
  EXPECT_TRUE(std::filesystem::exists(request_.root + "/etc/containerd/certs.d/registry.example:5000/hosts.toml"));
  Uninstall();
  EXPECT_FALSE(std::filesystem::exists(config_));
}

TEST_F(InstallTest, AnImportedCriSectionIsNotHiddenSilently) {
  ASSERT_TRUE(WriteFileDurably(config_, "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n"));
  ASSERT_TRUE(MakeDirectories(request_.root + "/etc/containerd/conf.d"));
  ASSERT_TRUE(WriteFileDurably(request_.root + "/etc/containerd/conf.d/cri.toml", kKubernetes));
  EXPECT_EQ(ReadContainerdConfig(request_.config_path, request_.root)->snapshotter, "overlayfs");
  const auto plan = PlanInstall(request_);
  ASSERT_FALSE(plan);
  EXPECT_NE(plan.error().message.find("conf.d/cri.toml"), std::string::npos);
}

TEST_F(InstallTest, AHostThatLeavesTheDirectoryIsRefused) {
  request_.registries = {"../../etc"};
  EXPECT_EQ(PlanInstall(request_).error().code, Code::kInvalidArgument);
}

TEST_F(InstallTest, AFileThatChangedAfterThePlanIsNotOverwritten) {
  ASSERT_TRUE(WriteFileDurably(config_, kDebian));
  const auto plan = PlanInstall(request_);
  ASSERT_TRUE(WriteFileDurably(config_, kKubernetes));
  EXPECT_EQ(ApplyPlan(*plan).error().code, Code::kFailedPrecondition);
  EXPECT_EQ(ReadFile(config_).value(), kKubernetes);
}

}  // namespace
}  // namespace banyan::cli
