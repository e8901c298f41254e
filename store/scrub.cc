#include "store/scrub.h"

#include <fcntl.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <vector>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/log.h"
#include "store/store_core.h"

namespace banyan::store {

namespace {

// Keeps the average since the start at or below a rate.
class Pace {
 public:
  explicit Pace(uint64_t bytes_per_second) : rate_(bytes_per_second) {}
  // Sleeps until `bytes` more are due, or stopped.
  void Spend(uint64_t bytes, const std::stop_token& stop) {
    if (rate_ == 0) return;
    spent_ += bytes;
    const auto due = start_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(
                                  static_cast<double>(spent_) / static_cast<double>(rate_)));
    std::unique_lock lock(mutex_);
    wake_.wait_until(lock, stop, due, [] { return false; });
  }

 private:
  using Clock = std::chrono::steady_clock;
  const uint64_t rate_;
  const Clock::time_point start_ = Clock::now();
  uint64_t spent_ = 0;
  std::mutex mutex_;
  std::condition_variable_any wake_;
};

enum class Verdict { kAbsent, kGood, kBad };

Verdict Check(Layer& layer, Form form, ChunkIndex chunk) {
  const Result<std::vector<std::byte>> bytes = layer.ReadChunk(form, chunk, /*from_disk=*/true);
  if (!bytes && bytes.error().code == Code::kNotFound) return Verdict::kAbsent;
  return bytes && Digest::Of(*bytes) == layer.file(form).DigestOf(chunk) ? Verdict::kGood : Verdict::kBad;
}

// Read from the disk rather than from the page cache, as far as the kernel grants it. False also when stopped.
bool IsGood(const StoredBlob& blob, const Digest& digest, Pace& pace, const std::stop_token& stop) {
  constexpr size_t kPieceBytes = 1 * kMiB;
  static_cast<void>(::posix_fadvise(blob.fd, 0, 0, POSIX_FADV_DONTNEED));
  Sha256 hash;
  std::vector<std::byte> piece(std::min<uint64_t>(blob.bytes, kPieceBytes));
  for (uint64_t at = 0; at < blob.bytes;) {
    if (stop.stop_requested()) return false;
    const std::span<std::byte> part = std::span(piece).first(std::min<uint64_t>(piece.size(), blob.bytes - at));
    if (!PreadFull(blob.fd, part, at, digest.ToString())) return false;
    hash.Update(part);
    at += part.size();
    pace.Spend(part.size(), stop);
  }
  return hash.Finish() == digest;
}

void ScrubBlobs(StoreCore& core, const std::stop_token& stop, Pace& pace, ScrubReport& report) {
  for (const Digest& digest : core.whole_blobs().All()) {
    const Result<StoredBlob> blob = core.whole_blobs().Open(digest, /*counts=*/false);
    if (!blob) continue;
    const bool good = IsGood(*blob, digest, pace, stop);
    if (stop.stop_requested()) return;
    ++report.blobs_checked;
    if (good) continue;
    report.bad_blobs.push_back("blob " + digest.ToString());
    spdlog::warn("scrub: {} is bad on disk; removed, it will be fetched again", report.bad_blobs.back());
    static_cast<void>(core.whole_blobs().Erase(digest));
  }
}

}  // namespace

ScrubReport ScrubStore(StoreCore& core, std::stop_token stop, uint64_t bytes_per_second) {
  ScrubReport report;
  Pace pace(bytes_per_second);
  std::vector<Digest> blobs;
  for (const KnownLayer& known : core.Known()) blobs.push_back(known.blob);
  for (const Digest& blob : blobs) {
    const Result<std::shared_ptr<Layer>> layer = core.OpenKnown(blob);
    if (!layer) continue;
    for (ChunkIndex i = 0; i < (*layer)->device().chunks.size(); ++i) {
      bool present = false;
      for (const Form form : {Form::kBlocks, Form::kCompressed}) {
        if (stop.stop_requested()) return report;
        const Verdict verdict = Check(**layer, form, i);
        if (verdict == Verdict::kAbsent) continue;
        present = true;
        if (verdict == Verdict::kBad) {
          (*layer)->DropForm(form, i);
          report.bad_chunks.push_back(fmt::format("chunk {} of layer {}{}", i, blob.ToString(),
                                                  form == Form::kCompressed ? " (compressed)" : ""));
          spdlog::warn("scrub: {} is bad on disk; it will be fetched again", report.bad_chunks.back());
        }
        pace.Spend((*layer)->file(form).BytesOf(i), stop);
      }
      if (present) ++report.chunks_checked;
    }
  }
  ScrubBlobs(core, stop, pace, report);
  return report;
}

}  // namespace banyan::store
