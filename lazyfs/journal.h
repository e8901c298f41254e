// The requests in flight of one FUSE session, in a memfd that outlives the process: /dev/fuse is read straight into
// slots, and a slot is freed after its reply has been written. So whenever the process dies, every request that the
// kernel believes to be served lies in a slot, and a successor can answer it by its unique, on any kernel.
//
//   offset 0     JournalHeader, padded to kHeaderBytes
//   then         slots of kSlotBytes: SlotHeader, then the request as the kernel wrote it
//
// A slot's life: free → reading (its request header zeroed, then read(2)) → full → free. Death between any two steps is
// harmless: a slot that was being read either has a zero header (nothing came) or a whole request (the kernel copies a
// request whole); one whose reply was written but that is not yet free is answered again, which the kernel refuses.
#pragma once

#include <linux/fuse.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "common/result.h"
#include "common/unique_fd.h"

namespace banyan::lazyfs {

// What FUSE_INIT settled; a successor needs it, since the kernel does not ask twice.
struct Negotiated {
  uint32_t served = 0;  // 0: FUSE_INIT has not been answered
  uint32_t minor = 0;
  uint32_t max_readahead = 0;
  uint32_t max_read = 0;
  uint64_t flags = 0;
};

// Slots are externally synchronised, each by whoever holds it; the rest is immutable after construction.
class Journal {
 public:
  static constexpr uint32_t kVersion = 1;
  static constexpr size_t kHeaderBytes = 4096;
  static constexpr size_t kSlotBytes = 2048;
  static constexpr size_t kSlotHeaderBytes = 16;
  // Enough for a name of FUSE's greatest length; what is longer is cut and can only be refused.
  static constexpr size_t kRequestBytes = kSlotBytes - kSlotHeaderBytes;
  static constexpr uint32_t kMaxSlots = 1U << 17;

  static Result<std::unique_ptr<Journal>> Create(uint32_t slots);
  // kFailedPrecondition when the descriptor holds no journal of this version.
  static Result<std::unique_ptr<Journal>> Open(UniqueFd memfd);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  int fd() const { return memfd_.get(); }
  uint32_t slots() const { return slots_; }
  Negotiated& negotiated() { return header().negotiated; }

  // Marks a free slot as being read and returns its buffer of kRequestBytes.
  std::span<std::byte> BeginRead(uint32_t slot);
  // `bytes` is what read(2) returned, which may be more than the slot holds.
  void CommitRead(uint32_t slot, size_t bytes);
  void Free(uint32_t slot);

  // What a predecessor left in the slot: its request, or an empty span if there is none that makes sense (the slot
  // should then be freed). A request longer than the slot is cut: its header tells.
  std::span<std::byte> Leftover(uint32_t slot);
  bool IsFree(uint32_t slot) const;
  std::span<std::byte> request(uint32_t slot);

 private:
  enum State : uint32_t { kFree = 0, kReading = 1, kFull = 2 };
  struct Header {
    char magic[8];
    uint32_t version;
    uint32_t slots;
    uint32_t slot_bytes;
    uint32_t reserved;
    Negotiated negotiated;
  };
  struct SlotHeader {
    std::atomic<uint32_t> state;
    uint32_t bytes;
    uint64_t reserved;
  };
  static_assert(sizeof(SlotHeader) == kSlotHeaderBytes);
  static_assert(sizeof(Header) <= kHeaderBytes);

  Journal(UniqueFd memfd, std::byte* base, uint32_t slots) : memfd_(std::move(memfd)), base_(base), slots_(slots) {}
  static size_t TotalBytes(uint32_t slots) { return kHeaderBytes + size_t{slots} * kSlotBytes; }
  Header& header() { return *reinterpret_cast<Header*>(base_); }
  SlotHeader& slot_header(uint32_t slot) const {
    return *reinterpret_cast<SlotHeader*>(base_ + kHeaderBytes + size_t{slot} * kSlotBytes);
  }

  UniqueFd memfd_;
  std::byte* base_;
  uint32_t slots_;
};

}  // namespace banyan::lazyfs
