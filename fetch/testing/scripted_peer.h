#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fetch/routes.h"
#include "fetch/testing/test_layer.h"
#include "net/http_server.h"
#include "net/range_header.h"

namespace banyan::fetch::testing {

// A peer that does what its script says; by default it gives what is asked.
class ScriptedPeer {
 public:
  using Reply = std::shared_ptr<net::HttpReply>;
  struct Seen {
    ByteRange range;
    std::string node, function, token, priority, cache, recheck;
  };
  // Answers one request; runs on a thread of its own.
  using Script = std::function<void(ScriptedPeer&, const Seen&, const Reply&)>;

  ScriptedPeer(const TestLayer& layer, std::string name) : layer_(layer), name_(std::move(name)) {
    server_ = *net::HttpServer::Start({}, [this](const net::HttpRequest& request, Reply reply) {
      Seen seen;
      const auto header = [&](std::string_view key) {
        const std::string* value = request.headers.Find(key);
        return value == nullptr ? std::string() : *value;
      };
      seen.node = header("banyan-node");
      seen.function = header("banyan-function");
      seen.token = header("authorization");
      seen.priority = header("priority");
      seen.cache = header("cache-control");
      seen.recheck = header("banyan-recheck");
      seen.range = **net::ParseRange(header("range"), layer_.blob.size());
      Script script;
      {
        const std::lock_guard lock(mutex_);
        seen_.push_back(seen);
        script = script_;
      }
      if (!script) return Give(seen.range, reply);
      const std::lock_guard lock(mutex_);
      threads_.emplace_back([this, script, seen, reply = std::move(reply)] { script(*this, seen, reply); });
    });
  }
  ~ScriptedPeer() { Stop(); }

  void Stop() {
    stop_ = true;
    server_->Stop();
    std::vector<std::thread> threads;
    {
      const std::lock_guard lock(mutex_);
      threads.swap(threads_);
    }
    for (auto& thread : threads) thread.join();
  }
  void Do(Script script) {
    const std::lock_guard lock(mutex_);
    script_ = std::move(script);
  }
  PeerAddress address() const { return {name_, "127.0.0.1", server_->port()}; }
  std::vector<Seen> seen() const {
    const std::lock_guard lock(mutex_);
    return seen_;
  }
  bool stopped() const { return stop_; }

  std::string Bytes(ByteRange range) const {
    return {reinterpret_cast<const char*>(layer_.blob.data()) + range.begin, range.size()};
  }
  void Give(ByteRange range, const Reply& reply) const { Give(range, Bytes(range), reply); }
  void Give(ByteRange range, std::string body, const Reply& reply) const {
    reply->Send({206, {{"Content-Range", net::FormatContentRange(range, layer_.blob.size())}}, std::move(body)});
  }
  // The range's first chunk.
  ByteRange FirstChunk(ByteRange range) const {
    for (const auto& chunk : layer_.device->chunks.chunks()) {
      if (chunk.compressed_offset == range.begin) return chunk.blob_range();
    }
    return {};
  }
  bool Pause(std::chrono::milliseconds time) const {
    constexpr std::chrono::milliseconds kStep{10};
    for (auto left = time; left.count() > 0 && !stop_; left -= kStep) std::this_thread::sleep_for(kStep);
    return !stop_;
  }

 private:
  const TestLayer& layer_;
  const std::string name_;
  std::unique_ptr<net::HttpServer> server_;
  std::atomic<bool> stop_ = false;
  mutable std::mutex mutex_;
  Script script_;                     // guarded by mutex_
  std::vector<Seen> seen_;            // guarded by mutex_
  std::vector<std::thread> threads_;  // guarded by mutex_
};

}  // namespace banyan::fetch::testing
