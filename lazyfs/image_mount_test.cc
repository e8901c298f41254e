#include "lazyfs/image_mount.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "common/file_io.h"
#include "common/units.h"
#include "lazyfs/device_server.h"
#include "lazyfs/mount_table.h"
#include "lazyfs/testing/fake_layer.h"
#include "lazyfs/testing/sandbox.h"
#include "lazyfs/testing/test_image.h"
#include "lazyfs/tree_server.h"

namespace banyan::lazyfs {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Eventually;
using testing::FakeLayer;
using testing::Noise;

class ImageMountTest : public ::testing::TestWithParam<Form> {
 protected:
  void SetUp() override {
    if (!testing::EnterPrivateMounts()) GTEST_SKIP() << "needs root";
    dir_.emplace(*TempDir::Make("banyan-image"));
    root_ = dir_->path();
    fs::create_directories(root_ + "/image");
    MakeLayers();
    auto image = testing::BuildTestImage({root_ + "/low", root_ + "/high"}, root_);
    ASSERT_TRUE(image) << image.error().message;
    image_ = *std::move(image);
    DeviceServer::Options options;
    options.mount_dir = root_ + "/devices";
    auto server = DeviceServer::Start(options);
    ASSERT_TRUE(server) << server.error().message;
    server_ = *std::move(server);
  }
  void TearDown() override {
    if (server_ == nullptr) return;
    EXPECT_TRUE(UmountTarget(root_ + "/image"));
    EXPECT_TRUE(server_->Stop());
  }

  void MakeLayers() {
    fs::create_directories(root_ + "/low/usr/lib/deep/er");
    fs::create_directories(root_ + "/high/usr/lib");
    for (int i = 0; i < 300; ++i) {
      testing::WriteFileOrDie(root_ + "/low/usr/lib/file-with-a-longish-name-" + std::to_string(i),
                              Noise(static_cast<size_t>(i) * 97, static_cast<uint64_t>(i)));
    }
    testing::WriteFileOrDie(root_ + "/high/usr/big", Noise(5 * kMiB + 17, 77));
    testing::WriteFileOrDie(root_ + "/high/setid", "x");
    EXPECT_EQ(chmod((root_ + "/high/setid").c_str(), 04755), 0);
    EXPECT_EQ(chown((root_ + "/high/usr/big").c_str(), 70000, 80000), 0);
    EXPECT_EQ(symlink("../usr/big", (root_ + "/high/usr/lib/link").c_str()), 0);
    EXPECT_EQ(link((root_ + "/high/usr/big").c_str(), (root_ + "/high/hard").c_str()), 0);
    EXPECT_EQ(mkfifo((root_ + "/high/fifo").c_str(), 0600), 0);
    EXPECT_EQ(mknod((root_ + "/high/null").c_str(), S_IFCHR | 0666, makedev(1, 3)), 0);
    (void)setxattr((root_ + "/high/setid").c_str(), "user.note", "value", 5, 0);
  }

  MountSpec Spec(FakeLayer::Options layer_options = {}) {
    MountSpec spec;
    spec.metadata_path = image_.metadata_path;
    for (size_t i = 0; i < image_.device_paths.size(); ++i) {
      layers_.push_back(*FakeLayer::OfFile(image_.device_paths[i], layer_options));
      spec.devices.push_back({*server_->AddDevice(2 + i, "dev" + std::to_string(i), layers_.back()),
                              image_.device_bytes[i], layers_.back()});
    }
    spec.target = root_ + "/image";
    spec.form = GetParam();
    return spec;
  }

  // Every name of the layer's directory, seen through the mount.
  void Compare(const std::string& layer) {
    for (const auto& entry : fs::recursive_directory_iterator(root_ + "/" + layer)) {
      const std::string path = entry.path();
      const std::string seen = root_ + "/image" + path.substr(root_.size() + 1 + layer.size());
      struct stat a {};
      struct stat b {};
      ASSERT_EQ(lstat(path.c_str(), &a), 0);
      ASSERT_EQ(lstat(seen.c_str(), &b), 0) << seen;
      EXPECT_EQ(a.st_mode, b.st_mode) << seen;
      EXPECT_EQ(a.st_uid, b.st_uid) << seen;
      EXPECT_EQ(a.st_gid, b.st_gid) << seen;
      EXPECT_EQ(a.st_rdev, b.st_rdev) << seen;
      if (S_ISDIR(a.st_mode)) continue;
      EXPECT_EQ(a.st_nlink, b.st_nlink) << seen;
      EXPECT_EQ(a.st_size, b.st_size) << seen;
      EXPECT_EQ(a.st_mtim.tv_sec, b.st_mtim.tv_sec) << seen;
      EXPECT_EQ(a.st_mtim.tv_nsec, b.st_mtim.tv_nsec) << seen;
      if (S_ISLNK(a.st_mode)) {
        EXPECT_EQ(fs::read_symlink(path), fs::read_symlink(seen));
      }
      if (S_ISREG(a.st_mode)) {
        EXPECT_TRUE(*ReadFile(path) == *ReadFile(seen)) << seen;
      }
    }
  }

  std::optional<TempDir> dir_;
  std::string root_;
  testing::TestImage image_;
  std::unique_ptr<DeviceServer> server_;
  std::vector<std::shared_ptr<FakeLayer>> layers_;
};

TEST_P(ImageMountTest, ShowsWhatTheLayersHold) {
  auto mounted = MountImage(Spec());
  ASSERT_TRUE(mounted) << mounted.error().message;
  EXPECT_EQ(mounted->form, GetParam() == Form::kAuto ? Form::kFile : GetParam());
  Compare("low");
  Compare("high");
  EXPECT_EQ(std::distance(fs::directory_iterator(root_ + "/image/usr/lib"), fs::directory_iterator()), 302);
  EXPECT_NE(access((root_ + "/image/absent").c_str(), F_OK), 0);
  char value[16] = {};
  if (getxattr((root_ + "/high/setid").c_str(), "user.note", value, sizeof(value)) == 5) {
    EXPECT_EQ(getxattr((root_ + "/image/setid").c_str(), "user.note", value, sizeof(value)), 5);
    EXPECT_EQ(std::string(value), "value");
  }
  EXPECT_LT(open((root_ + "/image/new").c_str(), O_CREAT | O_WRONLY, 0600), 0);
  EXPECT_EQ(errno, EROFS);
  EXPECT_TRUE(UmountImage(*mounted));
  EXPECT_FALSE((*FindMount(root_ + "/image")).has_value());
}

TEST_P(ImageMountTest, TakesCompleteLocalDevices) {
  MountSpec spec = Spec();
  for (size_t i = 0; i < spec.devices.size(); ++i)
    spec.devices[i] = {image_.device_paths[i], image_.device_bytes[i], nullptr};
  auto mounted = MountImage(spec);
  ASSERT_TRUE(mounted) << mounted.error().message;
  Compare("high");
  EXPECT_TRUE(UmountImage(*mounted));
}

TEST_P(ImageMountTest, AdoptsWhatIsMounted) {
  if (GetParam() == Form::kTree) return;  // adopted through its keeper
  const MountSpec spec = Spec();
  ASSERT_TRUE(MountImage(spec));
  auto again = MountImage(spec);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_TRUE(again->adopted);
  MountSpec other = spec;
  other.metadata_path = image_.device_paths[0];
  EXPECT_EQ(MountImage(other).error().code, Code::kFailedPrecondition);
  EXPECT_TRUE(UmountImage(*again));
  EXPECT_TRUE(UmountImage(*again)) << "nothing is mounted";
}

TEST_P(ImageMountTest, RefusesDevicesThatDoNotFit) {
  MountSpec swapped = Spec();
  std::swap(swapped.devices[0], swapped.devices[1]);
  EXPECT_EQ(MountImage(swapped).error().code, Code::kInvalidArgument);
  MountSpec missing = swapped;
  std::swap(missing.devices[0], missing.devices[1]);
  missing.devices.pop_back();
  EXPECT_EQ(MountImage(missing).error().code, Code::kInvalidArgument);
  EXPECT_FALSE((*FindMount(root_ + "/image")).has_value());
}

TEST_P(ImageMountTest, AHungImageUnmountsInTime) {
  auto mounted = MountImage(Spec({.hang = true}));
  ASSERT_TRUE(mounted) << mounted.error().message;
  std::vector<std::thread> readers;
  for (int i = 0; i < 100; ++i) {
    readers.emplace_back([&, i] {
      char byte;
      const UniqueFd fd(open((root_ + "/image/usr/big").c_str(), O_RDONLY));
      EXPECT_NE(pread(fd.get(), &byte, 1, i * 50'000), 1);
    });
  }
  ASSERT_TRUE(Eventually([&] { return layers_[1]->outstanding() > 0; }, seconds(10)));
  std::this_thread::sleep_for(milliseconds(100));
  UmountOptions options;
  options.cancel.assign(layers_.begin(), layers_.end());
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(UmountImage(*mounted, options));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(5));
  for (std::thread& reader : readers) reader.join();
}

INSTANTIATE_TEST_SUITE_P(Forms, ImageMountTest, ::testing::Values(Form::kAuto, Form::kFile, Form::kLoop, Form::kTree),
                         [](const auto& test) { return std::string(FormName(test.param)); });

}  // namespace
}  // namespace banyan::lazyfs
