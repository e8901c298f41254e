// Whole directory trees of outside making: how much they occupy, and away with them.
//
// A layer may nest directories deeper than paths or descriptors reach, so the walk holds one descriptor, goes down by
// name and up by "..", and checks that it has come back to where it was.
#pragma once

#include <atomic>
#include <string>

#include "common/result.h"
#include "snapshotter/lazy_images.h"

namespace banyan::snapshotter {

// What the tree occupies (allocated blocks, not sizes), itself included; a file with several links counts once. Stays
// on its file system. What vanishes meanwhile is not counted; kAborted when a directory was moved away under the walk.
Result<Usage> ScanUsage(const std::string& directory);

// Deletes the directory and all below it; absent: no error. The caller has made sure that nothing is mounted there.
// kCancelled as soon as `stop` is set.
Status RemoveTree(const std::string& directory, const std::atomic<bool>& stop);

}  // namespace banyan::snapshotter
