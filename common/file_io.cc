#include "common/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include <fmt/format.h>

namespace banyan {

Result<UniqueFd> OpenFile(const std::string& path, int flags, unsigned mode) {
  int fd = -1;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return FailErrno("open " + path, errno);
  return UniqueFd(fd);
}

Status PreadFull(int fd, std::span<std::byte> buffer, uint64_t offset, std::string_view name) {
  while (!buffer.empty()) {
    const ssize_t count = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return FailErrno(fmt::format("read {} at {}", name, offset), errno);
    if (count == 0) return Fail(Code::kDataLoss, fmt::format("read {} at {}: the file ends early", name, offset));
    buffer = buffer.subspan(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  return {};
}

Status PwriteFull(int fd, std::span<const std::byte> data, uint64_t offset, std::string_view name) {
  while (!data.empty()) {
    const ssize_t count = ::pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return FailErrno(fmt::format("write {} at {}", name, offset), errno);
    data = data.subspan(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  return {};
}

Status WriteFull(int fd, std::span<const std::byte> data, std::string_view name) {
  while (!data.empty()) {
    const ssize_t count = ::write(fd, data.data(), data.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return FailErrno(fmt::format("write {}", name), errno);
    data = data.subspan(static_cast<size_t>(count));
  }
  return {};
}

Result<std::string> ReadFile(const std::string& path, uint64_t limit_bytes) {
  BANYAN_ASSIGN(UniqueFd fd, OpenFile(path, O_RDONLY));
  FdSource source(std::move(fd), path);
  std::string contents;
  size_t filled = 0;
  while (true) {
    contents.resize(std::max<size_t>(contents.size() * 2, 64 * 1024));
    BANYAN_ASSIGN(const size_t count, ReadFully(source, std::as_writable_bytes(std::span(contents)).subspan(filled)));
    filled += count;
    if (filled > limit_bytes) {
      return Fail(Code::kResourceExhausted, fmt::format("{}: larger than {} bytes", path, limit_bytes));
    }
    if (filled < contents.size()) break;
  }
  contents.resize(filled);
  return contents;
}

Status WriteFileDurably(const std::string& path, std::string_view contents, unsigned mode) {
  const std::string temporary = fmt::format("{}.tmp.{}", path, ::getpid());
  const auto write = [&]() -> Status {
    BANYAN_ASSIGN(UniqueFd fd, OpenFile(temporary, O_WRONLY | O_CREAT | O_TRUNC, mode));
    BANYAN_TRY(WriteFull(fd.get(), std::as_bytes(std::span(contents.data(), contents.size())), temporary));
    if (::fsync(fd.get()) != 0) return FailErrno("fsync " + temporary, errno);
    if (::rename(temporary.c_str(), path.c_str()) != 0) return FailErrno("rename to " + path, errno);
    return {};
  };
  if (Status status = write(); !status) {
    ::unlink(temporary.c_str());
    return status;
  }
  const std::string directory = std::filesystem::path(path).parent_path().string();
  BANYAN_ASSIGN(UniqueFd dir, OpenFile(directory.empty() ? "." : directory, O_RDONLY | O_DIRECTORY));
  if (::fsync(dir.get()) != 0) return FailErrno("fsync " + directory, errno);
  return {};
}

Status MakeDirectories(const std::string& path, unsigned mode) {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string prefix = path.substr(0, slash);
    if (::mkdir(prefix.c_str(), mode) != 0 && errno != EEXIST) return FailErrno("mkdir " + prefix, errno);
    if (slash == std::string::npos) break;
  }
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return FailErrno("stat " + path, errno);
  if (!S_ISDIR(info.st_mode)) return FailErrno("mkdir " + path, ENOTDIR);
  return {};
}

Result<size_t> FdSource::Read(std::span<std::byte> buffer) {
  while (true) {
    const ssize_t count = ::read(fd_.get(), buffer.data(), buffer.size());
    if (count >= 0) return static_cast<size_t>(count);
    if (errno != EINTR) return FailErrno("read " + name_, errno);
  }
}

Result<TempDir> TempDir::Make(std::string_view prefix) {
  const char* base = std::getenv("TMPDIR");
  std::string path = fmt::format("{}/{}.XXXXXX", base != nullptr && *base != '\0' ? base : "/tmp", prefix);
  if (::mkdtemp(path.data()) == nullptr) return FailErrno("make a directory like " + path, errno);
  return TempDir(std::move(path));
}

TempDir::~TempDir() {
  if (path_.empty()) return;
  std::error_code ignored;  // A busy mount below stays; there is nobody to tell.
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace banyan
