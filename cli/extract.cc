#include "cli/extract.h"

#include <filesystem>

#include <fmt/format.h>

#include "cli/device_stream.h"
#include "cli/loaded_image.h"
#include "cli/text.h"
#include "common/file_io.h"
#include "convert/spool.h"
#include "image-format/erofs_reader.h"

namespace banyan::cli {
namespace {

void RemoveContents(const std::string& directory) {
  std::error_code ignored;
  for (const auto& item : std::filesystem::directory_iterator(directory, ignored))
    convert::RemoveTree(item.path().string());
}

Status WriteContents(const LoadedImage& image, const ErofsTree& view, TreeWriter& writer, Progress& progress,
                     std::stop_token stop) {
  for (size_t i = 0; i < image.map.devices.size(); ++i) {
    const image_format::Device& device = image.map.devices[i];
    if (device.chunks.empty()) continue;
    const std::string label = fmt::format("layer {}/{} {}", i + 1, image.map.devices.size(), device.diff_id.Short());
    const auto task = progress.Start(label, "extracting", device.device_bytes());
    ExtentRouter router(view.extents[i],
                        [&](const FileExtent& extent, uint64_t offset, std::span<const std::byte> bytes) {
                          return writer.Write(extent.inode, offset, bytes);
                        });
    DeviceVisitor visitor;
    visitor.on_blocks = [&](uint64_t first_block, std::span<const std::byte> blocks) {
      task->Advance(blocks.size());
      return router.Feed(first_block, blocks);
    };
    const Status streamed = StreamDevice(image.repository(), device, stop, visitor);
    progress.Finish(task, streamed ? HumanBytes(device.device_bytes()) : "failed");
    if (!streamed) return Fail(streamed.error().WithContext(label));
  }
  return {};
}

}  // namespace

Result<ExtractReport> ExtractImage(const GlobalOptions& globals, const std::string& reference,
                                   const std::string& platform, const std::string& directory, Progress& progress,
                                   std::stop_token stop) {
  BANYAN_ASSIGN(const LoadedImage image, LoadImage(globals, reference, platform));
  BANYAN_ASSIGN(const auto reader, image_format::ErofsReader::Open(image.metadata));
  BANYAN_ASSIGN(const ErofsTree view, ReadErofsTree(reader));
  BANYAN_TRY(MakeDirectories(directory));
  BANYAN_ASSIGN(TreeWriter writer, TreeWriter::Open(directory, view.tree));
  const auto write = [&]() -> Status {
    BANYAN_TRY(writer.MakeDirectoriesAndFiles());
    BANYAN_TRY(WriteContents(image, view, writer, progress, std::move(stop)));
    return writer.Complete();
  };
  const Status written = write();
  if (!written) {
    RemoveContents(directory);
    return Fail(written.error());
  }
  return writer.report();
}

}  // namespace banyan::cli
