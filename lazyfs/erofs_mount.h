// Mounting EROFS by the mount API's system calls (fsopen, fsconfig, fsmount, move_mount), one `device` a call: mount(2)
// cuts its options at a page, which mounts the wrong devices silently.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.h"

namespace banyan::lazyfs {

struct ErofsMount {
  std::string source;
  std::vector<std::string> devices;  // in the order of the device table
  std::string target;
  std::string selinux_context;
  bool direct_io = false;  // ask for `directio`
  uint32_t read_ahead_kib = 0;
};

struct ErofsMounted {
  bool direct_io = false;  // the kernel took the option
  std::vector<std::string> notes;
};

// The message holds what the kernel says about the failure.
Result<ErofsMounted> MountErofs(const ErofsMount& spec);

// The device table in a metadata file: blocks of each device, in order. kDataLoss unless it is EROFS metadata with
// sound bounds; an image without a device table has none.
Result<std::vector<uint32_t>> DeviceBlocks(const std::string& metadata_path);

}  // namespace banyan::lazyfs
