#include "fetch/pending_read.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "common/file_io.h"

namespace banyan::fetch {

Result<ReadView> MakeView(const store::StoredLayer& layer, PendingRead& read) {
  ReadView view;
  view.length = read.range.size();
  if (std::ranges::all_of(read.held, [](const HeldChunk& held) { return held.lease != nullptr; })) {
    view.fd = layer.device_fd();
    view.offset = read.range.begin;
    view.lease = store::ChunkLease(std::make_shared<std::vector<HeldChunk>>(std::move(read.held)));
    return view;
  }
  view.memory.resize(view.length);
  for (ChunkIndex chunk = read.chunks.begin; chunk < read.chunks.end; ++chunk) {
    const HeldChunk& held = read.held[chunk - read.chunks.begin];
    const ByteRange whole = layer.device().chunks[chunk].device_range();
    const ByteRange part{std::max(whole.begin, read.range.begin), std::min(whole.end, read.range.end)};
    const std::span<std::byte> out(view.memory.data() + (part.begin - read.range.begin), part.size());
    if (held.blocks) {
      std::memcpy(out.data(), held.blocks->data() + (part.begin - whole.begin), out.size());
    } else {
      BANYAN_TRY(PreadFull(layer.device_fd(), out, part.begin, layer.device_path()));
    }
  }
  return view;
}

CompressedView MakeView(store::CompressedChunk chunk) {
  return {chunk.fd, chunk.offset, chunk.length, nullptr, std::move(chunk.lease)};
}

}  // namespace banyan::fetch
