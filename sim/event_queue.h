// What happens next. Events of the same instant happen in the order in which they were scheduled, so that a run depends
// on its scenario and seed alone.
//
// A heap of four children a node: half as deep as a binary one, and the children share cache lines. O(log n) an event.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace banyan::sim {

// Since the beginning of the run.
using Nanos = int64_t;
inline constexpr Nanos kMicrosecond = 1'000;
inline constexpr Nanos kMillisecond = 1'000'000;
inline constexpr Nanos kSecond = 1'000'000'000;
inline constexpr Nanos kNever = INT64_MAX;

enum class EventKind : uint8_t {
  // links.cc
  kSliceSent,     // a: server
  kSliceArrives,  // a: transfer, b: bytes
  kUplinkAsks,    // a: server
  // agents.cc, serving.cc
  kAskArrives,  // a: request, b: its generation
  kAskFails,    // a: request, b: its generation
  kStored,      // a: agent, b: function and chunk
  kAlarm,       // a: agent
  // starts.cc
  kStart,     // a: node, b: function
  kJoins,     // a: node, b: function
  kNextRead,  // a: node, b: function
  kRequest,   // of the users
  kServed,    // a: node, b: function
  kReclaim,   // a: node, b: when it became idle
  // manager.cc
  kJoinArrives,  // a: node, b: function
  kLeaveArrives,
  kReportArrives,      // a: the peer that is reported
  kFlush,              // a: function
  kAssignmentArrives,  // a: node, b: function
  kJudge,              // a: node
  kBeat,               // a: node
  kVisit,
  // simulation.cc
  kScripted,  // a: index of the scenario's event
  kChurn,
  kGone,  // a: node: a leaver ends
};

struct Event {
  Nanos at = 0;
  uint64_t order = 0;
  uint64_t b = 0;
  uint32_t a = 0;
  EventKind kind = EventKind::kScripted;
};

// Externally synchronised.
class EventQueue {
 public:
  Nanos now() const { return now_; }
  bool empty() const { return heap_.empty(); }
  size_t size() const { return heap_.size(); }
  uint64_t popped() const { return popped_; }

  // `at` before now is now.
  void At(Nanos at, EventKind kind, uint32_t a = 0, uint64_t b = 0) {
    heap_.push_back({});
    Event event{at < now_ ? now_ : at, ++order_, b, a, kind};
    size_t hole = heap_.size() - 1;
    while (hole > 0 && Before(event, heap_[(hole - 1) / 4])) {
      heap_[hole] = heap_[(hole - 1) / 4];
      hole = (hole - 1) / 4;
    }
    heap_[hole] = event;
  }
  void In(Nanos delay, EventKind kind, uint32_t a = 0, uint64_t b = 0) { At(now_ + delay, kind, a, b); }

  // What happens next if nothing else is scheduled before. Not when empty().
  const Event& top() const { return heap_.front(); }

  // Not when empty(). The time is now the event's.
  Event Pop() {
    const Event first = heap_.front();
    const Event last = heap_.back();
    heap_.pop_back();
    if (!heap_.empty()) SiftDown(last);
    now_ = first.at;
    ++popped_;
    return first;
  }

 private:
  static bool Before(const Event& x, const Event& y) { return x.at != y.at ? x.at < y.at : x.order < y.order; }

  void SiftDown(const Event& event) {
    size_t hole = 0;
    for (;;) {
      const size_t first = hole * 4 + 1;
      if (first >= heap_.size()) break;
      const size_t end = first + 4 < heap_.size() ? first + 4 : heap_.size();
      size_t least = first;
      for (size_t child = first + 1; child < end; ++child) {
        if (Before(heap_[child], heap_[least])) least = child;
      }
      if (!Before(heap_[least], event)) break;
      heap_[hole] = heap_[least];
      hole = least;
    }
    heap_[hole] = event;
  }

  std::vector<Event> heap_;
  Nanos now_ = 0;
  uint64_t order_ = 0;
  uint64_t popped_ = 0;
};

}  // namespace banyan::sim
