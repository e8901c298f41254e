// A layer's data, read from a repository from end to end and checked on the way; and its way to the files that it
// holds.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <stop_token>
#include <vector>

#include "cli/tree.h"
#include "common/result.h"
#include "image-format/image_map.h"
#include "net/repository.h"

namespace banyan::cli {

struct DeviceVisitor {
  // Blocks of the device, in order, whose digests were right.
  std::function<Status(uint64_t first_block, std::span<const std::byte> blocks)> on_blocks;
  // A chunk, or the blob's own digest, is wrong. Success goes on behind it; unset: the error ends the stream.
  std::function<Status(const Error&)> on_bad;
};

// Streams the data blob, checks its length and digest and both digests of each chunk. Memory: one chunk. Does nothing
// for an empty device.
Status StreamDevice(net::Repository& repository, const image_format::Device& device, std::stop_token stop,
                    const DeviceVisitor& visitor);

// Cuts a device's blocks into the contents of files.
class ExtentRouter {
 public:
  using OnBytes = std::function<Status(const FileExtent& extent, uint64_t offset, std::span<const std::byte> bytes)>;

  // `extents` in order and apart from each other, as ReadErofsTree gives them; borrowed.
  ExtentRouter(std::span<const FileExtent> extents, OnBytes on_bytes)
      : extents_(extents), on_bytes_(std::move(on_bytes)) {}

  // Blocks in rising order; gaps are allowed.
  Status Feed(uint64_t first_block, std::span<const std::byte> blocks);

 private:
  std::span<const FileExtent> extents_;
  const OnBytes on_bytes_;
  size_t next_ = 0;  // the first extent that does not end before what came so far
};

}  // namespace banyan::cli
