// Whole reads and writes on descriptors and files, with errors that name the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "common/byte_stream.h"
#include "common/result.h"
#include "common/unique_fd.h"

namespace banyan {

// open(2) with O_CLOEXEC.
Result<UniqueFd> OpenFile(const std::string& path, int flags, unsigned mode = 0644);
// Reads exactly buffer.size() bytes at `offset`; kDataLoss when the file ends before. Retries EINTR and short reads.
Status PreadFull(int fd, std::span<std::byte> buffer, uint64_t offset, std::string_view name);
Status PwriteFull(int fd, std::span<const std::byte> data, uint64_t offset, std::string_view name);
// write(2) until all is written.
Status WriteFull(int fd, std::span<const std::byte> data, std::string_view name);
// The whole file; kResourceExhausted if it is larger than `limit_bytes`.
Result<std::string> ReadFile(const std::string& path, uint64_t limit_bytes = UINT64_MAX);
// Replaces the file or leaves the old one: temporary file beside it, fsync, rename, fsync of the directory.
Status WriteFileDurably(const std::string& path, std::string_view contents, unsigned mode = 0644);
// mkdir -p.
Status MakeDirectories(const std::string& path, unsigned mode = 0755);

// The rest of a file from its current offset. `name` is for messages.
class FdSource final : public ByteSource {
 public:
  FdSource(UniqueFd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  Result<size_t> Read(std::span<std::byte> buffer) override;

 private:
  UniqueFd fd_;
  std::string name_;
};

// Appends to a borrowed descriptor.
class FdSink final : public ByteSink {
 public:
  FdSink(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}
  Status Write(std::span<const std::byte> data) override { return WriteFull(fd_, data, name_); }

 private:
  int fd_;
  std::string name_;
};

// A directory of its own under $TMPDIR or /tmp, removed with everything in it (mounts excepted) by the destructor.
class TempDir {
 public:
  static Result<TempDir> Make(std::string_view prefix);
  ~TempDir();
  TempDir(TempDir&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TempDir& operator=(TempDir&&) = delete;

  const std::string& path() const { return path_; }

 private:
  explicit TempDir(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace banyan
