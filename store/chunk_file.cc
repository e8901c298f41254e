#include "store/chunk_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "common/file_io.h"
#include "common/log.h"

namespace banyan::store {

namespace {

ByteRange RangeIn(const image_format::Chunk& chunk, Form form) {
  return form == Form::kBlocks ? chunk.device_range() : chunk.blob_range();
}

// Clears the chunks that overlap `hole`; whether there were any.
bool ClearHole(const image_format::ChunkTable& chunks, Form form, ByteRange hole, Bitmap& present) {
  const auto all = chunks.chunks();
  auto it = std::partition_point(all.begin(), all.end(),
                                 [&](const auto& chunk) { return RangeIn(chunk, form).end <= hole.begin; });
  bool any = false;
  for (; it != all.end() && RangeIn(*it, form).begin < hole.end; ++it) {
    any |= present.Clear(static_cast<uint32_t>(it - all.begin()));
  }
  return any;
}

// Clears the chunks that are holes, in part or whole. A file system that knows no holes says that all is data.
bool ClearHoles(int fd, const image_format::ChunkTable& chunks, Form form, uint64_t size_bytes, Bitmap& present) {
  bool any = false;
  uint64_t position = 0;
  while (position < size_bytes && present.count() != 0) {
    const off_t data = ::lseek(fd, static_cast<off_t>(position), SEEK_DATA);
    if (data < 0 && errno != ENXIO) break;
    const uint64_t hole_end = data < 0 ? size_bytes : static_cast<uint64_t>(data);
    if (hole_end > position) any |= ClearHole(chunks, form, {position, hole_end}, present);
    if (data < 0) break;
    const off_t hole = ::lseek(fd, data, SEEK_HOLE);
    if (hole < 0) break;
    position = static_cast<uint64_t>(hole);
  }
  return any;
}

Result<UniqueFd> OpenIn(ChunkDirectory& directory, const std::string& path, uint64_t size_bytes) {
  bool created = false;
  Result<UniqueFd> fd = directory.disk.OpenSparse(path, size_bytes, created);
  if (created) directory.has_new_names.store(true);
  return fd;
}

uint64_t SumOf(const image_format::ChunkTable& chunks, Form form, const Bitmap& present) {
  uint64_t bytes = 0;
  for (ChunkIndex i = 0; i < present.size(); ++i) {
    if (present.Test(i)) bytes += RangeIn(chunks[i], form).size();
  }
  return bytes;
}

}  // namespace

ChunkFile::ChunkFile(Form form, const image_format::ChunkTable& chunks, std::string path, Bitmap durable,
                     ChunkDirectory& directory, UniqueFd fd, bool lost_chunks)
    : form_(form),
      chunks_(chunks),
      path_(std::move(path)),
      directory_(directory),
      fd_(std::move(fd)),
      presence_(durable),
      lost_chunks_(lost_chunks),
      bytes_(SumOf(chunks, form, durable)) {}

Result<std::unique_ptr<ChunkFile>> ChunkFile::Open(Form form, const image_format::ChunkTable& chunks, std::string path,
                                                   Bitmap durable, ChunkDirectory& directory, bool keep_open) {
  const uint64_t size_bytes = form == Form::kBlocks ? chunks.device_bytes() : chunks.blob_bytes();
  UniqueFd fd;
  bool lost_chunks = false;
  if (keep_open || durable.count() != 0) {
    BANYAN_ASSIGN(fd, OpenIn(directory, path, size_bytes));
    lost_chunks = ClearHoles(fd.get(), chunks, form, size_bytes, durable);
    if (lost_chunks)
      spdlog::warn("{}: the index speaks of chunks that are not there; they will be fetched again", path);
  }
  if (!keep_open) fd.reset();
  return std::unique_ptr<ChunkFile>(
      new ChunkFile(form, chunks, std::move(path), std::move(durable), directory, std::move(fd), lost_chunks));
}

uint64_t ChunkFile::IdleBytes() const {
  uint64_t bytes = 0;
  for (ChunkIndex i = 0; i < presence_.size(); ++i) {
    if (presence_.Idle(i)) bytes += BytesOf(i);
  }
  return bytes;
}

uint64_t ChunkFile::BytesIn(const std::string& bitmap) const {
  return SumOf(chunks_, form_, Bitmap(chunks_.size(), bitmap));
}

template <typename Use>
Status ChunkFile::WithFd(Use use) {
  if (fd_.valid()) return use(fd_.get());
  BANYAN_ASSIGN(const UniqueFd fd, OpenIn(directory_, path_, size_bytes()));
  return use(fd.get());
}

Status ChunkFile::Write(ChunkIndex chunk, std::span<const std::byte> data) {
  return WithFd([&](int fd) -> Status {
    Status written = directory_.disk.Write(fd, data, RangeOf(chunk).begin, path_);
    if (written) return {};
    // A prefix may be there; its room may be what others need.
    if (Status punched = Punch(fd, std::span(&chunk, 1)); !punched) spdlog::warn("{}", punched.error().message);
    return written;
  });
}

void ChunkFile::Publish(ChunkIndex chunk) {
  Recount(BytesOf(chunk));
  presence_.FinishWrite(chunk);
}

Status ChunkFile::Read(ChunkIndex chunk, std::span<std::byte> buffer) {
  return WithFd([&](int fd) { return PreadFull(fd, buffer, RangeOf(chunk).begin, path_); });
}

Result<std::shared_ptr<const UniqueFd>> ChunkFile::SharedFd() {
  const std::lock_guard lock(shared_mutex_);
  if (auto open = shared_fd_.lock()) return open;
  BANYAN_ASSIGN(UniqueFd fd, OpenIn(directory_, path_, size_bytes()));
  auto opened = std::make_shared<const UniqueFd>(std::move(fd));
  shared_fd_ = opened;
  return opened;
}

Status ChunkFile::ReadFromDisk(ChunkIndex chunk, std::span<std::byte> buffer) {
  const ByteRange range = RangeOf(chunk);
  return WithFd([&](int fd) {
    const auto drop_pages = [&] {
      ::posix_fadvise(fd, static_cast<off_t>(range.begin), static_cast<off_t>(range.size()), POSIX_FADV_DONTNEED);
    };
    drop_pages();
    Status read = PreadFull(fd, buffer, range.begin, path_);
    drop_pages();
    return read;
  });
}

Status ChunkFile::Sync() {
  return WithFd([&](int fd) { return directory_.disk.Sync(fd, path_); });
}

std::vector<ChunkIndex> ChunkFile::ClaimIdle(uint64_t bytes, bool spare_recent) {
  std::vector<ChunkIndex> claimed;
  uint64_t claimed_bytes = 0;
  const uint32_t size = presence_.size();
  if (size == 0) return claimed;
  ChunkIndex position = hand_.load(std::memory_order_relaxed) % size;
  const uint64_t steps = spare_recent ? uint64_t{size} * 2 : size;
  for (uint64_t step = 0; step < steps && claimed_bytes < bytes; ++step, position = (position + 1) % size) {
    if (!presence_.Claim(position, spare_recent && step < size)) continue;
    claimed.push_back(position);
    claimed_bytes += BytesOf(position);
  }
  hand_.store(position, std::memory_order_relaxed);
  std::sort(claimed.begin(), claimed.end());
  Discount(claimed_bytes);
  return claimed;
}

Status ChunkFile::Punch(int fd, std::span<const ChunkIndex> chunks) {
  for (size_t i = 0; i < chunks.size();) {
    size_t next = i + 1;
    while (next < chunks.size() && chunks[next] == chunks[next - 1] + 1) ++next;
    BANYAN_TRY(directory_.disk.Punch(fd, {RangeOf(chunks[i]).begin, RangeOf(chunks[next - 1]).end}, path_));
    i = next;
  }
  return {};
}

void ChunkFile::ReleaseDropped(ChunkIndex chunk) {
  if (keep_dropped_.load(std::memory_order_relaxed)) return presence_.Release(chunk);
  PunchAndRelease(std::span(&chunk, 1));
}

void ChunkFile::PunchAndRelease(std::span<const ChunkIndex> chunks) {
  const Status punched = WithFd([&](int fd) { return Punch(fd, chunks); });
  // The index says absent already: what stays is room not given back until the chunk is fetched again or the file goes.
  if (!punched) spdlog::warn("{}", punched.error().message);
  Release(chunks);
}

void ChunkFile::PunchAndBar(std::span<const ChunkIndex> chunks) {
  const Status punched = WithFd([&](int fd) { return Punch(fd, chunks); });
  if (!punched) spdlog::warn("{}", punched.error().message);
  for (const ChunkIndex chunk : chunks) presence_.Bar(chunk);
}

void ChunkFile::Release(std::span<const ChunkIndex> chunks) {
  for (const ChunkIndex chunk : chunks) presence_.Release(chunk);
}

}  // namespace banyan::store
