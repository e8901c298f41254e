#include "lazyfs/fuse_session_core.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/log.h"
#include "common/units.h"
#include "lazyfs/fuse_body.h"

namespace banyan::lazyfs {
namespace {

// Linux 6.9; newer than the headers that we build with.
constexpr int kNotifyResend = 7;
constexpr uint64_t kResentBit = uint64_t{1} << 63;

// The kernel insists on this much room for a read(2), though our requests are small; the rest goes to a scratch buffer.
constexpr size_t kScratchBytes = 8192;
constexpr uint32_t kMaxWriteBytes = 4096;

constexpr uint64_t kWantedFlags =
    FUSE_ASYNC_READ | FUSE_ASYNC_DIO | FUSE_MAX_PAGES | FUSE_PARALLEL_DIROPS | FUSE_INIT_EXT;
constexpr uint64_t kNoOpenFlags =
    FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT | FUSE_CACHE_SYMLINKS | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO;

}  // namespace

FuseSessionCore::FuseSessionCore(FuseSessionOptions options, FuseHandler* handler, UniqueFd fuse,
                                 std::unique_ptr<Journal> journal, UniqueFd lock)
    : options_(std::move(options)),
      handler_(handler),
      fuse_(std::move(fuse)),
      journal_(std::move(journal)),
      writer_(fuse_.get()),
      lock_(std::move(lock)),
      flights_(journal_->slots()) {}

Status FuseSessionCore::StartServing(bool taken_over) {
  stop_event_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop_event_) return FailErrno("making an eventfd", errno);
  std::vector<uint32_t> leftovers;
  if (taken_over) leftovers = FindLeftovers();
  {
    const MutexLock lock(mutex_);
    for (uint32_t slot = journal_->slots(); slot-- > 0;) {
      if (journal_->IsFree(slot)) free_slots_.push_back(slot);
    }
  }
  if (taken_over && options_.resend) Resend();
  for (int i = 0; i < std::max(options_.worker_threads, 1); ++i) {
    workers_.emplace_back([this] { Work(); });
  }
  for (uint32_t slot : leftovers) Dispatch(slot, journal_->Leftover(slot).size());
  return {};
}

// Leftovers are registered before RESEND is written, so that a request that comes both ways is recognised.
std::vector<uint32_t> FuseSessionCore::FindLeftovers() {
  std::vector<uint32_t> found;
  for (uint32_t slot = 0; slot < journal_->slots(); ++slot) {
    if (journal_->IsFree(slot)) continue;
    const std::span<std::byte> request = journal_->Leftover(slot);
    const auto header = ParseBody<fuse_in_header>(request);
    if (request.empty() || header.opcode == FUSE_FORGET || header.opcode == FUSE_BATCH_FORGET) {
      journal_->Free(slot);
      continue;
    }
    const MutexLock lock(mutex_);
    if (header.opcode != FUSE_INTERRUPT && !by_unique_.emplace(header.unique & ~kResentBit, slot).second) {
      journal_->Free(slot);  // died while it was recognising a resent request
      continue;
    }
    flights_[slot] = {++last_ticket_, header.unique, false};
    found.push_back(slot);
  }
  counters_.recovered += found.size();
  return found;
}

void FuseSessionCore::Resend() {
  const fuse_out_header notice{sizeof(fuse_out_header), kNotifyResend, 0};
  if (write(fuse_.get(), &notice, sizeof(notice)) < 0) {
    spdlog::debug("FUSE session {}: the kernel knows no RESEND: {}", options_.name, std::strerror(errno));
  }
}

void FuseSessionCore::StopServing() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    slot_freed_.notify_all();
    while (replies_active_ != 0) lock.Wait(replies_done_);
  }
  if (stop_event_) {
    const uint64_t one = 1;
    (void)!write(stop_event_.get(), &one, sizeof(one));
  }
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
  const MutexLock lock(mutex_);
  if (lock_) flock(lock_.get(), LOCK_UN);
  lock_.reset();
}

void FuseSessionCore::FailAll() {
  failing_ = true;
  std::vector<std::pair<uint32_t, uint64_t>> parked;
  {
    const MutexLock lock(mutex_);
    for (const auto& [unique, slot] : by_unique_) {
      if (flights_[slot].parked) parked.emplace_back(slot, flights_[slot].ticket);
    }
  }
  for (const auto& [slot, ticket] : parked) ReplyError(slot, ticket, EIO);
}

void FuseSessionCore::Work() {
  const UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  epoll_event wanted{};
  wanted.events = EPOLLIN | EPOLLEXCLUSIVE;
  wanted.data.fd = fuse_.get();
  epoll_event stop{};
  stop.events = EPOLLIN;
  stop.data.fd = stop_event_.get();
  if (!epoll || epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fuse_.get(), &wanted) != 0 ||
      epoll_ctl(epoll.get(), EPOLL_CTL_ADD, stop_event_.get(), &stop) != 0) {
    spdlog::error("FUSE session {}: epoll: {}", options_.name, std::strerror(errno));
    return;
  }
  std::vector<std::byte> scratch(kScratchBytes);
  while (std::optional<uint32_t> slot = AcquireSlot()) {
    const std::span<std::byte> buffer = journal_->BeginRead(*slot);
    const iovec parts[2] = {{buffer.data(), buffer.size()}, {scratch.data(), scratch.size()}};
    const ssize_t got = readv(fuse_.get(), parts, 2);
    if (got >= static_cast<ssize_t>(sizeof(fuse_in_header))) {
      journal_->CommitRead(*slot, static_cast<size_t>(got));
      Dispatch(*slot, static_cast<size_t>(got));
      continue;
    }
    const int error = errno;
    ReleaseSlot(*slot);
    if (got < 0 && (error == EINTR || error == ENOENT)) continue;  // ENOENT: its asker gave up before we had it
    if (got < 0 && error == EAGAIN && WaitReadable(epoll.get())) continue;
    if (got < 0 && error != EAGAIN && error != ENODEV) {
      spdlog::error("FUSE session {}: reading requests: {}", options_.name, std::strerror(error));
    }
    return;
  }
}

bool FuseSessionCore::WaitReadable(int epoll_fd) {
  epoll_event event{};
  for (;;) {
    const int ready = epoll_wait(epoll_fd, &event, 1, -1);
    if (ready < 0 && errno == EINTR) continue;
    return ready > 0 && event.data.fd != stop_event_.get();
  }
}

std::optional<uint32_t> FuseSessionCore::AcquireSlot() {
  MutexLock lock(mutex_);
  if (free_slots_.empty() && !stopping_) ++counters_.slot_waits;
  while (free_slots_.empty() && !stopping_) lock.Wait(slot_freed_);
  if (stopping_) return std::nullopt;
  const uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

void FuseSessionCore::ReleaseSlotLocked(uint32_t slot) {
  journal_->Free(slot);
  flights_[slot] = {};
  free_slots_.push_back(slot);
  slot_freed_.notify_one();
}

void FuseSessionCore::ReleaseSlot(uint32_t slot) {
  const MutexLock lock(mutex_);
  ReleaseSlotLocked(slot);
}

void FuseSessionCore::Dispatch(uint32_t slot, size_t bytes) {
  ++counters_.requests;
  const std::span<const std::byte> request = journal_->request(slot);
  const auto header = ParseBody<fuse_in_header>(request);
  const size_t whole = std::min<size_t>(bytes, header.len);
  const std::span<const std::byte> body =
      request.subspan(sizeof(header), std::clamp(whole, sizeof(header), request.size()) - sizeof(header));
  switch (header.opcode) {
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
      return ReleaseSlot(slot);  // wants no answer; nothing is remembered that could be forgotten
    case FUSE_INTERRUPT:
      return HandleInterrupt(slot, header, body);
    default:
      break;
  }
  const uint64_t ticket = Register(slot, header);
  if (ticket == 0) return;
  FuseRequest handle(shared_from_this(), slot, ticket, header);
  if (header.opcode == FUSE_INIT) return HandleInit(std::move(handle), body);
  if (header.opcode == FUSE_DESTROY) return handle.ReplyError(0);
  if (failing_) return handle.ReplyError(EIO);
  if (header.len > request.size()) return handle.ReplyError(ENAMETOOLONG);
  handler_->Handle(std::move(handle), body);
  Park(slot, ticket);
}

// From here on nobody reads the slot but a successor.
void FuseSessionCore::Park(uint32_t slot, uint64_t ticket) {
  {
    const MutexLock lock(mutex_);
    Flight& flight = flights_[slot];
    if (flight.ticket != ticket) return;
    flight.parked = true;
    WriteUnique(slot, flight.unique);
  }
  if (failing_) ReplyError(slot, ticket, EIO);
}

void FuseSessionCore::WriteUnique(uint32_t slot, uint64_t unique) {
  std::memcpy(journal_->request(slot).data() + offsetof(fuse_in_header, unique), &unique, sizeof(unique));
}

uint64_t FuseSessionCore::Register(uint32_t slot, const fuse_in_header& header) {
  const MutexLock lock(mutex_);
  const auto [place, fresh] = by_unique_.emplace(header.unique & ~kResentBit, slot);
  if (!fresh && place->second == slot) return flights_[slot].ticket;  // a leftover, registered before
  if (!fresh) {
    // Resent, and still being worked on: from now on the kernel knows it under the new unique.
    const uint32_t first = place->second;
    flights_[first].unique = header.unique;
    if (flights_[first].parked) WriteUnique(first, header.unique);
    ++counters_.resent;
    ReleaseSlotLocked(slot);
    return 0;
  }
  flights_[slot] = {++last_ticket_, header.unique, false};
  return last_ticket_;
}

void FuseSessionCore::HandleInit(FuseRequest handle, std::span<const std::byte> body) {
  const auto in = ParseBody<fuse_init_in>(body);
  if (in.major < FUSE_KERNEL_VERSION) return handle.ReplyError(EPROTO);
  const uint64_t offered = in.flags | ((in.flags & FUSE_INIT_EXT) != 0 ? uint64_t{in.flags2} << 32 : 0);
  const uint64_t wanted = kWantedFlags | (options_.no_open ? kNoOpenFlags : 0);
  fuse_init_out out{};
  out.major = FUSE_KERNEL_VERSION;
  out.minor = FUSE_KERNEL_MINOR_VERSION;
  out.max_readahead = in.max_readahead;
  out.flags = static_cast<uint32_t>(offered & wanted);
  out.max_background = static_cast<uint16_t>(options_.max_background);
  out.congestion_threshold = static_cast<uint16_t>(options_.max_background / 4 * 3);
  out.max_write = kMaxWriteBytes;
  out.time_gran = 1;
  out.max_pages = kMaxReadBytes / kBlockBytes;
  journal_->negotiated() = {1, std::min(in.minor, out.minor), in.max_readahead, kMaxReadBytes, offered & wanted};
  handle.ReplyStruct(out);
}

// The reader was killed. EAGAIN makes the kernel ask again: the request may be on its way to us in another worker.
void FuseSessionCore::HandleInterrupt(uint32_t slot, const fuse_in_header& header, std::span<const std::byte> body) {
  const uint64_t target = ParseBody<fuse_interrupt_in>(body).unique & ~kResentBit;
  uint32_t found = 0;
  uint64_t ticket = 0;
  {
    const MutexLock lock(mutex_);
    flights_[slot] = {};
    const auto place = by_unique_.find(target);
    if (place != by_unique_.end() && flights_[place->second].parked) {
      found = place->second;
      ticket = flights_[found].ticket;
    }
  }
  if (ticket != 0) {
    ++counters_.interrupted;
    ReplyError(found, ticket, EINTR);
  } else {
    (void)writer_.Error(header.unique, EAGAIN);
  }
  ReleaseSlot(slot);
}

std::optional<uint64_t> FuseSessionCore::BeginReply(uint32_t slot, uint64_t ticket) {
  const MutexLock lock(mutex_);
  Flight& flight = flights_[slot];
  if (stopping_ || ticket == 0 || flight.ticket != ticket) return std::nullopt;
  by_unique_.erase(flight.unique & ~kResentBit);
  flight.ticket = 0;
  ++replies_active_;
  return flight.unique;
}

void FuseSessionCore::FinishReply(uint32_t slot, int error) {
  if (error != 0 && error != ENOENT && error != ENODEV) {
    spdlog::warn("FUSE session {}: writing an answer: {}", options_.name, std::strerror(error));
  }
  const MutexLock lock(mutex_);
  ReleaseSlotLocked(slot);
  if (--replies_active_ == 0) replies_done_.notify_all();
}

void FuseSessionCore::ReplyError(uint32_t slot, uint64_t ticket, int error_number) {
  const std::optional<uint64_t> unique = BeginReply(slot, ticket);
  if (!unique) return;
  if (error_number != 0) ++counters_.errors;
  FinishReply(slot, writer_.Error(*unique, error_number));
}

void FuseSessionCore::ReplyBytes(uint32_t slot, uint64_t ticket, const fuse_in_header& request,
                                 std::span<const std::byte> body) {
  const std::optional<uint64_t> unique = BeginReply(slot, ticket);
  if (!unique) return;
  if (request.opcode == FUSE_READ) {
    ++counters_.reads;
    counters_.bytes += body.size();
  }
  FinishReply(slot, writer_.Bytes(*unique, body));
}

void FuseSessionCore::ReplyView(uint32_t slot, uint64_t ticket, fetch::ReadView view) {
  const std::optional<uint64_t> unique = BeginReply(slot, ticket);
  if (!unique) return;
  bool spliced = false;
  int error = writer_.View(*unique, view, &spliced);
  const size_t bytes = view.fd < 0 ? view.memory.size() : view.length;
  if (error == 0) {
    ++counters_.reads;
    counters_.bytes += bytes;
    if (spliced) counters_.spliced_bytes += bytes;
  } else if (error != ENOENT && error != ENODEV) {
    ++counters_.errors;
    spdlog::error("FUSE session {}: answering {} bytes at {}: {}", options_.name, bytes, view.offset,
                  std::strerror(error));
    error = writer_.Error(*unique, EIO);
  }
  FinishReply(slot, error);
}

FuseSessionCounters FuseSessionCore::counters() const {
  FuseSessionCounters out;
  out.requests = counters_.requests;
  out.reads = counters_.reads;
  out.bytes = counters_.bytes;
  out.spliced_bytes = counters_.spliced_bytes;
  out.errors = counters_.errors;
  out.interrupted = counters_.interrupted;
  out.recovered = counters_.recovered;
  out.resent = counters_.resent;
  out.slot_waits = counters_.slot_waits;
  const MutexLock lock(mutex_);
  out.in_flight = by_unique_.size();
  return out;
}

void AnswerFromLayer(FuseRequest request, fetch::LazyLayer& layer, ByteRange range) {
  // std::function wants a copyable callable.
  auto handle = std::make_shared<FuseRequest>(std::move(request));
  layer.Read(range, [handle, length = range.size()](Result<fetch::ReadView> view) {
    if (!view) return handle->ReplyError(EIO);
    const size_t got = view->fd < 0 ? view->memory.size() : view->length;
    if (got != length) return handle->ReplyError(EIO);
    handle->ReplyView(*std::move(view));
  });
}

FuseRequest::FuseRequest(std::shared_ptr<FuseSessionCore> core, uint32_t slot, uint64_t ticket,
                         const fuse_in_header& header)
    : core_(std::move(core)), slot_(slot), ticket_(ticket), header_(header) {}

FuseRequest::~FuseRequest() { ReplyError(EIO); }

FuseRequest::FuseRequest(FuseRequest&& other) noexcept = default;

FuseRequest& FuseRequest::operator=(FuseRequest&& other) noexcept {
  std::swap(core_, other.core_);
  std::swap(slot_, other.slot_);
  std::swap(ticket_, other.ticket_);
  std::swap(header_, other.header_);
  return *this;
}

void FuseRequest::ReplyError(int error_number) {
  if (auto core = std::exchange(core_, nullptr)) core->ReplyError(slot_, ticket_, error_number);
}

void FuseRequest::ReplyBytes(std::span<const std::byte> body) {
  if (auto core = std::exchange(core_, nullptr)) core->ReplyBytes(slot_, ticket_, header_, body);
}

void FuseRequest::ReplyView(fetch::ReadView view) {
  if (auto core = std::exchange(core_, nullptr)) core->ReplyView(slot_, ticket_, std::move(view));
}

}  // namespace banyan::lazyfs
