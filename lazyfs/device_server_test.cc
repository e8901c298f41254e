#include "lazyfs/device_server.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <random>
#include <set>
#include <thread>

#include "common/file_io.h"
#include "lazyfs/mount_table.h"
#include "lazyfs/testing/fake_layer.h"
#include "lazyfs/testing/sandbox.h"

namespace banyan::lazyfs {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Eventually;
using testing::FakeLayer;
using testing::Noise;

class DeviceServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::EnterPrivateMounts()) GTEST_SKIP() << "needs root";
    dir_.emplace(*TempDir::Make("banyan-devices"));
    StartServer();
  }
  void TearDown() override {
    if (server_ == nullptr) return;
    EXPECT_TRUE(server_->Stop());
  }

  void StartServer() {
    DeviceServer::Options options;
    options.mount_dir = dir_->path() + "/mnt";
    auto server = DeviceServer::Start(options);
    ASSERT_TRUE(server) << server.error().message;
    server_ = *std::move(server);
  }

  std::shared_ptr<FakeLayer> Layer(const std::string& contents, FakeLayer::Options options = {}) {
    const std::string path = dir_->path() + "/data" + std::to_string(++files_);
    testing::WriteFileOrDie(path, contents);
    return *FakeLayer::OfFile(path, options);
  }

  std::string Add(const std::shared_ptr<FakeLayer>& layer) {
    const uint64_t node = 1 + ++nodes_;
    auto path = server_->AddDevice(node, "dev" + std::to_string(node), layer);
    EXPECT_TRUE(path) << path.error().message;
    return *path;
  }

  std::optional<TempDir> dir_;
  std::unique_ptr<DeviceServer> server_;
  int files_ = 0;
  uint64_t nodes_ = 0;
};

// Reads without the page cache's help, so that every read reaches the server.
std::string ReadAt(int fd, size_t offset, size_t length) {
  std::string out(length, '\0');
  size_t done = 0;
  while (done < length) {
    const ssize_t got = pread(fd, out.data() + done, length - done, static_cast<off_t>(offset + done));
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  out.resize(done);
  return out;
}

TEST_F(DeviceServerTest, GivesTheBytesOfTheLayer) {
  for (const bool memory : {false, true}) {
    const std::string contents = Noise(9 * kMiB, 1);
    const std::string path = Add(Layer(contents, {.memory = memory}));
    struct stat status {};
    ASSERT_EQ(stat(path.c_str(), &status), 0);
    EXPECT_EQ(static_cast<size_t>(status.st_size), contents.size());
    EXPECT_TRUE(*ReadFile(path) == contents) << "sequentially, memory " << memory;
  }
  EXPECT_GT(server_->counters().spliced_bytes, 8 * kMiB);
}

TEST_F(DeviceServerTest, RandomDirectAndMappedReadsAgree) {
  const std::string contents = Noise(8 * kMiB, 2);
  const std::string path = Add(Layer(contents));
  const UniqueFd direct(open(path.c_str(), O_RDONLY | O_DIRECT));
  const UniqueFd cached(open(path.c_str(), O_RDONLY));
  ASSERT_TRUE(direct && cached);
  std::mt19937 random(3);
  for (int i = 0; i < 300; ++i) {
    const size_t offset = random() % (contents.size() / 4096) * 4096;
    const size_t length = std::min<size_t>((1 + random() % 300) * 4096, contents.size() - offset);
    ASSERT_TRUE(ReadAt(direct.get(), offset, length) == contents.substr(offset, length)) << offset << " " << length;
    const size_t odd = random() % contents.size();
    ASSERT_TRUE(ReadAt(cached.get(), odd, 10'000) == contents.substr(odd, 10'000)) << odd;
  }
  void* map = mmap(nullptr, contents.size(), PROT_READ, MAP_PRIVATE, cached.get(), 0);
  ASSERT_NE(map, MAP_FAILED);
  EXPECT_EQ(std::memcmp(map, contents.data(), contents.size()), 0);
  munmap(map, contents.size());
}

TEST_F(DeviceServerTest, EndsWhereTheLayerEnds) {
  const std::string contents = Noise(kMiB + 123, 4);
  const UniqueFd fd(open(Add(Layer(contents)).c_str(), O_RDONLY));
  EXPECT_TRUE(ReadAt(fd.get(), kMiB, 4096) == contents.substr(kMiB));
  EXPECT_EQ(ReadAt(fd.get(), 2 * kMiB, 4096), "");
  EXPECT_EQ(*ReadFile(Add(Layer(""))), "");
}

TEST_F(DeviceServerTest, ReadsOfSlowLayersOverlap) {
  const std::string contents = Noise(4 * kMiB, 5);
  const std::string path = Add(Layer(contents, {.delay = milliseconds(50)}));
  std::vector<std::thread> readers;
  std::atomic<int> right = 0;
  const auto begin = std::chrono::steady_clock::now();
  for (size_t i = 0; i < 64; ++i) {
    readers.emplace_back([&, i] {
      const UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECT));
      if (ReadAt(fd.get(), i * 64 * kKiB, 64 * kKiB) == contents.substr(i * 64 * kKiB, 64 * kKiB)) ++right;
    });
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(right, 64);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(64 * 50 / 2));
}

TEST_F(DeviceServerTest, ListsAndForgetsDevices) {
  std::set<std::string> names;
  for (int i = 0; i < 50; ++i) names.insert(std::filesystem::path(Add(Layer(Noise(4096, 6)))).filename());
  std::set<std::string> listed;
  for (const auto& entry : std::filesystem::directory_iterator(dir_->path() + "/mnt")) {
    listed.insert(entry.path().filename());
  }
  EXPECT_EQ(listed, names);
  EXPECT_TRUE(server_->RemoveDevice("dev7"));
  EXPECT_NE(access((dir_->path() + "/mnt/dev7").c_str(), F_OK), 0);
  EXPECT_EQ(server_->RemoveDevice("dev7").error().code, Code::kNotFound);
}

TEST_F(DeviceServerTest, RefusesNamesAndNodesInUse) {
  const auto layer = Layer("x");
  Add(layer);
  EXPECT_EQ(server_->AddDevice(2, "other", layer).error().code, Code::kAlreadyExists);
  EXPECT_EQ(server_->AddDevice(99, "dev2", layer).error().code, Code::kAlreadyExists);
  for (const char* name : {"", ".", "..", "a/b"}) {
    EXPECT_EQ(server_->AddDevice(99, name, layer).error().code, Code::kInvalidArgument) << name;
  }
  EXPECT_EQ(server_->AddDevice(1, "root", layer).error().code, Code::kInvalidArgument);
}

TEST_F(DeviceServerTest, IsReadOnly) {
  const std::string path = Add(Layer(Noise(4096, 7)));
  EXPECT_LT(open(path.c_str(), O_RDWR), 0);
  EXPECT_EQ(errno, EROFS);
  EXPECT_NE(unlink(path.c_str()), 0);
}

TEST_F(DeviceServerTest, AHungLayerDelaysNoOther) {
  const auto hung = Layer(Noise(8 * kMiB, 8), {.hang = true});
  const std::string hung_path = Add(hung);
  std::vector<std::thread> readers;
  std::atomic<int> failed = 0;
  for (size_t i = 0; i < 500; ++i) {
    readers.emplace_back([&, i] {
      const UniqueFd fd(open(hung_path.c_str(), O_RDONLY | O_DIRECT));
      if (ReadAt(fd.get(), i * 4096, 4096).empty()) ++failed;
    });
  }
  ASSERT_TRUE(Eventually([&] { return hung->outstanding() >= 500; }, seconds(20))) << hung->outstanding();
  const std::string contents = Noise(4 * kMiB, 9);
  const std::string path = Add(Layer(contents));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(*ReadFile(path) == contents);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(1));
  EXPECT_TRUE(server_->RemoveDevice(std::filesystem::path(hung_path).filename()));
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(failed, 500);
}

TEST_F(DeviceServerTest, AKilledReaderDiesAtOnce) {
  const auto hung = Layer(Noise(kMiB, 10), {.hang = true});
  const std::string path = Add(hung);
  const pid_t pid = fork();
  if (pid == 0) {
    static char buffer[4096];
    const int fd = open(path.c_str(), O_RDONLY);
    _exit(read(fd, buffer, sizeof(buffer)) >= 0 ? 0 : 1);
  }
  EXPECT_TRUE(Eventually([&] { return hung->outstanding() > 0; }, seconds(5)));
  kill(pid, SIGKILL);
  EXPECT_TRUE(Eventually([&] { return waitpid(pid, nullptr, WNOHANG) == pid; }, seconds(2)));
}

TEST_F(DeviceServerTest, StopsWithReadsParkedAndFilesOpen) {
  const auto hung = Layer(Noise(kMiB, 11), {.hang = true});
  const std::string path = Add(hung);
  const UniqueFd open_file(open(path.c_str(), O_RDONLY));
  std::thread reader([&] { EXPECT_EQ(ReadAt(open_file.get(), 0, 4096), ""); });
  ASSERT_TRUE(Eventually([&] { return hung->outstanding() > 0; }, seconds(5)));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(server_->Stop());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(5));
  reader.join();
  EXPECT_FALSE((*FindMount(dir_->path() + "/mnt")).has_value());
}

TEST_F(DeviceServerTest, WillNotMountOverAnother) {
  DeviceServer::Options options;
  options.mount_dir = dir_->path() + "/mnt";
  EXPECT_EQ(DeviceServer::Start(options).error().code, Code::kFailedPrecondition);
}

}  // namespace
}  // namespace banyan::lazyfs
