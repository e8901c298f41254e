#include "image-format/chunk_table_proto.h"

#include <string>
#include <string_view>

#include <fmt/format.h>

namespace banyan::image_format {

void ChunkTableToProto(const ChunkTable& table, proto::image::ChunkTable* message) {
  message->Clear();
  message->mutable_compressed_bytes()->Reserve(static_cast<int>(table.size()));
  message->mutable_blocks()->Reserve(static_cast<int>(table.size()));
  std::string* compressed_digests = message->mutable_compressed_digests();
  std::string* block_digests = message->mutable_block_digests();
  compressed_digests->reserve(table.size() * Digest::kBytes);
  block_digests->reserve(table.size() * Digest::kBytes);
  for (const Chunk& chunk : table.chunks()) {
    message->add_compressed_bytes(chunk.compressed_bytes);
    message->add_blocks(chunk.blocks);
    compressed_digests->append(chunk.compressed_digest.raw());
    block_digests->append(chunk.block_digest.raw());
  }
}

Result<ChunkTable> ChunkTableFromProto(const proto::image::ChunkTable& message) {
  const auto count = static_cast<size_t>(message.blocks_size());
  if (count > kMaxChunks) {
    return Fail(Code::kInvalidArgument,
                fmt::format("chunk table of {} chunks: at most {} are allowed", count, kMaxChunks));
  }
  if (static_cast<size_t>(message.compressed_bytes_size()) != count ||
      message.compressed_digests().size() != count * Digest::kBytes ||
      message.block_digests().size() != count * Digest::kBytes) {
    return Fail(Code::kInvalidArgument,
                fmt::format("chunk table: {} chunks by their blocks, {} by their lengths, {} and {} bytes of digests",
                            count, message.compressed_bytes_size(), message.compressed_digests().size(),
                            message.block_digests().size()));
  }
  const std::string_view compressed_digests = message.compressed_digests();
  const std::string_view block_digests = message.block_digests();
  ChunkTable table;
  table.Reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const int index = static_cast<int>(i);
    BANYAN_ASSIGN(const Digest compressed_digest,
                  Digest::FromBytes(compressed_digests.substr(i * Digest::kBytes, Digest::kBytes)));
    BANYAN_ASSIGN(const Digest block_digest,
                  Digest::FromBytes(block_digests.substr(i * Digest::kBytes, Digest::kBytes)));
    BANYAN_TRY(table.Append(message.compressed_bytes(index), message.blocks(index), compressed_digest, block_digest));
  }
  return table;
}

}  // namespace banyan::image_format
