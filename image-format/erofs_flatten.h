// The flattened form of an image: metadata and devices in one file, for loop devices and drives of virtual machines
// (docs/format.md §"Flattened form").
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "common/result.h"

namespace banyan::image_format {

// The metadata of the flattened form, as long as the given ones: no device table, files as single extents behind the
// metadata, where the device table says. The devices follow in their order. Linux mounts the result from 5.4 on.
// Checks the metadata first (ErofsReader::Check): kDataLoss. O(inodes) time and memory.
Result<std::vector<std::byte>> FlattenMetadata(std::span<const std::byte> metadata);

}  // namespace banyan::image_format
