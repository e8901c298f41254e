// The layer index's bytes: one zstd frame of the magic "BYNLIDX1", then length-delimited messages, a LayerIndexHeader
// and entry_count Entry messages. Decoding streams: a length is believed only as far as bytes follow it, and bytes may
// not outgrow what was read by more than kMaxRatio, so memory stays proportional to the blob.
#include "image-format/layer_index.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "image-format/chunk_table_proto.h"
#include "image-format/decompress.h"
#include "image-format/layer_index_check.h"
#include "image-format/zstd_sink.h"
#include "proto/image_format.pb.h"

namespace banyan::image_format {

namespace {

constexpr std::string_view kMagic = "BYNLIDX1";
constexpr int kLevel = 5;
constexpr uint64_t kMaxHeaderBytes = 256 * kMiB;  // over three million chunks
constexpr uint64_t kMaxEntryBytes = 1 * kMiB;
constexpr uint64_t kMaxRatio = 200;
constexpr uint64_t kRatioFreeBytes = 64 * kMiB;

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

class CountingSource final : public ByteSource {
 public:
  explicit CountingSource(ByteSource& source) : source_(source) {}
  Result<size_t> Read(std::span<std::byte> buffer) override {
    BANYAN_ASSIGN(const size_t count, source_.Read(buffer));
    count_ += count;
    return count;
  }
  uint64_t count() const { return count_; }

 private:
  ByteSource& source_;
  uint64_t count_ = 0;
};

Status WriteDelimited(const google::protobuf::MessageLite& message, std::string& scratch, ByteSink& out) {
  scratch.clear();
  uint64_t length = message.ByteSizeLong();
  for (; length >= 0x80; length >>= 7) scratch.push_back(static_cast<char>(length | 0x80));
  scratch.push_back(static_cast<char>(length));
  if (!message.AppendToString(&scratch)) return Fail(Code::kInternal, "layer index: message does not serialise");
  return out.Write(Bytes(scratch));
}

class Reader {
 public:
  static Result<Reader> Open(CountingSource& blob) {
    BANYAN_ASSIGN(std::unique_ptr<Decompressor> source, Decompressor::Open(blob));
    if (source->compression() != Compression::kZstd) {
      return Fail(Code::kInvalidArgument, "layer index: not a zstd frame");
    }
    return Reader(blob, std::move(source));
  }

  // Exactly `count` bytes into `out`.
  Status ReadBytes(uint64_t count, std::string& out) {
    out.clear();
    while (out.size() < count) {
      BANYAN_TRY(Refill());
      if (begin_ == end_) return Fail(Code::kDataLoss, "layer index: ends in the middle of a message");
      const size_t taken = std::min<uint64_t>(count - out.size(), end_ - begin_);
      out.append(reinterpret_cast<const char*>(buffer_.data()) + begin_, taken);
      begin_ += taken;
    }
    return {};
  }

  Status ReadDelimited(uint64_t limit, std::string& scratch, google::protobuf::MessageLite& message) {
    uint64_t length = 0;
    for (unsigned shift = 0;; shift += 7) {
      if (shift > 28) return Fail(Code::kInvalidArgument, "layer index: length of a message does not fit 32 bits");
      BANYAN_TRY(ReadBytes(1, scratch));
      const auto byte = static_cast<uint8_t>(scratch[0]);
      length |= uint64_t{byte & 0x7fU} << shift;
      if (byte < 0x80) break;
    }
    if (length > limit) {
      return Fail(Code::kResourceExhausted,
                  fmt::format("layer index: message of {} bytes, at most {} are allowed", length, limit));
    }
    BANYAN_TRY(ReadBytes(length, scratch));
    if (!message.ParseFromString(scratch)) {
      return Fail(Code::kInvalidArgument, "layer index: message does not parse");
    }
    return {};
  }

  Result<bool> AtEnd() {
    BANYAN_TRY(Refill());
    return begin_ == end_;
  }

 private:
  Reader(CountingSource& blob, std::unique_ptr<Decompressor> source)
      : blob_(&blob), source_(std::move(source)), buffer_(64 * kKiB) {}

  Status Refill() {
    if (begin_ < end_) return {};
    BANYAN_ASSIGN(end_, source_->Read(buffer_));
    begin_ = 0;
    produced_ += end_;
    if (produced_ > kRatioFreeBytes + kMaxRatio * blob_->count()) {
      return Fail(Code::kResourceExhausted,
                  fmt::format("layer index: {} bytes out of {} compressed ones", produced_, blob_->count()));
    }
    return {};
  }

  CountingSource* blob_;
  std::unique_ptr<Decompressor> source_;
  std::vector<std::byte> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  uint64_t produced_ = 0;
};

void HeaderToProto(const LayerIndex& index, proto::image::LayerIndexHeader* message) {
  message->set_format_version(kFormatVersion);
  message->set_converter_version(index.converter_version);
  message->set_source_digest(std::string(index.source_digest.raw()));
  message->set_diff_id(std::string(index.diff_id.raw()));
  message->set_blob_digest(std::string(index.blob_digest.raw()));
  message->set_blob_bytes(index.blob_bytes);
  message->set_device_blocks(index.device_blocks);
  message->mutable_chunking()->set_min_blocks(index.chunking.min_blocks);
  message->mutable_chunking()->set_average_blocks(index.chunking.average_blocks);
  message->mutable_chunking()->set_max_blocks(index.chunking.max_blocks);
  ChunkTableToProto(index.chunks, message->mutable_chunks());
  message->set_entry_count(index.entries.size());
}

Status HeaderFromProto(const proto::image::LayerIndexHeader& message, LayerIndex& index) {
  if (message.format_version() != kFormatVersion) {
    return Fail(Code::kInvalidArgument, fmt::format("layer index: format version {}, only {} is known",
                                                    message.format_version(), kFormatVersion));
  }
  index.converter_version = message.converter_version();
  BANYAN_ASSIGN(index.source_digest, Digest::FromBytes(message.source_digest()));
  BANYAN_ASSIGN(index.diff_id, Digest::FromBytes(message.diff_id()));
  BANYAN_ASSIGN(index.blob_digest, Digest::FromBytes(message.blob_digest()));
  index.blob_bytes = message.blob_bytes();
  index.device_blocks = message.device_blocks();
  index.chunking = {message.chunking().min_blocks(), message.chunking().average_blocks(),
                    message.chunking().max_blocks()};
  BANYAN_ASSIGN(index.chunks, ChunkTableFromProto(message.chunks()));
  return {};
}

void EntryToProto(const Entry& entry, proto::image::Entry* message) {
  message->Clear();
  message->set_parent(entry.parent);
  message->set_name(entry.name);
  message->set_kind(static_cast<proto::image::Entry::Kind>(entry.kind));
  message->set_mode(entry.mode);
  message->set_uid(entry.uid);
  message->set_gid(entry.gid);
  message->set_mtime_seconds(entry.mtime_seconds);
  message->set_mtime_nanoseconds(entry.mtime_nanoseconds);
  message->set_size(entry.size);
  message->set_first_block(entry.first_block);
  message->set_device_major(entry.device_major);
  message->set_device_minor(entry.device_minor);
  message->set_target(entry.target);
  message->set_link_entry(entry.link_entry);
  for (const Xattr& xattr : entry.xattrs) {
    proto::image::Xattr* added = message->add_xattrs();
    added->set_name(xattr.name);
    added->set_value(xattr.value);
  }
  message->set_opaque(entry.opaque);
  message->set_implied(entry.implied);
}

Result<Entry> EntryFromProto(proto::image::Entry& message, uint64_t number) {
  if (!proto::image::Entry::Kind_IsValid(message.kind())) {
    return Fail(Code::kInvalidArgument,
                fmt::format("layer index: entry {}: kind {} is not known", number, static_cast<int>(message.kind())));
  }
  if (message.mode() > 07777) {
    return Fail(Code::kInvalidArgument, fmt::format("layer index: entry {}: mode {:o}", number, message.mode()));
  }
  Entry entry;
  entry.parent = message.parent();
  entry.name = std::move(*message.mutable_name());
  entry.kind = static_cast<EntryKind>(message.kind());
  entry.mode = static_cast<uint16_t>(message.mode());
  entry.uid = message.uid();
  entry.gid = message.gid();
  entry.mtime_seconds = message.mtime_seconds();
  entry.mtime_nanoseconds = message.mtime_nanoseconds();
  entry.size = message.size();
  entry.first_block = message.first_block();
  entry.device_major = message.device_major();
  entry.device_minor = message.device_minor();
  entry.target = std::move(*message.mutable_target());
  entry.link_entry = message.link_entry();
  entry.xattrs.reserve(static_cast<size_t>(message.xattrs_size()));
  for (proto::image::Xattr& xattr : *message.mutable_xattrs()) {
    entry.xattrs.push_back({std::move(*xattr.mutable_name()), std::move(*xattr.mutable_value())});
  }
  entry.opaque = message.opaque();
  entry.implied = message.implied();
  return entry;
}

}  // namespace

std::string PathOf(const LayerIndex& index, uint32_t entry) {
  std::string path;
  std::vector<uint32_t> chain;
  for (; entry != 0; entry = index.entries[entry].parent) chain.push_back(entry);
  for (auto it = chain.rbegin(); it != chain.rend(); ++it) {
    if (!path.empty()) path += '/';
    path += index.entries[*it].name;
  }
  return path;
}

Status EncodeLayerIndex(const LayerIndex& index, ByteSink& out) {
  ZstdSink sink(out, kLevel);
  BANYAN_TRY(sink.Write(Bytes(kMagic)));
  std::string scratch;
  {
    proto::image::LayerIndexHeader header;
    HeaderToProto(index, &header);
    if (header.ByteSizeLong() > kMaxHeaderBytes) {
      return Fail(Code::kResourceExhausted, fmt::format("layer index: {} chunks are too many", index.chunks.size()));
    }
    BANYAN_TRY(WriteDelimited(header, scratch, sink));
  }
  proto::image::Entry message;
  for (const Entry& entry : index.entries) {
    EntryToProto(entry, &message);
    BANYAN_TRY(WriteDelimited(message, scratch, sink));
  }
  return sink.Finish();
}

Result<LayerIndex> DecodeLayerIndex(ByteSource& in) {
  CountingSource blob(in);
  BANYAN_ASSIGN(Reader reader, Reader::Open(blob));
  std::string scratch;
  BANYAN_TRY(reader.ReadBytes(kMagic.size(), scratch));
  if (scratch != kMagic) return Fail(Code::kInvalidArgument, "layer index: wrong magic bytes");

  LayerIndex index;
  uint64_t entry_count = 0;
  {
    proto::image::LayerIndexHeader header;
    BANYAN_TRY(reader.ReadDelimited(kMaxHeaderBytes, scratch, header));
    BANYAN_TRY(HeaderFromProto(header, index));
    entry_count = header.entry_count();
  }
  if (entry_count == 0 || entry_count > kMaxEntries) {
    return Fail(Code::kInvalidArgument, fmt::format("layer index: {} entries, want 1 to {}", entry_count, kMaxEntries));
  }
  IndexChecker checker(index);
  BANYAN_TRY(checker.CheckHeader());
  proto::image::Entry message;
  for (uint64_t number = 0; number < entry_count; ++number) {
    BANYAN_TRY(reader.ReadDelimited(kMaxEntryBytes, scratch, message));
    BANYAN_ASSIGN(Entry entry, EntryFromProto(message, number));
    BANYAN_TRY(checker.CheckNext(entry));
    index.entries.push_back(std::move(entry));
  }
  BANYAN_TRY(checker.CheckLinks());
  BANYAN_ASSIGN(const bool at_end, reader.AtEnd());
  if (!at_end) return Fail(Code::kInvalidArgument, "layer index: bytes behind the last entry");
  return index;
}

}  // namespace banyan::image_format
