// The disk under the store: the few calls whose order decides what a power cut can do, behind a seam so that tests can
// lose what was not synced. Everything else (reads, directory listings) goes to the file system directly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "common/result.h"
#include "common/unique_fd.h"
#include "common/units.h"

namespace banyan::store {

// Internally synchronised. Paths name the file for messages and for fakes; descriptors are of that very file.
class Disk {
 public:
  virtual ~Disk() = default;

  // Opens for reading and writing; makes the file, and sets its size, where it is not so already. `created` says that
  // the file was not there: its directory must be synced before the file is relied on.
  virtual Result<UniqueFd> OpenSparse(const std::string& path, uint64_t size_bytes, bool& created) = 0;
  // kResourceExhausted on ENOSPC and EDQUOT, with a prefix of the bytes possibly written.
  virtual Status Write(int fd, std::span<const std::byte> data, uint64_t offset, const std::string& path) = 0;
  // fdatasync(2): what was written before the call is on stable storage after it.
  virtual Status Sync(int fd, const std::string& path) = 0;
  virtual Status SyncDirectory(const std::string& path) = 0;
  // Gives the range's whole file-system blocks back; all its bytes read as zero.
  virtual Status Punch(int fd, ByteRange range, const std::string& path) = 0;
  // Absent already is fine.
  virtual Status Remove(const std::string& path) = 0;
  // Replaces what has that name. Its directory must be synced before the name is relied on.
  virtual Status Rename(const std::string& from, const std::string& to) = 0;
  // The whole file or none, durable on return.
  virtual Status WriteWhole(const std::string& path, std::span<const std::byte> data) = 0;
};

std::shared_ptr<Disk> RealDisk();

}  // namespace banyan::store
