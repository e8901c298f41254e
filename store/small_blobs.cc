#include "store/small_blobs.h"

#include <utility>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/log.h"
#include "store/store_core.h"

namespace banyan::store {

void SmallBlobs::Load(std::span<const std::pair<Digest, SmallBlobRecord>> records) {
  const std::scoped_lock lock(mutex_);
  for (const auto& [digest, record] : records) {
    blobs_[digest].record = record;
    core_.budget().Force(Form::kCompressed, record.bytes);
  }
}

int64_t SmallBlobs::NowSeconds() const {
  return std::chrono::duration_cast<std::chrono::seconds>(clock_().time_since_epoch()).count();
}

bool SmallBlobs::Young(const SmallBlobRecord& record) const {
  return NowSeconds() - record.last_use_seconds < std::chrono::seconds(kYoung).count();
}

bool SmallBlobs::Has(const Digest& digest) const {
  const std::scoped_lock lock(mutex_);
  return blobs_.contains(digest);
}

Status SmallBlobs::Put(const Digest& digest, std::span<const std::byte> data) {
  if (const Digest actual = Digest::Of(data); actual != digest) {
    return Fail(Code::kInvalidArgument, fmt::format("blob {}: the bytes are {}", digest.ToString(), actual.ToString()));
  }
  const std::scoped_lock writing(put_mutex_);
  if (Has(digest)) return {};
  if (core_.OpenKnown(digest)) {
    return Fail(Code::kFailedPrecondition, fmt::format("{} is a layer's data, not a small blob", digest.ToString()));
  }
  const Asker asker{};
  BANYAN_TRY(core_.evictor().Take(data.size(), asker));
  const std::string path = core_.PathOf(Form::kCompressed, digest);
  Status written = core_.disk().WriteWhole(path, data);
  if (!written && written.error().code == Code::kResourceExhausted && core_.evictor().FreeDisk(data.size(), asker)) {
    written = core_.disk().WriteWhole(path, data);
  }
  const SmallBlobRecord record{.bytes = data.size(), .last_use_seconds = NowSeconds()};
  if (written) {
    Index::Batch batch;
    batch.PutSmallBlob(digest, record);
    written = core_.index().Write(std::move(batch), /*sync=*/false);
  }
  if (!written) {
    core_.budget().Give(Form::kCompressed, data.size());
    static_cast<void>(core_.disk().Remove(path));
    return written;
  }
  const std::scoped_lock lock(mutex_);
  blobs_[digest].record = record;
  return {};
}

Result<std::string> SmallBlobs::Get(const Digest& digest) {
  uint64_t bytes = 0;
  bool wake = false;
  {
    const std::scoped_lock lock(mutex_);
    const auto it = blobs_.find(digest);
    if (it == blobs_.end()) return Fail(Code::kNotFound, fmt::format("blob {}: not in the store", digest.ToString()));
    bytes = it->second.record.bytes;
    const int64_t now = NowSeconds();
    wake = it->second.use_written && it->second.record.last_use_seconds != now;
    if (wake) it->second.use_written = false;
    it->second.record.last_use_seconds = now;
  }
  if (wake) core_.Wake();
  Result<std::string> data = ReadFile(core_.PathOf(Form::kCompressed, digest), bytes);
  if (data && Digest::Of(*data) == digest) return data;
  const std::string why = data ? "the bytes on disk have rotted" : data.error().message;
  spdlog::warn("blob {}: {}; removed, it will be fetched again", digest.ToString(), why);
  Remove(digest, /*only_old=*/false);
  return Fail(Code::kNotFound, fmt::format("blob {}: {}", digest.ToString(), why));
}

std::vector<std::pair<Digest, SmallBlobRecord>> SmallBlobs::Evictable() const {
  const std::scoped_lock lock(mutex_);
  std::vector<std::pair<Digest, SmallBlobRecord>> old;
  for (const auto& [digest, entry] : blobs_) {
    if (!Young(entry.record)) old.emplace_back(digest, entry.record);
  }
  return old;
}

uint64_t SmallBlobs::Evict(const Digest& digest) { return Remove(digest, /*only_old=*/true); }

uint64_t SmallBlobs::Remove(const Digest& digest, bool only_old) {
  uint64_t bytes = 0;
  {
    // Held over the unlink, or a Put() of the same blob could lose its file to it.
    const std::scoped_lock lock(mutex_);
    const auto it = blobs_.find(digest);
    if (it == blobs_.end() || (only_old && Young(it->second.record))) return 0;
    if (Status removed = core_.disk().Remove(core_.PathOf(Form::kCompressed, digest)); !removed) {
      spdlog::warn("{}", removed.error().message);
      return 0;
    }
    bytes = it->second.record.bytes;
    blobs_.erase(it);
  }
  core_.budget().Give(Form::kCompressed, bytes);
  Index::Batch batch;
  batch.DeleteSmallBlob(digest);
  // A record without a file is found out at the next read.
  if (Status written = core_.index().Write(std::move(batch), /*sync=*/false); !written) {
    spdlog::warn("{}", written.error().message);
  }
  return bytes;
}

void SmallBlobs::AppendUses(Index::Batch& batch) {
  const std::scoped_lock lock(mutex_);
  for (auto& [digest, entry] : blobs_) {
    if (std::exchange(entry.use_written, true)) continue;
    batch.PutSmallBlob(digest, entry.record);
  }
}

}  // namespace banyan::store
