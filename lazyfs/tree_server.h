// An image as a FUSE directory tree, for kernels without EROFS: the same metadata file, read by our own EROFS reader.
//
// Slower than EROFS (every name and inode the kernel does not remember is a request) but the same view. Node ids are
// EROFS's own inode numbers and nothing is remembered of handles, so it survives its process as the device server does.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/result.h"
#include "fetch/lazy_layer.h"
#include "lazyfs/fuse_session.h"

namespace banyan::lazyfs {

// Internally synchronised.
class TreeServer {
 public:
  struct Options {
    std::string metadata_path;  // EROFS metadata with a device table
    // In the order of the device table.
    std::vector<std::shared_ptr<fetch::LazyLayer>> layers;
    std::string mount_dir;
    std::string selinux_context;
    SessionKeeper* keeper = nullptr;  // borrowed; outlives the server
    std::string session_name;
    int worker_threads = 2;
    uint32_t max_background = 8192;
  };

  // Mounts the tree, or takes over the session of that name. kDataLoss when the metadata are damaged.
  static Result<std::unique_ptr<TreeServer>> Start(Options options);
  // Detaches if there is a keeper, else unmounts.
  ~TreeServer();

  bool taken_over() const;
  void Detach();
  Status Stop();
  FuseSessionCounters counters() const;

 private:
  class Impl;
  explicit TreeServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A complete local file as a layer: reads are answered at once.
Result<std::shared_ptr<fetch::LazyLayer>> OpenLocalLayer(const std::string& path);

}  // namespace banyan::lazyfs
