// The node's one FUSE session: a directory of read-only device files, one a layer in use, that EROFS mounts read from.
//
// A device file's bytes come from a LazyLayer and are spliced to the kernel when they are there; readers of a layer
// whose source hangs wait without holding a thread, and other layers do not notice. Node ids are the caller's and
// handles carry no state, so that a successor process can answer requests that were made to its predecessor.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "common/result.h"
#include "fetch/lazy_layer.h"
#include "lazyfs/fuse_session.h"

namespace banyan::lazyfs {

// Internally synchronised.
class DeviceServer {
 public:
  struct Options {
    std::string mount_dir;  // exists, or is made
    // Borrowed; outlives the server. Null: without a keeper the mounts die with the process.
    SessionKeeper* keeper = nullptr;
    std::string session_name = "devices";
    int worker_threads = 2;
    uint32_t max_background = 8192;
    bool resend = true;
    // After a takeover, requests for nodes that have not been added yet wait until AddDevice(), RestoreDone(), or this
    // long.
    std::chrono::milliseconds restore_grace{60'000};
    std::chrono::milliseconds takeover_wait{10'000};
  };

  // Mounts at mount_dir, or takes over what a predecessor mounted there; then add the devices it had, under the same
  // node ids, and call RestoreDone().
  static Result<std::unique_ptr<DeviceServer>> Start(Options options);
  // Detaches if there is a keeper (the mount waits for a successor), else stops.
  ~DeviceServer();

  bool taken_over() const;

  // Exposes `layer` as <mount_dir>/<name> and returns that path. `node_id` (≥ 2) is chosen by the caller, belongs to
  // the same content for ever (also across restarts) and must not be in use: kAlreadyExists; so for the name. Names are
  // single path components of at most 255 bytes.
  Result<std::string> AddDevice(uint64_t node_id, const std::string& name, std::shared_ptr<fetch::LazyLayer> layer);
  // Fails the device's parked reads (LazyLayer::CancelAll) and forgets it; reads through handles that are still open
  // fail with EIO. kNotFound. Call it after the last mount that uses the device is gone, or to free one that hangs.
  Status RemoveDevice(const std::string& name);
  // All devices of the predecessor have been added: requests for unknown nodes fail from now on.
  void RestoreDone();

  // Stops serving; mount and unanswered requests wait for a successor.
  void Detach();
  // Cancels every layer's reads, unmounts, stops, and makes the keeper forget the session. Not from a LazyLayer's
  // callback.
  Status Stop();

  std::string PathOf(const std::string& name) const;
  FuseSessionCounters counters() const;

 private:
  class Impl;
  explicit DeviceServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace banyan::lazyfs
