// Read-only loop devices with direct I/O, for kernels whose EROFS reads block devices only.
//
// A file has one loop device, which all mounts share: an existing one is found by the file's device and inode numbers,
// so that nothing needs to be remembered over restarts. The kernel counts the users: AUTOCLEAR frees the loop device
// when the last mount (or open descriptor) has gone.
#pragma once

#include <string>

#include "common/result.h"
#include "common/unique_fd.h"

namespace banyan::lazyfs {

struct LoopDevice {
  std::string path;        // /dev/loopN
  UniqueFd hold;           // keeps it until it is mounted
  bool direct_io = false;  // as the kernel says, not as asked
};

// Blocks; tries again while others take free devices away. kUnimplemented or kPermissionDenied where there are no loop
// devices, kResourceExhausted when all attempts were lost.
Result<LoopDevice> AttachLoop(const std::string& file_path);

}  // namespace banyan::lazyfs
