#include "cli/doctor.h"

#include <unistd.h>

#include <algorithm>

#include <gtest/gtest.h>

#include "common/file_io.h"

namespace banyan::cli {
namespace {

const Check* Find(const std::vector<Check>& checks, std::string_view name) {
  const auto found = std::find_if(checks.begin(), checks.end(), [&](const Check& check) { return check.name == name; });
  return found == checks.end() ? nullptr : &*found;
}
Verdict VerdictOf(const std::vector<Check>& checks, std::string_view name) {
  const Check* check = Find(checks, name);
  EXPECT_NE(check, nullptr) << name;
  return check != nullptr ? check->verdict : Verdict::kFail;
}

TEST(PropagationOf, TakesTheMountThatThePathIsOn) {
  const std::string mountinfo =
      "21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
      "30 21 0:30 / /var/lib/banyan rw master:1 - tmpfs tmpfs rw\n"
      "31 21 0:31 / /var/lib/ban rw - tmpfs tmpfs rw\n"
      "32 30 0:32 / /var/lib/banyan/snapshots rw shared:7 master:1 - tmpfs tmpfs rw\n";
  EXPECT_EQ(PropagationOf(mountinfo, "/srv"), "shared");
  EXPECT_EQ(PropagationOf(mountinfo, "/var/lib/banyan"), "slave");
  EXPECT_EQ(PropagationOf(mountinfo, "/var/lib/ban/x"), "private");
  EXPECT_EQ(PropagationOf(mountinfo, "/var/lib/banyan/snapshots/1"), "shared");
  EXPECT_EQ(PropagationOf("", "/"), "unknown");
}

TEST(CheckContainerdConfig, WhatInstallWritesPasses) {
  const auto directory = TempDir::Make("banyan-doctor");
  const std::string certs = directory->path() + "/certs.d/_default";
  ASSERT_TRUE(MakeDirectories(certs));
  ASSERT_TRUE(WriteFileDurably(certs + "/hosts.toml", EditHostsToml("", "127.0.0.1:5065").value()));
  ContainerdConfig config = ParseContainerdConfig(EditContainerdConfig("", {}).value()).value();
  config.config_path = directory->path() + "/certs.d";
  proto::agent::InfoReply agent;
  agent.set_snapshotter_socket("/run/banyan/snapshotter.sock");
  agent.set_mirror_address("127.0.0.1:5065");
  for (const Check& check : CheckContainerdConfig(config, agent)) {
    EXPECT_EQ(check.verdict, Verdict::kOk) << check.name << ": " << check.found;
  }
  agent.set_snapshotter_socket("/run/other.sock");
  agent.set_mirror_address("127.0.0.1:1");
  const auto checks = CheckContainerdConfig(config, agent);
  EXPECT_EQ(VerdictOf(checks, "proxy plugin"), Verdict::kFail);
  EXPECT_EQ(VerdictOf(checks, "hosts.toml"), Verdict::kWarn);
}

TEST(CheckContainerdConfig, NamesWhatIsAmissAndHowToMendIt) {
  const auto checks = CheckContainerdConfig(ParseContainerdConfig("version = 2\ndisabled_plugins = [\"cri\"]\n"), {});
  for (const char* name : {"CRI", "proxy plugin", "snapshotter of CRI", "snapshot annotations"}) {
    EXPECT_EQ(VerdictOf(checks, name), Verdict::kFail) << name;
    EXPECT_FALSE(Find(checks, name)->remedy.empty()) << name;
  }
  EXPECT_EQ(VerdictOf(CheckContainerdConfig(Fail(Code::kNotFound, "gone"), {}), "containerd's configuration"),
            Verdict::kFail);
}

TEST(CheckRunningContainerd, SeesOldVersionsAndAStaleConfiguration) {
  const Result<ContainerdConfig> config = ParseContainerdConfig(EditContainerdConfig("", {}).value());
  CriConfig running;
  running.snapshotter = "banyan";
  running.disable_snapshot_annotations = false;
  const auto verdict = [&](const char* version, const char* check) {
    return VerdictOf(CheckRunningContainerd(CriVersion{"containerd", version}, running, config), check);
  };
  EXPECT_EQ(verdict("1.6.20~ds1", "containerd"), Verdict::kOk);
  EXPECT_EQ(verdict("v2.1.0", "containerd"), Verdict::kOk);
  EXPECT_EQ(verdict("1.5.9", "containerd"), Verdict::kFail);
  EXPECT_EQ(verdict("1.6.20", "containerd's CRI"), Verdict::kOk);
  running.snapshotter = "overlayfs";
  EXPECT_EQ(verdict("1.6.20", "containerd's CRI"), Verdict::kFail);
}

TEST(ParseCriConfig, TakesAnyBytes) {
  EXPECT_EQ(ParseCriConfig(R"({"containerd":{"snapshotter":"banyan","disableSnapshotAnnotations":true}})").snapshotter,
            "banyan");
  for (const char* text : {"", "[]", "{", "{\"containerd\":3}", "{\"containerd\":{\"snapshotter\":[]}}", "null"}) {
    EXPECT_EQ(ParseCriConfig(text).snapshotter, "") << text;
  }
}

TEST(CheckKernel, FindsAFormByTryingAndLeavesNothing) {
  const auto directory = TempDir::Make("banyan-doctor");
  const auto checks = CheckKernel(directory->path());
  if (::geteuid() != 0) {
    EXPECT_EQ(VerdictOf(checks, "EROFS"), Verdict::kWarn);
    return;
  }
  EXPECT_FALSE(Find(checks, "EROFS")->found.empty());
  EXPECT_EQ(Find(checks, "EROFS")->found.find("not tried"), std::string::npos) << Find(checks, "EROFS")->found;
  EXPECT_EQ(ReadFile("/proc/self/mountinfo")->find(directory->path()), std::string::npos);
}

TEST(CheckMirror, AnUnreachableMirrorFails) {
  EXPECT_EQ(CheckMirror("127.0.0.1:1").verdict, Verdict::kFail);
  EXPECT_EQ(CheckMirror("nonsense").verdict, Verdict::kFail);
  EXPECT_EQ(CheckMirror("").verdict, Verdict::kWarn);
}

}  // namespace
}  // namespace banyan::cli
