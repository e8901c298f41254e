#include "store/whole_blobs.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/log.h"
#include "store/store_core.h"

namespace banyan::store {

namespace {

constexpr std::string_view kPartialSuffix = ".partial";

// Changes when the machine boots.
std::string BootId() { return ReadFile("/proc/sys/kernel/random/boot_id", 4096).value_or("unknown"); }

tl::unexpected<Error> NotHere(const Digest& digest) {
  return Fail(Code::kNotFound, fmt::format("blob {}: not in the store", digest.ToString()));
}

}  // namespace

Status WholeBlobs::Load(std::span<const std::pair<Digest, WholeBlobRecord>> records) {
  BANYAN_TRY(MakeDirectories(raw_directory_));
  {
    const std::scoped_lock lock(mutex_);
    for (const auto& [digest, record] : records) {
      blobs_[digest].record = record;
      core_.budget().Force(Form::kCompressed, record.bytes);
    }
  }
  const std::string boot_file = raw_directory_ + ".boot";
  const std::string boot = BootId();
  const Result<std::string> last_boot = ReadFile(boot_file, 4096);
  const bool same_boot = last_boot && *last_boot == boot;
  LoadPartials(same_boot);
  if (!same_boot) BANYAN_TRY(WriteFileDurably(boot_file, boot));
  return core_.disk().SyncDirectory(raw_directory_);
}

void WholeBlobs::LoadPartials(bool worth_keeping) {
  std::vector<std::string> strangers;
  std::error_code error;
  const std::scoped_lock lock(mutex_);
  for (const auto& file : std::filesystem::directory_iterator(raw_directory_, error)) {
    std::string name = file.path().filename().string();
    const bool partial = name.ends_with(kPartialSuffix);
    if (partial) name.resize(name.size() - kPartialSuffix.size());
    const Result<Digest> digest = Digest::FromHex(name);
    const auto known = digest ? blobs_.find(*digest) : blobs_.end();
    if (!partial && known != blobs_.end() && known->second.record.raw) continue;
    std::error_code failed;
    const uint64_t bytes = partial ? file.file_size(failed) : 0;
    if (!digest || known != blobs_.end() || failed || !worth_keeping || bytes < kLeastPartialBytes) {
      strangers.push_back(file.path().string());
      continue;
    }
    blobs_[*digest] = Entry{{.bytes = bytes, .last_use_seconds = NowSeconds(), .raw = true}, State::kPartial, true, {}};
    core_.budget().Force(Form::kCompressed, bytes);
  }
  for (const std::string& path : strangers) {
    if (Status removed = core_.disk().Remove(path); !removed) spdlog::warn("{}", removed.error().message);
  }
}

int64_t WholeBlobs::NowSeconds() const {
  return std::chrono::duration_cast<std::chrono::seconds>(clock_().time_since_epoch()).count();
}

bool WholeBlobs::IsEvictable(const Entry& entry) const {
  if (entry.state == State::kFilling || !entry.open.expired()) return false;
  return entry.record.raw || NowSeconds() - entry.record.last_use_seconds >= std::chrono::seconds(kYoung).count();
}

std::string WholeBlobs::PathOf(const Digest& digest, const Entry& entry) const {
  if (!entry.record.raw) return core_.PathOf(Form::kCompressed, digest);
  return entry.state == State::kWhole ? RawPath(digest) : PartialPath(digest);
}

bool WholeBlobs::HasSmall(const Digest& digest) const {
  const std::scoped_lock lock(mutex_);
  const auto it = blobs_.find(digest);
  return it != blobs_.end() && !it->second.record.raw;
}

std::optional<uint64_t> WholeBlobs::BytesOf(const Digest& digest) const {
  const std::scoped_lock lock(mutex_);
  const auto it = blobs_.find(digest);
  if (it == blobs_.end() || it->second.state != State::kWhole) return std::nullopt;
  return it->second.record.bytes;
}

std::vector<Digest> WholeBlobs::All() const {
  const std::scoped_lock lock(mutex_);
  std::vector<Digest> all;
  for (const auto& [digest, entry] : blobs_) {
    if (entry.state == State::kWhole) all.push_back(digest);
  }
  return all;
}

Status WholeBlobs::Put(const Digest& digest, std::span<const std::byte> data) {
  if (const Digest actual = Digest::Of(data); actual != digest) {
    return Fail(Code::kInvalidArgument, fmt::format("blob {}: the bytes are {}", digest.ToString(), actual.ToString()));
  }
  const std::scoped_lock writing(put_mutex_);
  {
    const std::scoped_lock lock(mutex_);
    const auto it = blobs_.find(digest);
    if (it != blobs_.end() && it->second.state == State::kWhole) return {};
    if (it != blobs_.end()) {
      return Fail(Code::kAborted, fmt::format("blob {}: is being filled otherwise", digest.ToString()));
    }
  }
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
  const WholeBlobRecord record{.bytes = data.size(), .last_use_seconds = NowSeconds(), .raw = false};
  if (written) {
    Index::Batch batch;
    batch.PutWholeBlob(digest, record);
    written = core_.index().Write(std::move(batch), /*sync=*/false);
  }
  const std::scoped_lock lock(mutex_);
  // A fill of the same blob may have begun meanwhile; it will do.
  if (written && !blobs_.contains(digest)) {
    blobs_[digest].record = record;
    return {};
  }
  core_.budget().Give(Form::kCompressed, data.size());
  static_cast<void>(core_.disk().Remove(path));
  return written;
}

bool WholeBlobs::Use(Entry& entry) const {
  const int64_t now = NowSeconds();
  const bool wake = entry.use_written && entry.record.last_use_seconds != now;
  if (wake) entry.use_written = false;
  entry.record.last_use_seconds = now;
  return wake;
}

Result<std::string> WholeBlobs::Get(const Digest& digest) {
  uint64_t bytes = 0;
  bool wake = false;
  std::string path;
  {
    const std::scoped_lock lock(mutex_);
    const auto it = blobs_.find(digest);
    if (it == blobs_.end() || it->second.state != State::kWhole) return NotHere(digest);
    bytes = it->second.record.bytes;
    path = PathOf(digest, it->second);
    wake = Use(it->second);
  }
  if (wake) core_.Wake();
  Result<std::string> data = ReadFile(path, bytes);
  if (data && Digest::Of(*data) == digest) return data;
  const std::string why = data ? "the bytes on disk have rotted" : data.error().message;
  spdlog::warn("blob {}: {}; removed, it will be fetched again", digest.ToString(), why);
  Remove(digest, Which::kAny);
  return Fail(Code::kNotFound, fmt::format("blob {}: {}", digest.ToString(), why));
}

Result<StoredBlob> WholeBlobs::Open(const Digest& digest, bool counts) {
  std::string problem;
  bool wake = false;
  StoredBlob blob;
  {
    const std::scoped_lock lock(mutex_);
    const auto it = blobs_.find(digest);
    if (it == blobs_.end() || it->second.state != State::kWhole) return NotHere(digest);
    Entry& entry = it->second;
    blob.bytes = entry.record.bytes;
    if (counts) wake = Use(entry);
    auto open = std::static_pointer_cast<const UniqueFd>(entry.open.lock());
    if (!open) {
      Result<UniqueFd> fd = OpenFile(PathOf(digest, entry), O_RDONLY);
      struct stat info {};
      if (!fd) {
        // Out of descriptors, say: that tells nothing about the blob.
        if (fd.error().code != Code::kNotFound) return Fail(fd.error());
        problem = fd.error().message;
      } else if (::fstat(fd->get(), &info) != 0 || static_cast<uint64_t>(info.st_size) != blob.bytes) {
        problem = "its file has another length";
      } else {
        open = std::make_shared<const UniqueFd>(*std::move(fd));
        entry.open = open;
      }
    }
    if (open) blob.fd = open->get();
    blob.hold = std::move(open);
  }
  if (wake) core_.Wake();
  if (blob.hold) return blob;
  spdlog::warn("blob {}: {}; removed, it will be fetched again", digest.ToString(), problem);
  Remove(digest, Which::kAny);
  return Fail(Code::kNotFound, fmt::format("blob {}: {}", digest.ToString(), problem));
}

Status WholeBlobs::Erase(const Digest& digest) {
  {
    const std::scoped_lock lock(mutex_);
    const auto it = blobs_.find(digest);
    if (it == blobs_.end() || it->second.state != State::kWhole) return NotHere(digest);
  }
  Remove(digest, Which::kAny);
  return {};
}

std::vector<std::pair<Digest, WholeBlobRecord>> WholeBlobs::Evictable() const {
  const std::scoped_lock lock(mutex_);
  std::vector<std::pair<Digest, WholeBlobRecord>> evictable;
  for (const auto& [digest, entry] : blobs_) {
    if (IsEvictable(entry)) evictable.emplace_back(digest, entry.record);
  }
  return evictable;
}

uint64_t WholeBlobs::Evict(const Digest& digest) { return Remove(digest, Which::kOnlyEvictable); }

uint64_t WholeBlobs::Remove(const Digest& digest, Which which) {
  uint64_t bytes = 0;
  bool whole = false;
  {
    // Held over the unlink, or another writer of the same blob could lose its file to it.
    const std::scoped_lock lock(mutex_);
    const auto it = blobs_.find(digest);
    if (it == blobs_.end() || it->second.state == State::kFilling) return 0;
    if (which == Which::kOnlyEvictable && !IsEvictable(it->second)) return 0;
    if (Status removed = core_.disk().Remove(PathOf(digest, it->second)); !removed) {
      spdlog::warn("{}", removed.error().message);
      return 0;
    }
    bytes = it->second.record.bytes;
    whole = it->second.state == State::kWhole;
    blobs_.erase(it);
  }
  core_.budget().Give(Form::kCompressed, bytes);
  if (!whole) return bytes;
  Index::Batch batch;
  batch.DeleteWholeBlob(digest);
  // A record without a file is found out at the next read.
  if (Status written = core_.index().Write(std::move(batch), /*sync=*/false); !written) {
    spdlog::warn("{}", written.error().message);
  }
  return bytes;
}

void WholeBlobs::AppendUses(Index::Batch& batch) {
  const std::scoped_lock lock(mutex_);
  for (auto& [digest, entry] : blobs_) {
    if (std::exchange(entry.use_written, true) || entry.state != State::kWhole) continue;
    batch.PutWholeBlob(digest, entry.record);
  }
}

}  // namespace banyan::store
