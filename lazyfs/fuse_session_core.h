// The part of a FUSE session that requests in flight hold on to: descriptors, journal slots, workers and the table of
// what is in flight. See fuse_session.h.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "common/mutex.h"
#include "lazyfs/fuse_session.h"
#include "lazyfs/journal.h"
#include "lazyfs/reply_writer.h"

namespace banyan::lazyfs {

// Internally synchronised. Owned by shared_ptr, because layers may answer after the session has ended.
class FuseSessionCore : public std::enable_shared_from_this<FuseSessionCore> {
 public:
  FuseSessionCore(FuseSessionOptions options, FuseHandler* handler, UniqueFd fuse, std::unique_ptr<Journal> journal,
                  UniqueFd lock);

  // Registers what a predecessor left and asks the kernel to resend; then starts the workers and handles the leftovers.
  Status StartServing(bool taken_over);
  // No request is handled and nothing is written any more once this has returned.
  void StopServing();
  // After StopServing(): lets go of the descriptor, so that the kernel fails whatever still waits.
  void CloseConnection() { fuse_.reset(); }
  // Answers all parked requests, and every later one, with EIO.
  void FailAll();

  // From FuseRequest. A stale ticket (answered already) does nothing.
  void ReplyError(uint32_t slot, uint64_t ticket, int error_number);
  void ReplyBytes(uint32_t slot, uint64_t ticket, const fuse_in_header& request, std::span<const std::byte> body);
  void ReplyView(uint32_t slot, uint64_t ticket, fetch::ReadView view);

  FuseSessionCounters counters() const;
  const FuseSessionOptions& options() const { return options_; }

 private:
  struct Flight {
    uint64_t ticket = 0;  // 0: not in flight, or being answered
    uint64_t unique = 0;  // under which the kernel expects the answer
    bool parked = false;  // the handler has returned, so that only a reply looks at the slot
  };
  struct Counters {
    std::atomic<uint64_t> requests{0}, reads{0}, bytes{0}, spliced_bytes{0}, errors{0}, interrupted{0}, recovered{0},
        resent{0}, slot_waits{0};
  };

  void Work();
  // False: the session has ended.
  bool WaitReadable(int epoll_fd);
  std::optional<uint32_t> AcquireSlot();
  void ReleaseSlot(uint32_t slot);
  void ReleaseSlotLocked(uint32_t slot) BANYAN_REQUIRES(mutex_);

  void Dispatch(uint32_t slot, size_t bytes);
  void HandleInit(FuseRequest handle, std::span<const std::byte> body);
  void HandleInterrupt(uint32_t slot, const fuse_in_header& header, std::span<const std::byte> body);
  void Park(uint32_t slot, uint64_t ticket);
  void WriteUnique(uint32_t slot, uint64_t unique) BANYAN_REQUIRES(mutex_);
  // The new flight's ticket, or 0 if the request is in flight already.
  uint64_t Register(uint32_t slot, const fuse_in_header& header);
  std::vector<uint32_t> FindLeftovers();
  void Resend();

  // Ends the flight and returns the unique to answer under; FinishReply() must follow.
  std::optional<uint64_t> BeginReply(uint32_t slot, uint64_t ticket);
  void FinishReply(uint32_t slot, int error);

  const FuseSessionOptions options_;
  FuseHandler* const handler_;
  UniqueFd fuse_;  // constant until CloseConnection()
  const std::unique_ptr<Journal> journal_;
  ReplyWriter writer_;
  UniqueFd stop_event_;
  std::vector<std::thread> workers_;  // StartServing and StopServing only
  Counters counters_;

  mutable Mutex mutex_;
  std::condition_variable slot_freed_;
  std::condition_variable replies_done_;
  UniqueFd lock_ BANYAN_GUARDED_BY(mutex_);                                     // flock on the journal
  std::vector<uint32_t> free_slots_ BANYAN_GUARDED_BY(mutex_);                  // last in, first out
  std::vector<Flight> flights_ BANYAN_GUARDED_BY(mutex_);                       // by slot
  std::unordered_map<uint64_t, uint32_t> by_unique_ BANYAN_GUARDED_BY(mutex_);  // without the resend bit
  uint64_t last_ticket_ BANYAN_GUARDED_BY(mutex_) = 0;
  uint32_t replies_active_ BANYAN_GUARDED_BY(mutex_) = 0;
  bool stopping_ BANYAN_GUARDED_BY(mutex_) = false;
  std::atomic<bool> failing_{false};
};

}  // namespace banyan::lazyfs
