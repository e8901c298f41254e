// The chunk table on the wire, shared by the layer index and the image map. docs/format.md §"Chunks".
#pragma once

#include "common/result.h"
#include "image-format/chunk_table.h"
#include "proto/image_format.pb.h"

namespace banyan::image_format {

// Replaces what `message` held.
void ChunkTableToProto(const ChunkTable& table, proto::image::ChunkTable* message);
// kInvalidArgument if the lists differ in length, or a chunk breaks a limit of chunk_table.h.
Result<ChunkTable> ChunkTableFromProto(const proto::image::ChunkTable& message);

}  // namespace banyan::image_format
