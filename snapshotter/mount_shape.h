// Which mount containerd is told to make of a snapshot's directories.
#pragma once

#include <string>
#include <vector>

#include "snapshotter/snapshot.h"

namespace banyan::snapshotter {

struct MountParts {
  Kind kind = Kind::kActive;        // active or view
  std::string directory;            // the snapshot's own, with fs/ and, if active, work/
  std::vector<std::string> lowers;  // the topmost first
  bool index_off = false;           // the kernel's overlayfs has that option
};

// A bind mount when one directory is all there is to show, else an overlay. An overlay's limits (about 4 KiB of
// options) are containerd's to work around, which it does by the common prefix of the lower directories.
std::vector<Mount> ShapeMounts(const MountParts& parts);

// Whether this kernel's overlayfs knows `index`: a lower directory may then be under several overlays.
bool KernelHasOverlayIndex();

}  // namespace banyan::snapshotter
