#include "lazyfs/testing/test_image.h"

#include <fmt/format.h>

#include "common/file_io.h"
#include "image-format/image_builder.h"
#include "image-format/testing/convert_for_test.h"
#include "lazyfs/testing/sandbox.h"

namespace banyan::lazyfs::testing {

namespace format = image_format;

Result<TestImage> BuildTestImage(const std::vector<std::string>& layer_dirs, const std::string& out_dir) {
  TestImage image;
  std::vector<format::testing::Converted> layers;
  for (const std::string& dir : layer_dirs) {
    const std::string tar = fmt::format("{}/layer{}.tar", out_dir, layers.size());
    if (RunProgram({"tar", "--format=pax", "--xattrs", "-C", dir, "-cf", tar, "."}) != 0) {
      return Fail(Code::kInternal, "tar of " + dir);
    }
    BANYAN_ASSIGN(const std::string bytes, ReadFile(tar));
    BANYAN_ASSIGN(format::testing::Converted layer, format::testing::ConvertForTest(bytes));
    BANYAN_ASSIGN(const std::string device, format::testing::DeviceOf(layer));
    image.device_paths.push_back(fmt::format("{}/device{}", out_dir, layers.size()));
    image.device_bytes.push_back(device.size());
    WriteFileOrDie(image.device_paths.back(), device);
    layers.push_back(std::move(layer));
  }
  std::vector<format::LayerInput> inputs;
  for (const auto& layer : layers) inputs.push_back({&layer.index, Digest::Of("index"), 5});
  BANYAN_ASSIGN(const format::BuiltImage built, format::BuildImage(inputs, "test"));
  image.metadata_path = out_dir + "/metadata";
  WriteFileOrDie(image.metadata_path,
                 std::string(reinterpret_cast<const char*>(built.metadata.data()), built.metadata.size()));
  return image;
}

}  // namespace banyan::lazyfs::testing
