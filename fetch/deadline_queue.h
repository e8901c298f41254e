// What is to happen when: a set of (time, event), the earliest first. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <utility>

#include "fetch/chunk_source.h"

namespace banyan::fetch {

// Externally synchronised.
template <typename Event>
class DeadlineQueue {
 public:
  // Names an entry until it is popped or removed; a default one names none.
  using Handle = std::pair<Clock::time_point, uint64_t>;

  Handle Add(Clock::time_point when, Event event) {
    const Handle handle{when, ++last_};
    entries_.emplace(handle, std::move(event));
    return handle;
  }
  void Remove(const Handle& handle) { entries_.erase(handle); }

  std::optional<Event> PopDue(Clock::time_point now) {
    if (entries_.empty() || entries_.begin()->first.first > now) return std::nullopt;
    Event event = std::move(entries_.begin()->second);
    entries_.erase(entries_.begin());
    return event;
  }
  // Clock::time_point::max() when empty.
  Clock::time_point next() const { return entries_.empty() ? Clock::time_point::max() : entries_.begin()->first.first; }

 private:
  std::map<Handle, Event> entries_;
  uint64_t last_ = 0;
};

}  // namespace banyan::fetch
