// Compresses what is written into one zstd frame: how the layer index is stored.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "common/byte_stream.h"
#include "common/result.h"

struct ZSTD_CCtx_s;

namespace banyan::image_format {

// Externally synchronised. The same writes at the same level give the same bytes.
class ZstdSink final : public ByteSink {
 public:
  // `out` must outlive the sink.
  ZstdSink(ByteSink& out, int level);
  ~ZstdSink() override;

  Status Write(std::span<const std::byte> data) override;
  // Ends the frame; nothing may be written after it.
  Status Finish();

 private:
  struct FreeContext {
    void operator()(ZSTD_CCtx_s* context) const;
  };

  ByteSink& out_;
  std::unique_ptr<ZSTD_CCtx_s, FreeContext> context_;
  std::vector<std::byte> buffer_;
};

}  // namespace banyan::image_format
