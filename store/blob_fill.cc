// Raw blobs on their way in: bytes are appended in order, hashed as they come, and readable up to where they have come.
//
// Order on disk: data → fdatasync → last name → directory synced → index. A power cut in between leaves a file that the
// index does not know, which the next start removes.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/log.h"
#include "store/store_core.h"
#include "store/whole_blobs.h"

namespace banyan::store {

namespace {

// Where the size is not known, room is taken in steps: each may cost an eviction.
constexpr uint64_t kReserveStep = 8 * kMiB;
constexpr size_t kHashBytes = 1 * kMiB;

constexpr Asker kFillAsker{.layer = nullptr, .form = Form::kCompressed, .raw = true};

}  // namespace

class Fill final : public BlobFill {
 public:
  Fill(std::shared_ptr<StoreCore> core, const Digest& digest, std::optional<uint64_t> blob_bytes, uint64_t reserved)
      : core_(std::move(core)),
        blobs_(core_->whole_blobs()),
        digest_(digest),
        path_(blobs_.PartialPath(digest)),
        blob_bytes_(blob_bytes),
        reserved_(reserved) {}

  ~Fill() override { Close(); }

  void Close() override {
    if (std::exchange(closed_, true) || committed_) return;
    uint64_t kept = bytes();
    if (discarded_ || kept < WholeBlobs::kLeastPartialBytes) {
      if (Status removed = core_->disk().Remove(path_); !removed) spdlog::warn("{}", removed.error().message);
      kept = 0;
    } else if (::ftruncate(fd_.get(), static_cast<off_t>(kept)) != 0) {
      spdlog::warn("{}", ErrnoError("truncate " + path_, errno).message);
    }
    blobs_.Abandon(digest_, kept);
  }

  // Takes up `had` bytes that are there already.
  Status Open(uint64_t had) {
    bool created = false;
    BANYAN_ASSIGN(fd_, core_->disk().OpenSparse(path_, had, created));
    if (created || had == 0) return {};
    std::vector<std::byte> piece(std::min<uint64_t>(had, kHashBytes));
    for (uint64_t at = 0; at < had;) {
      const std::span<std::byte> part = std::span(piece).first(std::min<uint64_t>(piece.size(), had - at));
      BANYAN_TRY(PreadFull(fd_.get(), part, at, path_));
      hash_.Update(part);
      at += part.size();
    }
    bytes_ = had;
    return {};
  }
  // So that `needed` bytes in all are taken of the budget.
  Status Reserve(uint64_t needed) {
    if (needed <= reserved_) return {};
    const uint64_t more = std::max(needed - reserved_, blob_bytes_ ? 0 : kReserveStep);
    if (blobs_.Reserve(digest_, more)) {
      reserved_ += more;
      return {};
    }
    BANYAN_TRY(blobs_.Reserve(digest_, needed - reserved_));
    reserved_ = needed;
    return {};
  }
  void Discard() override { discarded_ = true; }

  uint64_t bytes() const override { return bytes_.load(std::memory_order_acquire); }
  int fd() const override { return fd_.get(); }

  Status Expect(uint64_t blob_bytes) override {
    if (bytes() > blob_bytes) {
      discarded_ = true;
      return Fail(Code::kDataLoss,
                  fmt::format("blob {}: {} bytes of {} are here", digest_.ToString(), bytes(), blob_bytes));
    }
    if (blob_bytes > reserved_) {
      BANYAN_TRY(blobs_.Reserve(digest_, blob_bytes - reserved_));
      reserved_ = blob_bytes;
    }
    blob_bytes_ = blob_bytes;
    return {};
  }

  Status Append(std::span<const std::byte> data) override {
    BANYAN_TRY(CheckOpen());
    const uint64_t at = bytes();
    if (blob_bytes_ && data.size() > *blob_bytes_ - at) {
      discarded_ = true;
      return Fail(Code::kDataLoss,
                  fmt::format("blob {}: more than its {} bytes came", digest_.ToString(), *blob_bytes_));
    }
    BANYAN_TRY(Reserve(at + data.size()));
    Status written = core_->disk().Write(fd_.get(), data, at, path_);
    if (!written && written.error().code == Code::kResourceExhausted &&
        core_->evictor().FreeDisk(data.size(), kFillAsker)) {
      written = core_->disk().Write(fd_.get(), data, at, path_);
    }
    BANYAN_TRY(written);
    hash_.Update(data);
    bytes_.store(at + data.size(), std::memory_order_release);
    return {};
  }

  Status Finish() override {
    BANYAN_TRY(CheckOpen());
    if (blob_bytes_ && bytes() != *blob_bytes_) {
      return Fail(Code::kDataLoss,
                  fmt::format("blob {}: {} of {} bytes came", digest_.ToString(), bytes(), *blob_bytes_));
    }
    const Digest actual = hash_.Finish();
    finished_ = true;
    right_ = actual == digest_;
    if (right_) return {};
    discarded_ = true;
    return Fail(Code::kDataLoss,
                fmt::format("blob {}: the bytes that came hash to {}", digest_.ToString(), actual.ToString()));
  }

  Status Commit() override {
    if (!right_ || committed_ || closed_) {
      return Fail(Code::kFailedPrecondition,
                  fmt::format("blob {}: not checked, or stored already", digest_.ToString()));
    }
    Disk& disk = core_->disk();
    const std::string last_path = blobs_.RawPath(digest_);
    if (Status synced = disk.Sync(fd_.get(), path_); !synced) {
      discarded_ = true;  // the kernel may have thrown pages away
      return synced;
    }
    BANYAN_TRY(disk.Rename(path_, last_path));
    Status done = disk.SyncDirectory(blobs_.raw_directory_);
    if (done) done = blobs_.Adopt(digest_, bytes());
    if (!done) {
      static_cast<void>(disk.Rename(last_path, path_));
      return done;
    }
    committed_ = true;
    return {};
  }

 private:
  Status CheckOpen() const {
    if (core_->closed()) return Fail(Code::kFailedPrecondition, "the store is closed");
    if (finished_ || discarded_ || closed_) {
      return Fail(Code::kFailedPrecondition, fmt::format("blob {}: this fill has ended", digest_.ToString()));
    }
    return {};
  }

  const std::shared_ptr<StoreCore> core_;  // shared: a fill may outlive the store
  WholeBlobs& blobs_;
  const Digest digest_;
  const std::string path_;
  std::optional<uint64_t> blob_bytes_;
  uint64_t reserved_;
  UniqueFd fd_;
  Sha256 hash_;
  std::atomic<uint64_t> bytes_{0};
  bool finished_ = false;
  bool right_ = false;
  bool discarded_ = false;
  bool committed_ = false;
  bool closed_ = false;
};

Result<std::unique_ptr<BlobFill>> WholeBlobs::Begin(const Digest& digest, std::optional<uint64_t> blob_bytes) {
  if (core_.closed()) return Fail(Code::kFailedPrecondition, "the store is closed");
  uint64_t had = 0;
  {
    const std::scoped_lock lock(mutex_);
    const auto [it, is_new] = blobs_.try_emplace(digest);
    Entry& entry = it->second;
    if (!is_new && entry.state == State::kWhole) {
      return Fail(Code::kAlreadyExists, fmt::format("blob {}: is in the store", digest.ToString()));
    }
    if (!is_new && entry.state == State::kFilling) {
      return Fail(Code::kAborted, fmt::format("blob {}: another fill of it is under way", digest.ToString()));
    }
    had = is_new ? 0 : entry.record.bytes;
    entry.state = State::kFilling;
    entry.record = {.bytes = had, .last_use_seconds = NowSeconds(), .raw = true};
  }
  const uint64_t counted = had;
  if (blob_bytes && had > *blob_bytes) had = 0;
  // From here on its destructor puts the entry right.
  auto fill = std::make_unique<Fill>(core_.shared_from_this(), digest, blob_bytes, counted);
  Status opened = fill->Open(had);
  if (opened && blob_bytes && *blob_bytes > counted) opened = fill->Reserve(*blob_bytes);
  if (!opened) {
    // A prefix that cannot be read is not worth keeping; one for which there is no room now may be later.
    if (opened.error().code != Code::kResourceExhausted) fill->Discard();
    return Fail(opened.error().WithContext("store blob " + digest.ToString()));
  }
  return fill;
}

Status WholeBlobs::Reserve(const Digest& digest, uint64_t bytes) {
  BANYAN_TRY(core_.evictor().Take(bytes, kFillAsker));
  const std::scoped_lock lock(mutex_);
  blobs_[digest].record.bytes += bytes;
  return {};
}

Status WholeBlobs::Adopt(const Digest& digest, uint64_t bytes) {
  const WholeBlobRecord record{.bytes = bytes, .last_use_seconds = NowSeconds(), .raw = true};
  Index::Batch batch;
  batch.PutWholeBlob(digest, record);
  BANYAN_TRY(core_.index().Write(std::move(batch), /*sync=*/false));
  const std::scoped_lock lock(mutex_);
  Entry& entry = blobs_[digest];
  core_.budget().Give(Form::kCompressed, entry.record.bytes - bytes);
  entry.record = record;
  entry.state = State::kWhole;
  return {};
}

void WholeBlobs::Abandon(const Digest& digest, uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  const auto it = blobs_.find(digest);
  core_.budget().Give(Form::kCompressed, it->second.record.bytes - bytes);
  it->second.record.bytes = bytes;
  it->second.state = State::kPartial;
  if (bytes == 0) blobs_.erase(it);
}

}  // namespace banyan::store
