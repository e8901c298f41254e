// The server of a mount is killed in the middle of reads, and no reader notices more than a pause.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <thread>

#include "common/digest.h"
#include "common/file_io.h"
#include "common/units.h"
#include "lazyfs/image_mount.h"
#include "lazyfs/testing/sandbox.h"
#include "lazyfs/testing/test_image.h"

namespace banyan::lazyfs {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Eventually;
using testing::Noise;

constexpr int kReaders = 256;
constexpr size_t kFileBytes = 128 * kKiB;
constexpr size_t kMappedBytes = 6 * kMiB;

struct Case {
  Form form;
  bool resend;
};

class TakeoverTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!testing::EnterPrivateMounts()) GTEST_SKIP() << "needs root";
    dir_.emplace(*TempDir::Make("banyan-takeover"));
    root_ = dir_->path();
    MakeImage();
    StartSupervised();
  }

  void TearDown() override {
    if (keeper_ <= 0) return;
    EXPECT_TRUE(UmountTarget(root_ + "/image"));
    kill(keeper_, SIGTERM);
    int status = 0;
    EXPECT_TRUE(Eventually([&] { return waitpid(keeper_, &status, WNOHANG) == keeper_; }, seconds(10)));
    EXPECT_EQ(WEXITSTATUS(status), 0);
  }

  void MakeImage() {
    fs::create_directories(root_ + "/low/many");
    fs::create_directories(root_ + "/high/bin");
    for (int i = 0; i < kReaders; ++i) {
      testing::WriteFileOrDie(root_ + "/low/many/" + std::to_string(i), Noise(kFileBytes, static_cast<uint64_t>(i)));
    }
    testing::WriteFileOrDie(root_ + "/high/mapped", Noise(kMappedBytes, 1000));
    fs::copy_file(BANYAN_SLOW_SERVER, root_ + "/high/bin/sum");
    fs::create_directories(root_ + "/image");
    auto image = testing::BuildTestImage({root_ + "/low", root_ + "/high"}, root_);
    ASSERT_TRUE(image) << image.error().message;
    image_ = *std::move(image);
  }

  void StartSupervised() {
    keeper_ = fork();
    if (keeper_ == 0) {
      setenv("BANYAN_FUSE_RESEND", GetParam().resend ? "1" : "0", 1);
      setenv("BANYAN_LOG", "info", 1);
      const std::string socket = root_ + "/keeper";
      const std::string pid_file = root_ + "/pid";
      const std::string mount_dir = root_ + "/devices";
      execl(BANYAN_KEEPER, "banyan-keeper", "--socket", socket.c_str(), "--supervise", "--", BANYAN_SLOW_SERVER,
            pid_file.c_str(), mount_dir.c_str(), "60000", image_.device_paths[0].c_str(),
            image_.device_paths[1].c_str(), nullptr);
      _exit(127);
    }
    ASSERT_TRUE(Eventually([&] { return ServerPid() > 0; }, seconds(20)));
  }

  pid_t ServerPid() {
    auto text = ReadFile(root_ + "/pid");
    return text && !text->empty() ? std::stoi(*text) : 0;
  }

  void KillServer() {
    const pid_t old = ServerPid();
    ASSERT_EQ(kill(old, SIGKILL), 0);
    ASSERT_TRUE(Eventually([&] { return ServerPid() != old; }, seconds(20)));
  }

  void Mount() {
    MountSpec spec;
    spec.metadata_path = image_.metadata_path;
    for (size_t i = 0; i < image_.device_paths.size(); ++i) {
      spec.devices.push_back({root_ + "/devices/dev" + std::to_string(i), image_.device_bytes[i], nullptr});
    }
    spec.target = root_ + "/image";
    spec.form = GetParam().form;
    auto mounted = MountImage(spec);
    ASSERT_TRUE(mounted) << mounted.error().message;
  }

  std::optional<TempDir> dir_;
  std::string root_;
  testing::TestImage image_;
  pid_t keeper_ = 0;
};

TEST_P(TakeoverTest, EveryReadEndsWithRightBytes) {
  ASSERT_NO_FATAL_FAILURE(Mount());
  std::atomic<int> right = 0;
  std::atomic<int> started = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kReaders; ++i) {
    threads.emplace_back([&, i] {
      ++started;
      const auto contents = ReadFile(root_ + "/image/many/" + std::to_string(i));
      if (contents && *contents == Noise(kFileBytes, static_cast<uint64_t>(i))) ++right;
    });
  }
  threads.emplace_back([&] {
    const UniqueFd fd(open((root_ + "/image/mapped").c_str(), O_RDONLY));
    const void* map = mmap(nullptr, kMappedBytes, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (map != MAP_FAILED && Noise(kMappedBytes, 1000) == std::string(static_cast<const char*>(map), kMappedBytes))
      ++right;
  });
  threads.emplace_back([&] {
    const std::string program = root_ + "/image/bin/sum";
    std::FILE* pipe = popen((program + " --sum " + program).c_str(), "r");
    char line[128] = {};
    const bool read = pipe != nullptr && std::fgets(line, sizeof(line), pipe) != nullptr;
    const bool ended = pipe != nullptr && pclose(pipe) == 0;
    if (read && ended && std::string(line) == Digest::Of(*ReadFile(BANYAN_SLOW_SERVER)).Hex() + "\n") ++right;
  });
  while (started < kReaders) std::this_thread::sleep_for(milliseconds(1));
  for (int round = 0; round < 2; ++round) {
    std::this_thread::sleep_for(milliseconds(30));
    KillServer();
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, kReaders + 2);
}

INSTANTIATE_TEST_SUITE_P(All, TakeoverTest,
                         ::testing::Values(Case{Form::kFile, true}, Case{Form::kFile, false}, Case{Form::kLoop, true},
                                           Case{Form::kLoop, false}),
                         [](const auto& test) {
                           return std::string(FormName(test.param.form)) + (test.param.resend ? "_resend" : "_journal");
                         });

}  // namespace
}  // namespace banyan::lazyfs
