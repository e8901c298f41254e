// One FUSE session that survives the process that serves it.
//
// Requests are read from /dev/fuse straight into slots of a shared memfd (journal.h); a slot is freed after its reply
// has been written. A keeper process holds copies of both descriptors. When the server dies, readers wait; the
// successor takes both descriptors, skips FUSE_INIT, and answers what the slots still hold. Where the kernel can (6.9),
// FUSE_NOTIFY_RESEND is a second line; requests that arrive by both ways are recognised by their unique and answered
// once.
//
// A worker thread reads a request and calls the handler; the handler answers at once or later, from any thread, so that
// no thread parks on a slow read. docs/decisions/0002-raw-fuse-protocol.md says why this is not libfuse.
#pragma once

#include <linux/fuse.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "common/result.h"
#include "fetch/lazy_layer.h"
#include "lazyfs/keeper.h"

namespace banyan::lazyfs {

// The largest READ that the kernel is told to send. Spliced replies of 1 MiB could deadlock where pipes are capped at 1
// MiB.
inline constexpr uint32_t kMaxReadBytes = 512 * 1024;

class FuseSessionCore;

// A request that still wants its answer. Movable handle; exactly one Reply… call must be made, from any thread. One
// that is destroyed unanswered answers EIO. After the session's Detach() replies go nowhere (the successor answers).
class FuseRequest {
 public:
  FuseRequest(std::shared_ptr<FuseSessionCore> core, uint32_t slot, uint64_t ticket, const fuse_in_header& header);
  ~FuseRequest();
  FuseRequest(FuseRequest&& other) noexcept;
  FuseRequest& operator=(FuseRequest&& other) noexcept;

  const fuse_in_header& header() const { return header_; }

  // `error_number` > 0; 0 answers "done" without a body.
  void ReplyError(int error_number);
  // A body of at most a few KiB more than kMaxReadBytes.
  void ReplyBytes(std::span<const std::byte> body);
  // The answer to a READ: spliced from the view's file, or written from its memory. The view's lease ends afterwards.
  void ReplyView(fetch::ReadView view);

  template <typename T>
  void ReplyStruct(const T& body) {
    ReplyBytes(std::as_bytes(std::span(&body, 1)));
  }

 private:
  std::shared_ptr<FuseSessionCore> core_;
  uint32_t slot_ = 0;
  uint64_t ticket_ = 0;
  fuse_in_header header_{};
};

// Implemented by the file systems. Called on worker threads, concurrently; must not block, nor throw.
class FuseHandler {
 public:
  virtual ~FuseHandler() = default;
  // `body` is what follows the header and is valid only during the call. FORGET, INTERRUPT and INIT never arrive here.
  virtual void Handle(FuseRequest request, std::span<const std::byte> body) = 0;
};

struct FuseSessionOptions {
  std::string mount_dir;   // exists
  std::string name;        // the session's name at the keeper, unique on the node
  std::string fs_subtype;  // shown as fuse.<fs_subtype> in mount tables
  // Borrowed; must outlive the session. Null: the session does not survive the process.
  SessionKeeper* keeper = nullptr;
  int worker_threads = 2;
  // Background requests (EROFS's reads are these) that the kernel may have outstanding. One stalled layer must not use
  // them up: thousands. At most 65535.
  uint32_t max_background = 8192;
  unsigned long mount_flags = 0;  // beside MS_RDONLY
  std::string mount_options;      // more of mount(2)'s data, beginning with a comma
  // The kernel sends no OPEN and caches symbolic links and directory entries: for trees.
  bool no_open = false;
  // Write FUSE_NOTIFY_RESEND at takeover where the kernel takes it. $BANYAN_FUSE_RESEND=0 turns it off too.
  bool resend = true;
  // How long Start() waits for a predecessor that is still alive to let go of the session.
  std::chrono::milliseconds takeover_wait{10'000};
};

struct FuseSessionCounters {
  uint64_t requests = 0;       // read from the kernel
  uint64_t reads = 0;          // READ requests answered with data
  uint64_t bytes = 0;          // of their bodies
  uint64_t spliced_bytes = 0;  // of which spliced
  uint64_t errors = 0;         // answered with an error
  uint64_t interrupted = 0;    // answered EINTR because the reader was killed
  uint64_t in_flight = 0;      // now
  uint64_t recovered = 0;      // found in the journal at takeover
  uint64_t resent = 0;         // came again by RESEND and were already in flight
  uint64_t slot_waits = 0;     // times that reading waited for a free slot
};

// Internally synchronised.
class FuseSession {
 public:
  // Takes the session over if the keeper has it, else mounts a new one at mount_dir (taking away a dead FUSE mount
  // there first). `handler` must outlive the session. Requests are handled from now on.
  static Result<std::unique_ptr<FuseSession>> Start(FuseSessionOptions options, FuseHandler* handler);
  // Detach() with a keeper, Shutdown() without.
  ~FuseSession();

  // Whether Start() took a session over, rather than mounting it.
  bool taken_over() const { return taken_over_; }
  const std::string& mount_dir() const;
  FuseSessionCounters counters() const;

  // Stops serving and leaves the mount and unanswered requests to a successor. Idempotent.
  void Detach();
  // Unmounts (parked requests are answered with EIO), stops serving and makes the keeper forget the session.
  // Idempotent. Must not be called on a thread that handles requests. Ends within about 5 s, lazily detaching a busy
  // mount.
  Status Shutdown();

 private:
  FuseSession() = default;
  std::shared_ptr<FuseSessionCore> core_;
  bool taken_over_ = false;
  std::atomic<bool> ended_ = false;
};

}  // namespace banyan::lazyfs
