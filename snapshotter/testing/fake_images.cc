#include "snapshotter/testing/fake_images.h"

#include <fcntl.h>
#include <sys/mount.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

namespace banyan::snapshotter::testing {

namespace {

template <typename T>
T OrDie(Result<T> result) {
  if constexpr (std::is_void_v<T>) {
    if (result) return;
  } else {
    if (result) return std::move(*result);
  }
  fmt::print(stderr, "{}\n", result.error().message);
  std::abort();
}

}  // namespace

Digest ChainId(const std::string& image, uint32_t layer) { return Digest::Of(fmt::format("{}/{}", image, layer)); }

Labels CriLabels(const std::string& image, uint32_t layer) {
  return {{std::string(kReferenceLabel), ChainId(image, layer).ToString()},
          {"containerd.io/snapshot/cri.image-ref", image},
          {"containerd.io/snapshot/cri.manifest-digest", Digest::Of("manifest of " + image).ToString()}};
}

void FakeImages::AddImage(const std::string& image, uint32_t layers, uint32_t converted) {
  MutexLock lock(mutex_);
  images_[image] = {layers, converted};
}

void FakeImages::Hang(const std::string& image, bool hang) {
  MutexLock lock(mutex_);
  if (hang) {
    hung_.insert(image);
  } else {
    hung_.erase(image);
  }
  changed_.notify_all();
}

void FakeImages::FailMounts(bool fail) {
  MutexLock lock(mutex_);
  fail_mounts_ = fail;
}

void FakeImages::FailUnmounts(bool fail) {
  MutexLock lock(mutex_);
  fail_unmounts_ = fail;
}

void FakeImages::ForgetMounts() {
  MutexLock lock(mutex_);
  for (const std::string& directory : mounted_) {
    if (real_mounts_) ::umount2(directory.c_str(), MNT_DETACH);
  }
  mounted_.clear();
}

std::vector<std::string> FakeImages::calls() const {
  MutexLock lock(mutex_);
  return calls_;
}

size_t FakeImages::CountCalls(const std::string& beginning) const {
  MutexLock lock(mutex_);
  return static_cast<size_t>(std::count_if(calls_.begin(), calls_.end(),
                                           [&](const std::string& call) { return call.starts_with(beginning); }));
}

std::set<std::string> FakeImages::mounted() const {
  MutexLock lock(mutex_);
  return mounted_;
}

size_t FakeImages::hanging() const {
  MutexLock lock(mutex_);
  return hanging_;
}

void FakeImages::WaitWhileHung(const std::string& image, MutexLock& lock) {
  ++hanging_;
  while (hung_.contains(image)) lock.Wait(changed_);
  --hanging_;
}

std::optional<LazyChain> FakeImages::Find(const LayerRequest& request) {
  MutexLock lock(mutex_);
  const std::string& name = request.image_reference;
  const auto image = images_.find(name);
  uint32_t layer = 1;
  while (image != images_.end() && layer < image->second.layers && ChainId(name, layer) != request.chain_id) ++layer;
  calls_.push_back(fmt::format("find {}/{}", name, layer));
  WaitWhileHung(name, lock);
  if (image == images_.end() || layer > image->second.converted) return std::nullopt;
  return LazyChain{.image_reference = name,
                   .manifest_digest = request.manifest_digest.value_or(Digest::Of("manifest of " + name)),
                   .artifact_digest = Digest::Of("artifact of " + name),
                   .map_digest = Digest::Of("map of " + name),
                   .chain_id = ChainId(name, layer),
                   .layers = layer,
                   .image_layers = image->second.layers};
}

void FakeImages::Warm(const LazyChain& chain, const std::string& /*directory*/) {
  MutexLock lock(mutex_);
  calls_.push_back(fmt::format("warm {}/{}", chain.image_reference, chain.layers));
}

Result<std::vector<std::string>> FakeImages::Mount(const LazyChain& chain, const std::string& directory) {
  MutexLock lock(mutex_);
  calls_.push_back("mount " + directory);
  WaitWhileHung(chain.image_reference, lock);
  if (fail_mounts_) return Fail(Code::kDeadlineExceeded, "the registry does not answer");
  if (mounted_.insert(directory).second && real_mounts_) {
    if (::mount("fake", directory.c_str(), "tmpfs", 0, "size=1m,mode=0751") != 0) {
      return FailErrno("mount " + directory, errno);
    }
    BANYAN_TRY(OpenFile(directory + "/marker", O_WRONLY | O_CREAT));
    if (::mount("", directory.c_str(), "", MS_REMOUNT | MS_RDONLY, "") != 0) {
      return FailErrno("remount " + directory, errno);
    }
  }
  return std::vector<std::string>{directory};
}

Status FakeImages::Unmount(const std::string& directory) {
  MutexLock lock(mutex_);
  calls_.push_back("unmount " + directory);
  if (fail_unmounts_) return Fail(Code::kDeadlineExceeded, "the kernel still waits");
  if (mounted_.erase(directory) > 0 && real_mounts_ && ::umount2(directory.c_str(), MNT_DETACH) != 0) {
    return FailErrno("unmount " + directory, errno);
  }
  return {};
}

Usage FakeImages::UsageOf(const LazyChain& chain) { return {chain.layers * 1000ull, chain.layers}; }

Bench::Bench(bool real_mounts) : root_(OrDie(TempDir::Make("snap"))), images_(real_mounts) { Open(); }

Bench::~Bench() {
  snapshotter_.reset();
  images_.ForgetMounts();
}

void Bench::Open() {
  snapshotter_ =
      OrDie(Snapshotter::Open({.root = root_.path(), .images = &images_, .on_prepared = [this](const auto& d) {
                                 MutexLock lock(mutex_);
                                 prepared_.push_back(d);
                               }}));
}

void Bench::Reopen(const std::function<void()>& between) {
  snapshotter_.reset();
  between();
  Open();
}

std::vector<std::string> Bench::prepared() const {
  MutexLock lock(mutex_);
  return prepared_;
}

std::string Bench::Unpack(const std::string& image, uint32_t layer, const std::string& parent) {
  static std::atomic<int> keys = 0;
  const std::string key = fmt::format("k8s.io/{}/extract {}", ++keys, layer);
  const std::string name = fmt::format("{}@{}", image, layer);
  OrDie(snapshotter_->Prepare(key, parent, {}));
  OrDie(snapshotter_->Commit(name, key, CriLabels(image, layer)));
  return name;
}

std::string Bench::Pull(const std::string& image, uint32_t layer, const std::string& parent) {
  static std::atomic<int> keys = 0;
  const std::string key = fmt::format("k8s.io/{}/extract-{} {}", ++keys, image, layer);
  const Labels labels = CriLabels(image, layer);
  const auto mounts = snapshotter_->Prepare(key, parent, labels);
  if (mounts) {
    const std::string name = fmt::format("k8s.io/{}/{}", ++keys, ChainId(image, layer).ToString());
    OrDie(snapshotter_->Commit(name, key, labels));
    return name;
  }
  if (mounts.error().code != Code::kAlreadyExists) OrDie(mounts);
  const auto found = OrDie(snapshotter_->List({fmt::format("labels.\"containerd.io/snapshot.ref\"=={},parent==\"{}\"",
                                                           ChainId(image, layer).ToString(), parent)}));
  return found.empty() ? "" : found.front().name;
}

std::string Bench::PullImage(const std::string& image, uint32_t layers) {
  std::string parent;
  for (uint32_t layer = 1; layer <= layers; ++layer) parent = Pull(image, layer, parent);
  return parent;
}

}  // namespace banyan::snapshotter::testing
