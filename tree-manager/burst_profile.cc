#include "tree-manager/burst_profile.h"

#include <algorithm>

#include "common/digest.h"

namespace banyan::tree_manager {
namespace {

constexpr size_t kFewReporters = 3;

uint64_t KeyOf(uint32_t blob, uint32_t chunk) { return uint64_t{blob} << 32 | chunk; }

}  // namespace

void BurstProfile::Restore(const proto::tree::ChunkList& list) {
  *this = BurstProfile();
  const int count = std::min({list.chunk_size(), list.blob_size(), static_cast<int>(kMaxChunks)});
  for (const std::string& blob : list.blobs()) {
    if (blobs_.size() < kMaxBlobs) blobs_.push_back(blob);
  }
  for (int i = 0; i < count; ++i) {
    if (list.blob(i) < blobs_.size()) chunks_.push_back({list.blob(i), list.chunk(i), 1});
  }
}

uint32_t BurstProfile::BlobIndex(const std::string& blob) {
  const auto found = std::find(blobs_.begin(), blobs_.end(), blob);
  const auto index = static_cast<uint32_t>(found - blobs_.begin());
  if (found == blobs_.end() && blobs_.size() < kMaxBlobs && Digest::Parse(blob)) {
    blobs_.push_back(blob);
  }
  return index;
}

bool BurstProfile::Add(const std::string& reporter, const proto::tree::ChunkList& touches, size_t room, Time now) {
  if (!provisional()) {
    past_votes_ = !chunks_.empty();
    for (uint32_t i = 0; i < chunks_.size(); ++i) {
      chunks_[i].votes = 1;
      index_.emplace(KeyOf(chunks_[i].blob, chunks_[i].chunk), i);
    }
  }
  const auto known = reporters_.find(reporter);
  if (known == reporters_.end() && reporters_.size() >= kMaxReporters) return false;
  std::vector<bool>& touched = known != reporters_.end() ? known->second : reporters_[reporter];
  last_report_ = now;

  std::vector<uint32_t> blobs;
  for (const std::string& blob : touches.blobs()) {
    if (blobs.size() == kMaxBlobs) break;
    blobs.push_back(BlobIndex(blob));
  }
  bool changed = known == reporters_.end();
  const int count = std::min({touches.chunk_size(), touches.blob_size(), static_cast<int>(kMaxChunks)});
  for (int i = 0; i < count; ++i) {
    if (touches.blob(i) >= blobs.size() || blobs[touches.blob(i)] >= blobs_.size()) continue;
    const uint32_t blob = blobs[touches.blob(i)];
    const auto place = index_.find(KeyOf(blob, touches.chunk(i)));
    uint32_t position = 0;
    if (place != index_.end()) {
      position = place->second;
    } else {
      if (room == 0 || chunks_.size() >= kMaxChunks) continue;
      --room;
      position = static_cast<uint32_t>(chunks_.size());
      chunks_.push_back({blob, touches.chunk(i), 0});
      index_.emplace(KeyOf(blob, touches.chunk(i)), position);
    }
    if (touched.size() <= position) touched.resize(chunks_.size());
    if (touched[position]) continue;
    touched[position] = true;
    ++chunks_[position].votes;
    changed = true;
  }
  return changed;
}

bool BurstProfile::Counts(const Chunk& chunk) const {
  const size_t voters = reporters_.size() + (past_votes_ ? 1 : 0);
  return voters <= kFewReporters || size_t{chunk.votes} * 4 > voters;
}

bool BurstProfile::Settle(Time now) {
  if (!provisional() || now - last_report_ < kQuiet) return false;
  std::erase_if(chunks_, [this](const Chunk& chunk) { return !Counts(chunk); });
  chunks_.shrink_to_fit();
  index_ = {};
  reporters_ = {};
  past_votes_ = false;
  return true;
}

proto::tree::ChunkList BurstProfile::List() const {
  proto::tree::ChunkList list;
  for (const std::string& blob : blobs_) list.add_blobs(blob);
  for (const Chunk& chunk : chunks_) {
    if (!Counts(chunk)) continue;
    list.add_blob(chunk.blob);
    list.add_chunk(chunk.chunk);
  }
  return list;
}

}  // namespace banyan::tree_manager
