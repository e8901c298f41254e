// Where the bytes of functions come from, for the manager's dashboard: counted by function, lane, rung and class, and
// told as means since the last beat. For people: nothing is decided by it.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "common/digest.h"
#include "fetch/chunk_source.h"
#include "proto/tree.pb.h"

namespace banyan::peer_agent {

// Internally synchronised.
class FeedMeter {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kMaxFeeds = 4'096;  // between two calls of Take(); more are not counted

  explicit FeedMeter(Clock::time_point now) : taken_(now) {}

  // `from`: as ChunkBytes::from: "parent", "spare", others are origins.
  void Count(const std::string& function, uint32_t lane, std::string_view from, fetch::Priority priority,
             uint64_t bytes);
  // What came since the last call, per second; nothing twice.
  std::vector<proto::tree::Feed> Take(Clock::time_point now);

 private:
  using Key = std::tuple<std::string, uint32_t, proto::tree::Feed::From>;

  std::mutex mutex_;
  std::map<Key, std::array<uint64_t, 3>> bytes_;  // by class; guarded by mutex_
  Clock::time_point taken_;                       // guarded by mutex_
};

// A source whose good chunks are counted. Internally synchronised.
class MeteredSource final : public fetch::ChunkSource {
 public:
  // Which function a layer's bytes are counted for; empty: none. Any thread.
  using FunctionOf = std::function<std::string(const Digest& blob)>;

  MeteredSource(std::shared_ptr<fetch::ChunkSource> inner, std::shared_ptr<FeedMeter> meter, FunctionOf function_of)
      : inner_(std::move(inner)), meter_(std::move(meter)), function_of_(std::move(function_of)) {}

  void Fetch(fetch::ChunkRequest request, fetch::OnChunk on_chunk) override;
  std::string_view name() const override { return inner_->name(); }

 private:
  const std::shared_ptr<fetch::ChunkSource> inner_;
  const std::shared_ptr<FeedMeter> meter_;
  const FunctionOf function_of_;
};

}  // namespace banyan::peer_agent
