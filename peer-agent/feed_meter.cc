#include "peer-agent/feed_meter.h"

#include <algorithm>
#include <utility>

namespace banyan::peer_agent {
namespace {

using proto::tree::Feed;

Feed::From FromOf(std::string_view from) {
  if (from == "parent") return Feed::PARENT;
  return from == "spare" ? Feed::SPARE : Feed::ORIGIN;
}

}  // namespace

void FeedMeter::Count(const std::string& function, uint32_t lane, std::string_view from, fetch::Priority priority,
                      uint64_t bytes) {
  if (function.empty()) return;
  const Key key(function, lane, FromOf(from));
  const std::lock_guard lock(mutex_);
  if (bytes_.size() >= kMaxFeeds && !bytes_.contains(key)) return;
  bytes_[key][static_cast<size_t>(priority)] += bytes;
}

std::vector<Feed> FeedMeter::Take(Clock::time_point now) {
  std::map<Key, std::array<uint64_t, 3>> bytes;
  double seconds = 0;
  {
    const std::lock_guard lock(mutex_);
    bytes.swap(bytes_);
    seconds = std::chrono::duration<double>(now - std::exchange(taken_, now)).count();
  }
  const auto rate = [&](uint64_t count) {
    return static_cast<uint64_t>(static_cast<double>(count) / std::max(seconds, 0.1));
  };
  std::vector<Feed> feeds;
  for (const auto& [key, classes] : bytes) {
    Feed& feed = feeds.emplace_back();
    feed.set_function(std::get<0>(key));
    feed.set_stripe(std::get<1>(key));
    feed.set_from(std::get<2>(key));
    feed.set_demand(rate(classes[0]));
    feed.set_prefetch(rate(classes[1]));
    feed.set_fill(rate(classes[2]));
  }
  return feeds;
}

void MeteredSource::Fetch(fetch::ChunkRequest request, fetch::OnChunk on_chunk) {
  std::string function = function_of_(request.device->blob_digest);
  const fetch::Priority priority = request.priority;
  const uint32_t lane = request.lane;
  fetch::OnChunk counted = [meter = meter_, function = std::move(function), priority, lane,
                            on_chunk = std::move(on_chunk)](ChunkIndex chunk, Result<fetch::ChunkBytes> bytes) {
    if (bytes) meter->Count(function, lane, bytes->from, priority, bytes->size());
    on_chunk(chunk, std::move(bytes));
  };
  inner_->Fetch(std::move(request), std::move(counted));
}

}  // namespace banyan::peer_agent
