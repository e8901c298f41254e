// Mounts an image: EROFS metadata from a local file, each layer's data from a device file.
//
// Three forms, because kernels differ: `file` (EROFS reads files directly, Linux 6.12), `loop` (read-only loop devices
// with direct I/O over the same files, 5.16 to 6.11), `tree` (a FUSE directory tree served by ourselves, where EROFS is
// missing). kAuto tries them in this order; versions are not asked, since what works also depends on modules,
// containers and the file system below. The order of the devices is their only binding to the image, so it is checked
// before mounting.
//
// Mounts are read-only and otherwise keep what the image has: set-id bits and device nodes work, as containers need
// them (overlayfs applies the flags of its own mount; a bind mount those of this one). So put the target below a
// directory that only root may enter.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "fetch/lazy_layer.h"
#include "lazyfs/keeper.h"

namespace banyan::lazyfs {

class TreeServer;

enum class Form : uint8_t { kAuto, kFile, kLoop, kTree };

// "auto", "file", "loop", "tree".
std::string_view FormName(Form form);
Result<Form> ParseForm(std::string_view text);

struct ImageDevice {
  // A device file of a DeviceServer, or a complete local device file.
  std::string path;
  uint64_t size_bytes = 0;  // as the image map has it; 0 is an empty layer
  // What the tree form reads from; null: from `path`, which must then be a local file.
  std::shared_ptr<fetch::LazyLayer> layer;
};

struct MountSpec {
  std::string metadata_path;         // local EROFS metadata file, already checked against its digest
  std::vector<ImageDevice> devices;  // in the order of the image map
  std::string target;                // an existing directory
  Form form = Form::kAuto;
  uint32_t read_ahead_kib = 1024;
  std::string selinux_context;  // "context=" of the mount, if not empty
  // An image of the same metadata that is mounted at the target already (by a predecessor process) is taken as it is.
  bool adopt = true;
  // With `adopt`: that mount is taken away and made anew, because the FUSE session under its devices ended with its
  // keeper.
  bool replace = false;
  // For the tree form, so that it survives this process. Borrowed; outlives the MountedImage.
  SessionKeeper* keeper = nullptr;
};

// Movable. Destroying it leaves file and loop mounts in place; a tree mount is left to a successor if it has a keeper
// and unmounted otherwise.
struct MountedImage {
  std::string target;
  Form form = Form::kAuto;  // never kAuto once mounted
  bool adopted = false;
  bool direct_io = false;            // data are not cached a second time below the mount
  std::vector<std::string> notes;    // why earlier forms were refused, what could not be set
  std::shared_ptr<TreeServer> tree;  // form kTree
};

// Blocks; must not run on a thread that serves FUSE. kInvalidArgument when devices do not fit the metadata (number,
// sizes), kFailedPrecondition when something else is mounted at the target, kUnavailable with each form's reason when
// none works.
Result<MountedImage> MountImage(const MountSpec& spec);

struct UmountOptions {
  // Layers that no other mount uses: their parked reads are failed first (CancelAll), since umount would wait for them.
  std::vector<std::shared_ptr<fetch::LazyLayer>> cancel;
  // After this, a mount that is still busy is detached (MNT_DETACH).
  std::chrono::milliseconds busy_wait{1000};
  // After this, kDeadlineExceeded: the kernel still waits for something.
  std::chrono::milliseconds timeout{5000};
};

// Not mounted: no error. Must not run on a thread that serves FUSE.
Status UmountImage(MountedImage& image, const UmountOptions& options = {});
// By path alone: also mounts of a predecessor.
Status UmountTarget(const std::string& target, const UmountOptions& options = {});

}  // namespace banyan::lazyfs
