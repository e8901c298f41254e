// Any bytes behind a superblock with a right checksum: every question is answered or refused, and the check ends.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "image-format/erofs_flatten.h"
#include "image-format/erofs_layout.h"
#include "image-format/erofs_reader.h"

using namespace banyan;                // NOLINT
using namespace banyan::image_format;  // NOLINT

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  std::vector<std::byte> metadata(input.begin(), input.end());
  metadata.resize(BlocksFor(std::max<size_t>(size, 1)) * kBlockBytes);
  auto super = erofs::Load<erofs::Superblock>(metadata.data() + erofs::kSuperblockOffset);
  super.blocks = static_cast<uint32_t>(metadata.size() / kBlockBytes);
  erofs::Store(metadata.data() + erofs::kSuperblockOffset, super);
  super.checksum = erofs::SuperblockChecksum(std::span(metadata).first(kBlockBytes));
  erofs::Store(metadata.data() + erofs::kSuperblockOffset, super);

  (void)FlattenMetadata(metadata);
  const auto reader = ErofsReader::Open(metadata);
  if (!reader) return 0;
  (void)reader->Check();
  for (ErofsReader::Nid nid = 0; nid <= metadata.size() / erofs::kSlotBytes && nid < 512; ++nid) {
    (void)reader->GetStat(nid);
    (void)reader->ReadDirectory(nid);
    (void)reader->Lookup(nid, "name");
    (void)reader->ReadLink(nid);
    (void)reader->Xattrs(nid);
    (void)reader->FileExtent(nid);
  }
  return 0;
}
