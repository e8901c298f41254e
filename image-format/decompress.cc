// Each decoder owns a buffer of compressed bytes and fills the caller's buffer directly; nothing is decompressed ahead.
#include "image-format/decompress.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include <fmt/format.h>
#include <isa-l/igzip_lib.h>
#include <zstd.h>

namespace banyan::image_format {

namespace {

constexpr size_t kInputBytes = 128 * 1024;
// isa-l 2.30 miscalculates the header's CRC-16 when the header comes in pieces, so headers up to this length are given
// whole.
constexpr size_t kGzipHeaderBytes = 66 * 1024;
constexpr int kMaxZstdWindowLog = 27;

// Compressed bytes not yet decoded.
class Input {
 public:
  explicit Input(ByteSource& source) : source_(source), buffer_(kInputBytes) {}

  // Reads until `count` bytes (at most kInputBytes) are there or the source has ended.
  Status Want(size_t count) {
    while (size() < count && !ended_) {
      if (begin_ > 0) {
        std::memmove(buffer_.data(), buffer_.data() + begin_, size());
        end_ -= begin_;
        begin_ = 0;
      }
      BANYAN_ASSIGN(const size_t read, source_.Read(std::span(buffer_).subspan(end_)));
      ended_ = read == 0;
      end_ += read;
    }
    return {};
  }
  void Consume(size_t count) {
    begin_ += count;
    consumed_ += count;
  }

  std::byte* data() { return buffer_.data() + begin_; }
  size_t size() const { return end_ - begin_; }
  uint8_t at(size_t index) const { return std::to_integer<uint8_t>(buffer_[begin_ + index]); }
  uint64_t consumed() const { return consumed_; }

 private:
  ByteSource& source_;
  std::vector<std::byte> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  uint64_t consumed_ = 0;
  bool ended_ = false;
};

bool IsGzip(const Input& input) { return input.size() >= 2 && input.at(0) == 0x1f && input.at(1) == 0x8b; }

bool IsZstd(const Input& input) {
  if (input.size() < 4) return false;
  const bool frame = input.at(0) == 0x28 && input.at(1) == 0xb5 && input.at(2) == 0x2f && input.at(3) == 0xfd;
  const bool skippable =
      (input.at(0) & 0xf0) == 0x50 && input.at(1) == 0x2a && input.at(2) == 0x4d && input.at(3) == 0x18;
  return frame || skippable;
}

class PlainSource final : public Decompressor {
 public:
  explicit PlainSource(Input input) : input_(std::move(input)) {}

  Result<size_t> Read(std::span<std::byte> buffer) override {
    BANYAN_TRY(input_.Want(1));
    const size_t count = std::min(buffer.size(), input_.size());
    std::memcpy(buffer.data(), input_.data(), count);
    input_.Consume(count);
    return count;
  }
  Compression compression() const override { return Compression::kNone; }

 private:
  Input input_;
};

std::string_view IsalErrorName(int error) {
  switch (error) {
    case ISAL_INVALID_BLOCK:
      return "invalid deflate block";
    case ISAL_INVALID_SYMBOL:
      return "invalid deflate symbol";
    case ISAL_INVALID_LOOKBACK:
      return "reference before the start";
    case ISAL_INVALID_WRAPPER:
      return "invalid gzip header";
    case ISAL_UNSUPPORTED_METHOD:
      return "unsupported compression method";
    case ISAL_INCORRECT_CHECKSUM:
      return "checksum or length differs";
    default:
      return "invalid data";
  }
}

class GzipSource final : public Decompressor {
 public:
  explicit GzipSource(Input input) : input_(std::move(input)), state_(std::make_unique<inflate_state>()) { Reset(); }

  Result<size_t> Read(std::span<std::byte> buffer) override {
    // isa-l counts in 32 bits.
    buffer = buffer.first(std::min<size_t>(buffer.size(), 1U << 30));
    size_t filled = 0;
    while (filled == 0 && !ended_) {
      BANYAN_ASSIGN(filled, ReadSome(buffer));
    }
    return filled;
  }
  Compression compression() const override { return Compression::kGzip; }

 private:
  void Reset() {
    isal_inflate_reset(state_.get());
    isal_inflate_init(state_.get());
    state_->crc_flag = ISAL_GZIP;
  }

  // May return 0 before the end, after a member's last byte.
  Result<size_t> ReadSome(std::span<std::byte> buffer) {
    if (state_->block_state == ISAL_BLOCK_FINISH) {
      BANYAN_TRY(NextMember());
      return 0;
    }
    BANYAN_TRY(input_.Want(1));
    const size_t offered = input_.size();
    state_->next_in = reinterpret_cast<uint8_t*>(input_.data());
    state_->avail_in = static_cast<uint32_t>(offered);
    state_->next_out = reinterpret_cast<uint8_t*>(buffer.data());
    state_->avail_out = static_cast<uint32_t>(buffer.size());
    const int error = isal_inflate(state_.get());
    const size_t taken = offered - state_->avail_in;
    const size_t filled = buffer.size() - state_->avail_out;
    input_.Consume(taken);
    if (error < 0) {
      return Fail(Code::kDataLoss,
                  fmt::format("gzip: {} near compressed byte {}", IsalErrorName(error), input_.consumed()));
    }
    if (filled == 0 && offered == 0 && state_->block_state != ISAL_BLOCK_FINISH) {
      return Fail(Code::kDataLoss, fmt::format("gzip: truncated after {} compressed bytes", input_.consumed()));
    }
    return filled;
  }

  Status NextMember() {
    BANYAN_TRY(input_.Want(kGzipHeaderBytes));
    if (IsGzip(input_)) {
      Reset();
      return {};
    }
    while (input_.size() > 0) {
      const std::span<const std::byte> rest(input_.data(), input_.size());
      if (std::any_of(rest.begin(), rest.end(), [](std::byte b) { return b != std::byte{0}; })) {
        return Fail(Code::kDataLoss,
                    fmt::format("gzip: trailing garbage behind compressed byte {}", input_.consumed()));
      }
      input_.Consume(input_.size());
      BANYAN_TRY(input_.Want(1));
    }
    ended_ = true;
    return {};
  }

  Input input_;
  std::unique_ptr<inflate_state> state_;  // 80 KiB
  bool ended_ = false;
};

class ZstdSource final : public Decompressor {
 public:
  explicit ZstdSource(Input input) : input_(std::move(input)), context_(ZSTD_createDCtx()) {
    ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, kMaxZstdWindowLog);
  }

  Result<size_t> Read(std::span<std::byte> buffer) override {
    ZSTD_outBuffer out{buffer.data(), buffer.size(), 0};
    while (out.pos == 0) {
      BANYAN_TRY(input_.Want(1));
      if (input_.size() == 0 && between_frames_) return 0;
      ZSTD_inBuffer in{input_.data(), input_.size(), 0};
      const size_t hint = ZSTD_decompressStream(context_.get(), &out, &in);
      if (ZSTD_isError(hint) != 0U) {
        return Fail(Code::kDataLoss,
                    fmt::format("zstd: {} near compressed byte {}", ZSTD_getErrorName(hint), input_.consumed()));
      }
      if (in.size == 0 && out.pos == 0) {
        return Fail(Code::kDataLoss, fmt::format("zstd: truncated after {} compressed bytes", input_.consumed()));
      }
      input_.Consume(in.pos);
      between_frames_ = hint == 0;
    }
    return out.pos;
  }
  Compression compression() const override { return Compression::kZstd; }

 private:
  struct FreeDCtx {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };

  Input input_;
  std::unique_ptr<ZSTD_DCtx, FreeDCtx> context_;
  bool between_frames_ = true;
};

}  // namespace

std::string_view CompressionName(Compression compression) {
  switch (compression) {
    case Compression::kGzip:
      return "gzip";
    case Compression::kZstd:
      return "zstd";
    case Compression::kNone:
      break;
  }
  return "none";
}

Result<std::unique_ptr<Decompressor>> Decompressor::Open(ByteSource& compressed) {
  Input input(compressed);
  BANYAN_TRY(input.Want(4));
  if (IsGzip(input)) {
    BANYAN_TRY(input.Want(kGzipHeaderBytes));
    return std::make_unique<GzipSource>(std::move(input));
  }
  if (IsZstd(input)) return std::make_unique<ZstdSource>(std::move(input));
  return std::make_unique<PlainSource>(std::move(input));
}

}  // namespace banyan::image_format
