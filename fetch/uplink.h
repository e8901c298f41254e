// Who is served next by one node's uplink: a pure policy, the same in the server and in the simulator. DESIGN.md §5,
// §7.
//
// Problem: a node's children ask for bytes that readers wait for and for bytes that nobody waits for yet, all over one
// link. Idea: every answer is a ticket; the link's time is given out in grants, a piece of one ticket each, and the
// next grant is only made when few granted bytes are still on their way to the kernel. So the order is decided here,
// late, and a demand that comes now stands behind a few slices of bulk, not behind all that was promised before.
//
// Rules. Demand before prefetch before fill, strictly: a class gets nothing while a higher one waits, or has a grant
// out that is younger than `slow_after`. Within a class the function that is further behind in bytes goes first, within
// that the child, within that the older ticket. Demand goes in large slices, the rest in small ones. A grant that is
// out for `slow_after` has a slow or dead child behind it and no longer counts against anybody. An answer that has
// begun gets a crumb every `longest_pause`, whatever waits: silence would mean to the child that this node is dead.
//
// Of prefetch and fill a child has one grant out, of its oldest ask: its asks come whole one after the other, not all
// at once and late. Turns alone do not share a full link, though: TCP decides whose grant is done first (measured: 43
// to 52 of 95 Mbit/s for two children, for as long as they liked), and in a tree nobody catches up what it has missed.
// So a child that is behind has as many grants out as it has asks, and one that is ahead is held back: what the kernel
// has of it goes meanwhile, and the link is all the other's. If that one's own link is the narrow one, holding back
// does not help it: so nobody is held back for more than a part of the time, nor for one who is behind by so much that
// it cannot be for a fault of sharing. Who is alone, or waits beside other functions, is not held back at all.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>

#include "common/units.h"
#include "fetch/chunk_source.h"
#include "fetch/fair_order.h"

namespace banyan::fetch {

struct UplinkOptions {
  uint64_t bytes_per_second = 0;       // of all classes together; 0: no limit
  uint64_t fill_bytes_per_second = 0;  // of fill; 0: no limit of its own
  uint64_t demand_slice_bytes = 1 * kMiB;
  uint64_t bulk_slice_bytes = 64 * kKiB;
  // Granted and not done, at most (but always one slice): of demand, and of the other two.
  uint64_t demand_wire_bytes = 4 * kMiB;
  uint64_t bulk_wire_bytes = 256 * kKiB;
  std::chrono::milliseconds slow_after{250};
  std::chrono::milliseconds longest_pause{400};
  uint64_t crumb_bytes = 4 * kKiB;
  uint64_t fair_lag_bytes = 256 * kKiB;   // of prefetch and fill: a child further behind than this is
  uint64_t fair_lead_bytes = 128 * kKiB;  // and one further ahead is held back
  uint64_t fair_memory_bytes = 2 * kMiB;  // what it was behind, at most, when it asks again after a pause
  int held_percent = 10;                  // of the time, at most, on average over
  std::chrono::milliseconds held_longest{200};
};

// Bytes over the last second. Externally synchronised.
class RateMeter {
 public:
  void Add(Clock::time_point now, uint64_t bytes);
  uint64_t bytes_per_second(Clock::time_point now) const;

 private:
  static constexpr int64_t kSlots = 10;
  struct Slot {
    int64_t tick = -1;
    uint64_t bytes = 0;
  };
  std::array<Slot, kSlots + 1> slots_;
};

// A rate that a debt is paid off at: what is taken may exceed what is there, and the next one waits. Externally
// synchronised.
class TokenBucket {
 public:
  // 0: no limit.
  explicit TokenBucket(uint64_t bytes_per_second) : rate_(static_cast<double>(bytes_per_second)) {}
  void Take(Clock::time_point now, uint64_t bytes);
  // When something may be taken again; `now` or before: at once.
  Clock::time_point ready_at() const { return free_at_; }

 private:
  double rate_;
  Clock::time_point free_at_{};  // when the debt is paid off
};

// Externally synchronised. Each call O(log n) in the tickets. `now` must not go back.
class Uplink {
 public:
  using Ticket = uint64_t;  // never 0
  struct Grant {
    Ticket ticket = 0;
    uint64_t bytes = 0;
  };
  struct Turn {
    std::optional<Grant> grant;
    // Without a grant: when to ask again, if nothing changes before; max(): nothing waits for time to pass.
    Clock::time_point ask_again = Clock::time_point::max();
  };

  explicit Uplink(const UplinkOptions& options = {});

  // `bytes` of an answer to `child` wait to be sent (0: none yet). `begun`: the child has seen the answer's head.
  Ticket Add(const std::string& child, const std::string& function, Priority priority, uint64_t bytes, bool begun,
             Clock::time_point now);
  // More bytes of the same answer.
  void Extend(Ticket ticket, uint64_t bytes, Clock::time_point now);
  // To be called until there is no grant, after each of the other calls and when `ask_again` has come. A ticket has at
  // most one grant at a time.
  Turn Next(Clock::time_point now);
  // The grant's bytes are with the kernel.
  void Done(Ticket ticket, Clock::time_point now);
  // The answer is complete, or the child has gone.
  void Remove(Ticket ticket, Clock::time_point now);

  size_t tickets() const { return tickets_.size(); }
  // Of what was done.
  uint64_t bytes_per_second(Clock::time_point now) const { return meter_.bytes_per_second(now); }
  // Demand and prefetch have kept it busy without a pause for a while (with a limit: and nearly at that).
  bool full(Clock::time_point now) const;

 private:
  struct Entry {
    std::string child;
    std::string function;
    Priority priority = Priority::kFill;
    uint64_t waiting_bytes = 0;
    uint64_t granted_bytes = 0;
    Clock::time_point granted_at;
    Clock::time_point queued_at;
    bool queued = false;
    bool begun = false;
    bool slow = false;  // its grant no longer counts
    bool has_work() const { return waiting_bytes > 0 || granted_bytes > 0; }
  };
  struct ChildQueue {
    std::set<Ticket> queued;
    size_t counted_grants = 0;  // out, and not slow
  };
  struct FunctionQueue {
    explicit FunctionQueue(uint64_t memory_bytes) : order(memory_bytes) {}
    FairOrder order;                                       // of children
    std::unordered_map<std::string, ChildQueue> children;  // with anything in them
  };
  struct ClassQueue {
    FairOrder order;  // of functions
    std::unordered_map<std::string, FunctionQueue> functions;
    size_t tickets = 0;
    size_t counted_grants = 0;  // out, and not slow
  };
  using Timed = std::set<std::pair<Clock::time_point, Ticket>>;

  ClassQueue& ClassOf(const Entry& entry) { return classes_[static_cast<size_t>(entry.priority)]; }
  uint64_t& WireOf(const Entry& entry) { return wire_[entry.priority == Priority::kDemand ? 0 : 1]; }
  void Queue(Ticket ticket, Entry& entry, Clock::time_point now);
  void Unqueue(Ticket ticket, Entry& entry);
  // A grant of the entry counts from now on, or no longer.
  void Count(const Entry& entry, bool counts);
  void EndGrant(Ticket ticket, Entry& entry);
  void NoteWork(const Entry& entry, bool had_work, Clock::time_point now);
  void FindSlow(Clock::time_point now);
  Grant Give(Ticket ticket, Entry& entry, uint64_t most, Clock::time_point now);
  std::optional<Grant> GiveCrumb(Clock::time_point now);
  std::optional<Grant> GiveInOrder(Clock::time_point now, Clock::time_point& ask_again);
  // Whose turn it is in a class where somebody waits; 0: nobody's yet.
  Ticket First(const ClassQueue& waiting, bool is_demand, bool hold) const;
  // The same of prefetch or fill, with who is ahead held back, if that may be.
  Ticket FirstOfBulk(const ClassQueue& waiting);
  void CountHold(Clock::time_point now);
  // The child's place in its function's order, after a change of what it has queued or out.
  static void Place(FunctionQueue& function, const std::string& child);

  const UplinkOptions options_;
  Ticket last_ticket_ = 0;
  std::unordered_map<Ticket, Entry> tickets_;
  std::array<ClassQueue, 3> classes_;
  std::array<uint64_t, 2> wire_{};  // granted and not done, slow ones aside: demand, the rest
  Timed grants_;                    // out and not slow, by the time of the grant
  Timed begun_;                     // queued though begun, by the time since when
  TokenBucket limit_;
  TokenBucket fill_limit_;
  // For how long somebody may still be held back: goes down while that is so, and up while not.
  Clock::duration hold_left_;
  Clock::time_point hold_counted_at_{};
  bool holding_ = false;
  RateMeter meter_;
  size_t busy_tickets_ = 0;  // of demand and prefetch, with something to send
  Clock::time_point busy_since_ = Clock::time_point::max();
};

}  // namespace banyan::fetch
