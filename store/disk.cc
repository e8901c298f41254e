#include "store/disk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string_view>

#include "common/file_io.h"

namespace banyan::store {

namespace {

class LocalDisk final : public Disk {
 public:
  Result<UniqueFd> OpenSparse(const std::string& path, uint64_t size_bytes, bool& created) override {
    Result<UniqueFd> opened = OpenFile(path, O_RDWR);
    created = !opened && opened.error().code == Code::kNotFound;
    if (created) opened = OpenFile(path, O_RDWR | O_CREAT);
    if (!opened) return opened;
    struct stat info {};
    if (::fstat(opened->get(), &info) != 0) return FailErrno("stat " + path, errno);
    if (static_cast<uint64_t>(info.st_size) != size_bytes &&
        ::ftruncate(opened->get(), static_cast<off_t>(size_bytes)) != 0) {
      return FailErrno("set the size of " + path, errno);
    }
    return opened;
  }

  Status Write(int fd, std::span<const std::byte> data, uint64_t offset, const std::string& path) override {
    return PwriteFull(fd, data, offset, path);
  }

  Status Sync(int fd, const std::string& path) override {
    if (::fdatasync(fd) != 0) return FailErrno("fdatasync " + path, errno);
    return {};
  }

  Status SyncDirectory(const std::string& path) override {
    BANYAN_ASSIGN(const UniqueFd fd, OpenFile(path, O_RDONLY | O_DIRECTORY));
    if (::fsync(fd.get()) != 0) return FailErrno("fsync " + path, errno);
    return {};
  }

  Status Punch(int fd, ByteRange range, const std::string& path) override {
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (::fallocate(fd, mode, static_cast<off_t>(range.begin), static_cast<off_t>(range.size())) != 0) {
      return FailErrno("punch a hole into " + path, errno);
    }
    return {};
  }

  Status Remove(const std::string& path) override {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return FailErrno("remove " + path, errno);
    return {};
  }

  Status Rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) return FailErrno("rename " + from, errno);
    return {};
  }

  Status WriteWhole(const std::string& path, std::span<const std::byte> data) override {
    return WriteFileDurably(path, std::string_view(reinterpret_cast<const char*>(data.data()), data.size()));
  }
};

}  // namespace

std::shared_ptr<Disk> RealDisk() { return std::make_shared<LocalDisk>(); }

}  // namespace banyan::store
