#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "fetch/timer.h"
#include "net/http_message.h"

namespace banyan::peer_agent::testing {

// One request under way. Internally synchronised.
class Asked {
 public:
  void OnInterim(const net::HeaderList& headers) {
    const std::lock_guard lock(mutex_);
    const std::string* via = headers.Find("via");
    vias_.push_back(via != nullptr ? *via : "");
    changed_.notify_all();
  }
  void OnHead(int code, const net::HeaderList& headers) {
    const std::lock_guard lock(mutex_);
    code_ = code;
    headers_ = headers;
  }
  void OnData(std::span<const std::byte> data) {
    const std::lock_guard lock(mutex_);
    body_.append(reinterpret_cast<const char*>(data.data()), data.size());
  }
  void OnDone(Status status) {
    const std::lock_guard lock(mutex_);
    status_ = std::move(status);
    done_at_ = fetch::Clock::now();
    changed_.notify_all();
  }

  bool WaitInterims(size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::milliseconds(5000), [&] { return vias_.size() >= count; });
  }
  bool Wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::milliseconds(20'000), [&] { return status_.has_value(); });
  }
  bool done() {
    const std::lock_guard lock(mutex_);
    return status_.has_value();
  }
  // After Wait().
  bool ok() { return Wait() && static_cast<bool>(*status_); }
  int code() { return Wait() ? code_ : -1; }
  std::string body() { return Wait() ? body_ : ""; }
  std::string header(std::string_view name) {
    Wait();
    const std::string* value = headers_.Find(name);
    return value != nullptr ? *value : "";
  }
  std::vector<std::string> vias() {
    const std::lock_guard lock(mutex_);
    return vias_;
  }
  fetch::Clock::time_point done_at() { return done_at_; }
  uint64_t id = 0;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> vias_;
  int code_ = 0;
  net::HeaderList headers_;
  std::string body_;
  std::optional<Status> status_;
  fetch::Clock::time_point done_at_;
};

}  // namespace banyan::peer_agent::testing
