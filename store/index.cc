#include "store/index.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <bit>
#include <utility>

#include <fmt/format.h>
#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include "common/file_io.h"
#include "common/log.h"

namespace banyan::store {

namespace {

constexpr std::string_view kName = "store index";
constexpr DatabaseOptions kDatabase{.name = kName, .cache_bytes = 8 * kMiB, .bloom_filters = true};
constexpr char kLayerKey = 'L';
constexpr char kPresenceKey = 'P';
constexpr char kPlaceKey = 'R';
constexpr char kWholeBlobKey = 'S';
constexpr char kNoteKey = 'N';
constexpr uint8_t kRecordVersion = 1;
constexpr size_t kChunkRecordBytes = 4 + 4 + Digest::kBytes + Digest::kBytes;
constexpr uint64_t kLeastRoomBytes = 2 * kMiB;  // with less it is not tried to open the database to be written
constexpr std::chrono::milliseconds kQuietAfterFailure{300};

std::string Key(char kind, const Digest& digest) { return kind + std::string(digest.raw()); }

std::string PlaceKey(const Digest& block_digest, const Digest& blob, ChunkIndex chunk) {
  std::string key = Key(kPlaceKey, block_digest).append(blob.raw());
  for (int shift = 24; shift >= 0; shift -= 8) key.push_back(static_cast<char>(chunk >> shift));
  return key;
}

class Writer {
 public:
  Writer() { Int(kRecordVersion); }
  template <typename T>
  void Int(T value) {
    for (size_t i = 0; i < sizeof(T); ++i) out_.push_back(static_cast<char>(uint64_t{value} >> (8 * i)));
  }
  void Bytes(std::string_view bytes) { out_.append(bytes); }
  void Sized(std::string_view bytes) {
    Int(static_cast<uint32_t>(bytes.size()));
    Bytes(bytes);
  }
  std::string Take() { return std::move(out_); }

 private:
  std::string out_;
};

// Reads past the end give zeros and make ok() false.
class Reader {
 public:
  explicit Reader(std::string_view in) : in_(in) { ok_ = Int<uint8_t>() == kRecordVersion; }
  template <typename T>
  T Int() {
    uint64_t value = 0;
    const std::string_view bytes = Bytes(sizeof(T));
    for (size_t i = 0; i < bytes.size(); ++i) value |= uint64_t{static_cast<uint8_t>(bytes[i])} << (8 * i);
    return static_cast<T>(value);
  }
  std::string_view Bytes(size_t count) {
    if (count > in_.size()) {
      ok_ = false;
      return {};
    }
    const std::string_view bytes = in_.substr(0, count);
    in_.remove_prefix(count);
    return bytes;
  }
  std::string_view Sized() { return Bytes(Int<uint32_t>()); }
  Digest ReadDigest() { return Digest::FromBytes(Bytes(Digest::kBytes)).value_or(Digest()); }
  size_t left() const { return in_.size(); }
  bool done() const { return ok_ && in_.empty(); }

 private:
  std::string_view in_;
  bool ok_ = true;
};

Result<WholeBlobRecord> DecodeWholeBlob(std::string_view record) {
  Reader in(record);
  WholeBlobRecord out{.bytes = in.Int<uint64_t>(), .last_use_seconds = in.Int<int64_t>()};
  if (in.left() != 0) out.raw = in.Int<uint8_t>() != 0;  // records from before there were raw ones end here
  if (!in.done()) return Fail(Code::kDataLoss, "a record of a whole blob is malformed");
  return out;
}

Error IndexError(std::string_view what, const rocksdb::Status& status) { return DatabaseError(kName, what, status); }

}  // namespace

std::string EncodeLayer(const image_format::Device& device) {
  Writer out;
  out.Int(device.blob_bytes);
  out.Bytes(device.diff_id.raw());
  out.Bytes(device.index_digest.raw());
  out.Int(device.index_bytes);
  out.Int(device.blocks);
  for (const image_format::Chunk& chunk : device.chunks.chunks()) {
    out.Int(chunk.compressed_bytes);
    out.Int(chunk.blocks);
    out.Bytes(chunk.compressed_digest.raw());
    out.Bytes(chunk.block_digest.raw());
  }
  return out.Take();
}

Result<image_format::Device> DecodeLayer(const Digest& blob, std::string_view record) {
  const auto malformed = [&] {
    return Fail(Code::kDataLoss, fmt::format("record of layer {}: malformed", blob.Short()));
  };
  Reader in(record);
  image_format::Device device;
  device.blob_digest = blob;
  device.blob_bytes = in.Int<uint64_t>();
  device.diff_id = in.ReadDigest();
  device.index_digest = in.ReadDigest();
  device.index_bytes = in.Int<uint64_t>();
  device.blocks = in.Int<uint32_t>();
  if (in.left() % kChunkRecordBytes != 0) return malformed();
  device.chunks.Reserve(in.left() / kChunkRecordBytes);
  while (in.left() != 0) {
    const auto compressed_bytes = in.Int<uint32_t>();
    const auto blocks = in.Int<uint32_t>();
    const Digest compressed = in.ReadDigest();
    const Digest decompressed = in.ReadDigest();
    if (!device.chunks.Append(compressed_bytes, blocks, compressed, decompressed)) return malformed();
  }
  const bool agrees = device.chunks.device_blocks() == device.blocks && device.chunks.blob_bytes() == device.blob_bytes;
  if (!in.done() || !agrees) return malformed();
  return device;
}

std::string EncodePresence(const PresenceRecord& record) {
  Writer out;
  out.Int(record.uses);
  out.Int(std::bit_cast<uint64_t>(record.age));
  out.Int(record.block_bytes);
  out.Int(record.compressed_bytes);
  out.Sized(record.blocks);
  out.Sized(record.compressed);
  return out.Take();
}

Result<PresenceRecord> DecodePresence(std::string_view record) {
  Reader in(record);
  PresenceRecord out;
  out.uses = in.Int<uint64_t>();
  out.age = std::bit_cast<double>(in.Int<uint64_t>());
  out.block_bytes = in.Int<uint64_t>();
  out.compressed_bytes = in.Int<uint64_t>();
  out.blocks = in.Sized();
  out.compressed = in.Sized();
  if (!in.done()) return Fail(Code::kDataLoss, "a presence record is malformed");
  return out;
}

Index::Batch::Batch() : batch_(std::make_unique<rocksdb::WriteBatch>()) {}
Index::Batch::~Batch() = default;
Index::Batch::Batch(Batch&&) noexcept = default;

void Index::Batch::PutLayer(const image_format::Device& device) {
  batch_->Put(Key(kLayerKey, device.blob_digest), EncodeLayer(device));
  for (ChunkIndex i = 0; i < device.chunks.size(); ++i) {
    batch_->Put(PlaceKey(device.chunks[i].block_digest, device.blob_digest, i), "");
  }
}

void Index::Batch::PutPresence(const Digest& blob, const PresenceRecord& record) {
  batch_->Put(Key(kPresenceKey, blob), EncodePresence(record));
}

void Index::Batch::DeleteLayer(const image_format::Device& device) {
  DeleteUnreadableLayer(device.blob_digest);
  for (ChunkIndex i = 0; i < device.chunks.size(); ++i) {
    batch_->Delete(PlaceKey(device.chunks[i].block_digest, device.blob_digest, i));
  }
}

void Index::Batch::DeleteUnreadableLayer(const Digest& blob) {
  batch_->Delete(Key(kLayerKey, blob));
  batch_->Delete(Key(kPresenceKey, blob));
}

void Index::Batch::PutWholeBlob(const Digest& blob, const WholeBlobRecord& record) {
  Writer out;
  out.Int(record.bytes);
  out.Int(static_cast<uint64_t>(record.last_use_seconds));
  out.Int(static_cast<uint8_t>(record.raw));
  batch_->Put(Key(kWholeBlobKey, blob), out.Take());
}

void Index::Batch::DeleteWholeBlob(const Digest& blob) { batch_->Delete(Key(kWholeBlobKey, blob)); }

void Index::Batch::PutNote(std::string_view key, std::string_view value) {
  const std::string full = kNoteKey + std::string(key);
  if (value.empty()) {
    batch_->Delete(full);
  } else {
    batch_->Put(full, rocksdb::Slice(value.data(), value.size()));
  }
}

bool Index::Batch::empty() const { return batch_->Count() == 0; }

Index::Index(Database db, std::string path, bool read_only)
    : path_(std::move(path)), db_(std::move(db)), read_only_(read_only) {}

std::shared_ptr<rocksdb::DB> Index::db() const {
  const std::scoped_lock lock(mutex_);
  return db_;
}

Status Index::OpenToWrite() {
  const std::scoped_lock lock(mutex_);
  if (!read_only_) return {};
  struct statvfs disk {};
  // An attempt leaves files behind that it had no room to finish.
  if (::statvfs(path_.c_str(), &disk) == 0 && disk.f_bfree * disk.f_frsize < kLeastRoomBytes) {
    return Fail(Code::kResourceExhausted, "store index: the disk is full");
  }
  BANYAN_ASSIGN(db_, OpenDatabase(kDatabase, path_));
  read_only_ = false;
  return {};
}

Result<std::unique_ptr<Index>> Index::TryOpen(const std::string& path) {
  Result<Database> db = OpenDatabase(kDatabase, path);
  const bool read_only = !db && db.error().code == Code::kResourceExhausted;
  if (read_only) {
    Result<Database> readable = OpenDatabaseToRead(kDatabase, path);
    if (!readable) return Fail(db.error());
    spdlog::warn("{}; read only, until there is room", db.error().message);
    db = std::move(readable);
  } else if (!db) {
    return Fail(db.error());
  }
  std::unique_ptr<Index> index(new Index(std::move(*db), path, read_only));
  // Reads every record that will be relied on without another look.
  if (Result<Summary> summary = index->ReadSummary(); !summary) return Fail(std::move(summary).error());
  return index;
}

Result<std::unique_ptr<Index>> Index::Open(const std::string& path, bool& begun_anew) {
  begun_anew = false;
  Result<std::unique_ptr<Index>> index = TryOpen(path);
  if (index || index.error().code != Code::kDataLoss) return index;
  spdlog::warn("{}; set aside, the store begins empty", index.error().message);
  BANYAN_TRY(SetDatabaseAside(path));
  begun_anew = true;
  return TryOpen(path);
}

Status Index::Write(Batch batch, bool sync) {
  if (Clock::now() < quiet_until_.load()) {
    return Fail(Code::kResourceExhausted, "store index: a write failed a moment ago");
  }
  Status written = OpenToWrite();
  if (written) written = WriteNow(*batch.batch_, sync);
  if (!written) quiet_until_ = Clock::now() + kQuietAfterFailure;
  return written;
}

Status Index::WriteNow(rocksdb::WriteBatch& batch, bool sync) {
  const std::shared_ptr<rocksdb::DB> database = db();
  rocksdb::WriteOptions options;
  options.sync = sync;
  rocksdb::Status status = database->Write(options, &batch);
  if (!status.ok()) {
    // After an error RocksDB refuses writes until told to go on.
    database->Resume();
    status = database->Write(options, &batch);
  }
  if (!status.ok()) return Fail(IndexError("write", status));
  return {};
}

Result<image_format::Device> Index::GetLayer(const Digest& blob) {
  std::string record;
  const rocksdb::Status status = db()->Get(rocksdb::ReadOptions(), Key(kLayerKey, blob), &record);
  if (!status.ok()) return Fail(IndexError("layer " + blob.Short(), status));
  return DecodeLayer(blob, record);
}

Result<PresenceRecord> Index::GetPresence(const Digest& blob) {
  std::string record;
  const rocksdb::Status status = db()->Get(rocksdb::ReadOptions(), Key(kPresenceKey, blob), &record);
  if (!status.ok()) return Fail(IndexError("presence of layer " + blob.Short(), status));
  return DecodePresence(record);
}

Result<std::string> Index::GetNote(std::string_view key) {
  std::string value;
  const rocksdb::Status status = db()->Get(rocksdb::ReadOptions(), kNoteKey + std::string(key), &value);
  if (!status.ok()) return Fail(IndexError("note", status));
  return value;
}

std::vector<ChunkPlace> Index::Places(const Digest& block_digest, size_t limit) {
  std::vector<ChunkPlace> places;
  const std::string prefix = Key(kPlaceKey, block_digest);
  const std::shared_ptr<rocksdb::DB> database = db();
  const std::unique_ptr<rocksdb::Iterator> it(database->NewIterator(rocksdb::ReadOptions()));
  for (it->Seek(prefix); it->Valid() && places.size() < limit && it->key().starts_with(prefix); it->Next()) {
    const std::string_view rest = it->key().ToStringView().substr(prefix.size());
    const Result<Digest> blob = Digest::FromBytes(rest.substr(0, Digest::kBytes));
    if (!blob || rest.size() != Digest::kBytes + 4) continue;
    ChunkIndex chunk = 0;
    for (const char c : rest.substr(Digest::kBytes)) chunk = chunk << 8 | static_cast<uint8_t>(c);
    places.push_back({*blob, chunk});
  }
  return places;
}

Result<Index::Summary> Index::ReadSummary() {
  Summary summary;
  const std::shared_ptr<rocksdb::DB> database = db();
  const std::unique_ptr<rocksdb::Iterator> it(database->NewIterator(rocksdb::ReadOptions()));
  const auto scan = [&](char kind, const auto& take) -> Status {
    const std::string prefix(1, kind);
    for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix); it->Next()) {
      BANYAN_ASSIGN(const Digest blob, Digest::FromBytes(it->key().ToStringView().substr(1)));
      BANYAN_TRY(take(blob, it->value().ToStringView()));
    }
    if (!it->status().ok()) return Fail(IndexError("read", it->status()));
    return {};
  };
  BANYAN_TRY(scan(kPresenceKey, [&](const Digest& blob, std::string_view record) -> Status {
    BANYAN_ASSIGN(PresenceRecord presence, DecodePresence(record));
    presence.blocks.clear();
    presence.compressed.clear();
    summary.layers.emplace_back(blob, std::move(presence));
    return {};
  }));
  BANYAN_TRY(scan(kWholeBlobKey, [&](const Digest& blob, std::string_view record) -> Status {
    BANYAN_ASSIGN(const WholeBlobRecord small, DecodeWholeBlob(record));
    summary.whole_blobs.emplace_back(blob, small);
    return {};
  }));
  return summary;
}

}  // namespace banyan::store
