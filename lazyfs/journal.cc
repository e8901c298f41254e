#include "lazyfs/journal.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace banyan::lazyfs {
namespace {

constexpr char kMagic[8] = {'b', 'n', 'y', 'n', 'j', 'r', 'n', 'l'};
// The kernel's opcodes end at 52; far beyond is no opcode.
constexpr uint32_t kGreatestOpcode = 1023;

Result<std::byte*> Map(int fd, size_t bytes) {
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) return FailErrno("mapping the request journal", errno);
  return static_cast<std::byte*>(base);
}

}  // namespace

Result<std::unique_ptr<Journal>> Journal::Create(uint32_t slots) {
  if (slots == 0 || slots > kMaxSlots) return Fail(Code::kInvalidArgument, fmt::format("a journal of {} slots", slots));
  UniqueFd memfd(memfd_create("banyan-journal", MFD_CLOEXEC));
  if (!memfd) return FailErrno("making the request journal", errno);
  if (ftruncate(memfd.get(), static_cast<off_t>(TotalBytes(slots))) != 0) {
    return FailErrno("sizing the request journal", errno);
  }
  BANYAN_ASSIGN(std::byte * base, Map(memfd.get(), TotalBytes(slots)));
  std::unique_ptr<Journal> journal(new Journal(std::move(memfd), base, slots));
  Header& header = journal->header();
  header.version = kVersion;
  header.slots = slots;
  header.slot_bytes = kSlotBytes;
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  return journal;
}

Result<std::unique_ptr<Journal>> Journal::Open(UniqueFd memfd) {
  struct stat status {};
  if (fstat(memfd.get(), &status) != 0) return FailErrno("looking at the request journal", errno);
  const auto bytes = static_cast<size_t>(status.st_size);
  if (bytes < TotalBytes(1) || bytes > TotalBytes(kMaxSlots)) {
    return Fail(Code::kFailedPrecondition, fmt::format("a request journal cannot have {} bytes", bytes));
  }
  BANYAN_ASSIGN(std::byte * base, Map(memfd.get(), bytes));
  Header header;
  std::memcpy(&header, base, sizeof(header));
  const bool ours = std::memcmp(header.magic, kMagic, sizeof(kMagic)) == 0 && header.version == kVersion &&
                    header.slot_bytes == kSlotBytes && header.slots > 0 && header.slots <= kMaxSlots &&
                    TotalBytes(header.slots) == bytes;
  if (!ours) {
    munmap(base, bytes);
    return Fail(Code::kFailedPrecondition, fmt::format("the request journal is not of version {}", kVersion));
  }
  return std::unique_ptr<Journal>(new Journal(std::move(memfd), base, header.slots));
}

Journal::~Journal() { munmap(base_, TotalBytes(slots_)); }

std::span<std::byte> Journal::request(uint32_t slot) {
  return {base_ + kHeaderBytes + size_t{slot} * kSlotBytes + kSlotHeaderBytes, kRequestBytes};
}

std::span<std::byte> Journal::BeginRead(uint32_t slot) {
  std::span<std::byte> buffer = request(slot);
  std::memset(buffer.data(), 0, sizeof(fuse_in_header));
  slot_header(slot).bytes = 0;
  slot_header(slot).state.store(kReading, std::memory_order_release);
  return buffer;
}

void Journal::CommitRead(uint32_t slot, size_t bytes) {
  slot_header(slot).bytes = static_cast<uint32_t>(bytes);
  slot_header(slot).state.store(kFull, std::memory_order_release);
}

void Journal::Free(uint32_t slot) { slot_header(slot).state.store(kFree, std::memory_order_release); }

bool Journal::IsFree(uint32_t slot) const { return slot_header(slot).state.load(std::memory_order_acquire) == kFree; }

std::span<std::byte> Journal::Leftover(uint32_t slot) {
  if (IsFree(slot)) return {};
  fuse_in_header header;
  std::span<std::byte> bytes = request(slot);
  std::memcpy(&header, bytes.data(), sizeof(header));
  const bool sound = header.len >= sizeof(header) && header.opcode != 0 && header.opcode <= kGreatestOpcode &&
                     (header.unique != 0 || header.opcode == FUSE_FORGET || header.opcode == FUSE_BATCH_FORGET);
  if (!sound) return {};
  return bytes.first(std::min<size_t>(header.len, bytes.size()));
}

}  // namespace banyan::lazyfs
