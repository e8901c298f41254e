#include "image-format/zstd_sink.h"

#include <string>

#include <zstd.h>

namespace banyan::image_format {

ZstdSink::ZstdSink(ByteSink& out, int level) : out_(out), context_(ZSTD_createCCtx()), buffer_(ZSTD_CStreamOutSize()) {
  ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, level);
  ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_checksumFlag, 1);
}

ZstdSink::~ZstdSink() = default;

void ZstdSink::FreeContext::operator()(ZSTD_CCtx_s* context) const { ZSTD_freeCCtx(context); }

Status ZstdSink::Write(std::span<const std::byte> data) {
  ZSTD_inBuffer in{data.data(), data.size(), 0};
  while (in.pos < in.size) {
    ZSTD_outBuffer out{buffer_.data(), buffer_.size(), 0};
    const size_t status = ZSTD_compressStream2(context_.get(), &out, &in, ZSTD_e_continue);
    if (ZSTD_isError(status) != 0U) return Fail(Code::kInternal, std::string("zstd: ") + ZSTD_getErrorName(status));
    if (out.pos > 0) BANYAN_TRY(out_.Write(std::span(buffer_).first(out.pos)));
  }
  return {};
}

Status ZstdSink::Finish() {
  size_t left = 1;
  while (left > 0) {
    ZSTD_inBuffer in{nullptr, 0, 0};
    ZSTD_outBuffer out{buffer_.data(), buffer_.size(), 0};
    left = ZSTD_compressStream2(context_.get(), &out, &in, ZSTD_e_end);
    if (ZSTD_isError(left) != 0U) return Fail(Code::kInternal, std::string("zstd: ") + ZSTD_getErrorName(left));
    if (out.pos > 0) BANYAN_TRY(out_.Write(std::span(buffer_).first(out.pos)));
  }
  return {};
}

}  // namespace banyan::image_format
