// Lazy images that a test makes up, and the fixture that most tests of the snapshotter stand on.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/file_io.h"
#include "common/mutex.h"
#include "snapshotter/snapshotter.h"

namespace banyan::snapshotter::testing {

// The chain ID of layer `layer` (from 1) of the image.
Digest ChainId(const std::string& image, uint32_t layer);

// The labels that containerd's CRI puts on the Prepare of a layer.
Labels CriLabels(const std::string& image, uint32_t layer);

// Internally synchronised. Mounts are a set of paths or, with `real_mounts`, read-only tmpfs with a file `marker`.
class FakeImages final : public LazyImages {
 public:
  explicit FakeImages(bool real_mounts = false) : real_mounts_(real_mounts) {}

  // The image's lowest `converted` layers of `layers` are served.
  void AddImage(const std::string& image, uint32_t layers, uint32_t converted);
  // Find and Mount of the image wait until it is set to false.
  void Hang(const std::string& image, bool hang);
  void FailMounts(bool fail);
  void FailUnmounts(bool fail);
  // As a reboot does.
  void ForgetMounts();

  // "find app/2", "warm app/3", "mount <directory>", "unmount <directory>", in the order of calls.
  std::vector<std::string> calls() const;
  size_t CountCalls(const std::string& beginning) const;
  std::set<std::string> mounted() const;
  // How many calls wait now.
  size_t hanging() const;

  std::optional<LazyChain> Find(const LayerRequest& request) override;
  void Warm(const LazyChain& chain, const std::string& directory) override;
  Result<std::vector<std::string>> Mount(const LazyChain& chain, const std::string& directory) override;
  Status Unmount(const std::string& directory) override;
  Usage UsageOf(const LazyChain& chain) override;

 private:
  struct Image {
    uint32_t layers = 0;
    uint32_t converted = 0;
  };
  void WaitWhileHung(const std::string& image, MutexLock& lock) BANYAN_REQUIRES(mutex_);

  const bool real_mounts_;
  mutable Mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Image> images_ BANYAN_GUARDED_BY(mutex_);
  std::set<std::string> hung_ BANYAN_GUARDED_BY(mutex_);
  size_t hanging_ BANYAN_GUARDED_BY(mutex_) = 0;
  bool fail_mounts_ BANYAN_GUARDED_BY(mutex_) = false;
  bool fail_unmounts_ BANYAN_GUARDED_BY(mutex_) = false;
  std::set<std::string> mounted_ BANYAN_GUARDED_BY(mutex_);
  std::vector<std::string> calls_ BANYAN_GUARDED_BY(mutex_);
};

// A snapshotter over a fresh root.
class Bench {
 public:
  explicit Bench(bool real_mounts = false);
  ~Bench();

  Snapshotter& operator*() { return *snapshotter_; }
  Snapshotter* operator->() { return snapshotter_.get(); }
  FakeImages& images() { return images_; }
  // <root>/snapshots
  std::string directory() const { return root_.path() + "/snapshots"; }
  const std::string& root() const { return root_.path(); }
  std::vector<std::string> prepared() const;

  // Ends the snapshotter and opens the state on disk anew; `between` runs while none is open.
  void Reopen(const std::function<void()>& between = [] {});

  // Prepare + Commit, as unpacking does; the committed name is "<image>@<layer>".
  std::string Unpack(const std::string& image, uint32_t layer, const std::string& parent);
  // The whole of containerd's work for one layer: Prepare with labels; claimed: what List finds; else Commit.
  std::string Pull(const std::string& image, uint32_t layer, const std::string& parent);
  // All layers of it; the topmost's name.
  std::string PullImage(const std::string& image, uint32_t layers);

 private:
  void Open();

  TempDir root_;
  FakeImages images_;
  mutable Mutex mutex_;
  std::vector<std::string> prepared_ BANYAN_GUARDED_BY(mutex_);
  std::unique_ptr<Snapshotter> snapshotter_;
};

}  // namespace banyan::snapshotter::testing
