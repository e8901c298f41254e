// A small real image for tests: directories on disk become tars, layers, devices and EROFS metadata.
#pragma once

#include <string>
#include <vector>

#include "common/result.h"
#include "lazyfs/image_mount.h"

namespace banyan::lazyfs::testing {

struct TestImage {
  std::string metadata_path;
  std::vector<std::string> device_paths;  // complete data devices, bottom layer first
  std::vector<uint64_t> device_bytes;
};

// Each of `layer_dirs` is a layer, bottom first; files are written below `out_dir`. Uses tar(1).
Result<TestImage> BuildTestImage(const std::vector<std::string>& layer_dirs, const std::string& out_dir);

}  // namespace banyan::lazyfs::testing
