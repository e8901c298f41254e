#include "lazyfs/reply_writer.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "common/units.h"

namespace banyan::lazyfs {
namespace {

constexpr size_t kPipeBytes = kMiB;
// Below this, one pread and one writev are cheaper than three splices.
constexpr size_t kSpliceFromBytes = 32 * kKiB;
constexpr size_t kMaxIdlePipes = 8;

int WriteVector(int fd, const iovec* parts, int count) {
  while (writev(fd, parts, count) < 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

fuse_out_header OutHeader(uint64_t unique, int error_number, size_t body_bytes) {
  return {static_cast<uint32_t>(sizeof(fuse_out_header) + body_bytes), -error_number, unique};
}

}  // namespace

int ReplyWriter::Error(uint64_t unique, int error_number) {
  fuse_out_header header = OutHeader(unique, error_number, 0);
  const iovec part{&header, sizeof(header)};
  return WriteVector(fuse_fd_, &part, 1);
}

int ReplyWriter::Bytes(uint64_t unique, std::span<const std::byte> body) {
  fuse_out_header header = OutHeader(unique, 0, body.size());
  const iovec parts[2] = {{&header, sizeof(header)}, {const_cast<std::byte*>(body.data()), body.size()}};
  return WriteVector(fuse_fd_, parts, body.empty() ? 1 : 2);
}

int ReplyWriter::View(uint64_t unique, const fetch::ReadView& view, bool* spliced) {
  *spliced = false;
  if (view.fd < 0) return Bytes(unique, view.memory);
  if (view.length < kSpliceFromBytes) return Copy(unique, view);
  Pipe pipe = TakePipe();
  // The header's page, and one more when the range does not start at a page.
  if (pipe.capacity_bytes < view.length + 2 * kBlockBytes) {
    PutBack(std::move(pipe));
    return Copy(unique, view);
  }
  const int error = Splice(unique, view, pipe);
  if (error == 0 || error == ENOENT) *spliced = true;
  return error;
}

// On any failure the pipe is closed rather than given back, since something may be left in it.
int ReplyWriter::Splice(uint64_t unique, const fetch::ReadView& view, Pipe& pipe) {
  const fuse_out_header header = OutHeader(unique, 0, view.length);
  if (write(pipe.write_end.get(), &header, sizeof(header)) != static_cast<ssize_t>(sizeof(header))) return EIO;
  auto offset = static_cast<off64_t>(view.offset);
  size_t rest = view.length;
  while (rest > 0) {
    const ssize_t moved = splice(view.fd, &offset, pipe.write_end.get(), nullptr, rest, SPLICE_F_NONBLOCK);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0 && errno == EAGAIN) return Copy(unique, view);  // more pipe buffers than expected
    if (moved <= 0) return EIO;
    rest -= static_cast<size_t>(moved);
  }
  // /dev/fuse takes an answer whole or not at all.
  const ssize_t sent = splice(pipe.read_end.get(), nullptr, fuse_fd_, nullptr, header.len, 0);
  if (sent < 0) return errno;
  if (sent != static_cast<ssize_t>(header.len)) return EIO;
  PutBack(std::move(pipe));
  return 0;
}

int ReplyWriter::Copy(uint64_t unique, const fetch::ReadView& view) {
  thread_local std::vector<std::byte> buffer;
  if (buffer.size() < view.length) buffer.resize(view.length);
  size_t done = 0;
  while (done < view.length) {
    const ssize_t got =
        pread(view.fd, buffer.data() + done, view.length - done, static_cast<off_t>(view.offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return EIO;
    done += static_cast<size_t>(got);
  }
  return Bytes(unique, std::span(buffer).first(view.length));
}

ReplyWriter::Pipe ReplyWriter::TakePipe() {
  {
    const MutexLock lock(mutex_);
    if (!idle_.empty()) {
      Pipe pipe = std::move(idle_.back());
      idle_.pop_back();
      return pipe;
    }
  }
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return {};
  Pipe pipe{UniqueFd(ends[0]), UniqueFd(ends[1]), 0};
  (void)fcntl(ends[1], F_SETPIPE_SZ, static_cast<int>(kPipeBytes));
  const int capacity = fcntl(ends[1], F_GETPIPE_SZ);
  pipe.capacity_bytes = capacity > 0 ? static_cast<size_t>(capacity) : 0;
  return pipe;
}

void ReplyWriter::PutBack(Pipe pipe) {
  if (!pipe.write_end) return;
  const MutexLock lock(mutex_);
  if (idle_.size() < kMaxIdlePipes) idle_.push_back(std::move(pipe));
}

}  // namespace banyan::lazyfs
