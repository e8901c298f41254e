#include "fetch/uplink.h"

#include <algorithm>
#include <utility>

namespace banyan::fetch {

namespace {

constexpr std::chrono::milliseconds kMeterSlot{100};
constexpr std::chrono::milliseconds kFullAfter{200};
constexpr uint64_t kFullPercent = 80;  // of the limit

int64_t TickOf(Clock::time_point time) { return time.time_since_epoch() / kMeterSlot; }

}  // namespace

void RateMeter::Add(Clock::time_point now, uint64_t bytes) {
  const int64_t tick = TickOf(now);
  Slot& slot = slots_[static_cast<size_t>(tick % (kSlots + 1))];
  if (slot.tick != tick) slot = {tick, 0};
  slot.bytes += bytes;
}

// The last ten whole slots: the one that is under way would drag the figure down.
uint64_t RateMeter::bytes_per_second(Clock::time_point now) const {
  const int64_t tick = TickOf(now);
  uint64_t sum = 0;
  for (const Slot& slot : slots_) {
    if (slot.tick < tick && slot.tick >= tick - kSlots) sum += slot.bytes;
  }
  return sum;
}

void TokenBucket::Take(Clock::time_point now, uint64_t bytes) {
  if (rate_ <= 0) return;
  const auto cost =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(static_cast<double>(bytes) / rate_));
  free_at_ = std::max(free_at_, now) + cost;
}

Uplink::Uplink(const UplinkOptions& options)
    : options_(options),
      limit_(options.bytes_per_second),
      fill_limit_(options.fill_bytes_per_second),
      hold_left_(options.held_longest) {}

Uplink::Ticket Uplink::Add(const std::string& child, const std::string& function, Priority priority, uint64_t bytes,
                           bool begun, Clock::time_point now) {
  const Ticket ticket = ++last_ticket_;
  Entry& entry = tickets_[ticket];
  entry.child = child;
  entry.function = function;
  entry.priority = priority;
  entry.begun = begun;
  ++ClassOf(entry).tickets;
  Extend(ticket, bytes, now);
  return ticket;
}

void Uplink::Extend(Ticket ticket, uint64_t bytes, Clock::time_point now) {
  const auto found = tickets_.find(ticket);
  if (found == tickets_.end() || bytes == 0) return;
  Entry& entry = found->second;
  const bool had_work = entry.has_work();
  entry.waiting_bytes += bytes;
  NoteWork(entry, had_work, now);
  if (entry.granted_bytes == 0) Queue(ticket, entry, now);
}

void Uplink::Queue(Ticket ticket, Entry& entry, Clock::time_point now) {
  if (entry.queued) return;
  entry.queued = true;
  entry.queued_at = now;
  if (entry.begun) begun_.emplace(now, ticket);
  ClassQueue& waiting = ClassOf(entry);
  waiting.order.Enter(entry.function);
  FunctionQueue& function = waiting.functions.try_emplace(entry.function, options_.fair_memory_bytes).first->second;
  function.children[entry.child].queued.insert(ticket);
  Place(function, entry.child);
}

void Uplink::Unqueue(Ticket ticket, Entry& entry) {
  if (!entry.queued) return;
  entry.queued = false;
  begun_.erase({entry.queued_at, ticket});
  ClassQueue& waiting = ClassOf(entry);
  FunctionQueue& function = waiting.functions.at(entry.function);
  function.children.at(entry.child).queued.erase(ticket);
  Place(function, entry.child);
  if (function.order.empty()) waiting.order.Leave(entry.function);
}

void Uplink::Place(FunctionQueue& function, const std::string& child) {
  const auto found = function.children.find(child);
  if (!found->second.queued.empty()) return function.order.Enter(child);
  if (found->second.counted_grants > 0) return function.order.Pause(child);
  function.order.Leave(child);
  function.children.erase(found);
}

void Uplink::Count(const Entry& entry, bool counts) {
  ClassQueue& waiting = ClassOf(entry);
  FunctionQueue& function = waiting.functions.at(entry.function);
  ChildQueue& child = function.children[entry.child];
  if (counts) {
    WireOf(entry) += entry.granted_bytes;
    ++waiting.counted_grants;
    ++child.counted_grants;
  } else {
    WireOf(entry) -= entry.granted_bytes;
    --waiting.counted_grants;
    --child.counted_grants;
  }
  Place(function, entry.child);
}

void Uplink::EndGrant(Ticket ticket, Entry& entry) {
  if (entry.granted_bytes > 0 && !entry.slow) {
    grants_.erase({entry.granted_at, ticket});
    Count(entry, false);
  }
  entry.granted_bytes = 0;
  entry.slow = false;
}

void Uplink::NoteWork(const Entry& entry, bool had_work, Clock::time_point now) {
  if (entry.priority == Priority::kFill || had_work == entry.has_work()) return;
  if (had_work) {
    if (--busy_tickets_ == 0) busy_since_ = Clock::time_point::max();
    return;
  }
  if (busy_tickets_++ == 0) busy_since_ = now;
}

void Uplink::Done(Ticket ticket, Clock::time_point now) {
  const auto found = tickets_.find(ticket);
  if (found == tickets_.end() || found->second.granted_bytes == 0) return;
  Entry& entry = found->second;
  meter_.Add(now, entry.granted_bytes);
  if (entry.waiting_bytes > 0) Queue(ticket, entry, now);  // before the grant ends, or the child would be away between
  EndGrant(ticket, entry);
  NoteWork(entry, true, now);
}

void Uplink::Remove(Ticket ticket, Clock::time_point now) {
  const auto found = tickets_.find(ticket);
  if (found == tickets_.end()) return;
  Entry& entry = found->second;
  const bool had_work = entry.has_work();
  Unqueue(ticket, entry);
  EndGrant(ticket, entry);
  entry.waiting_bytes = 0;
  NoteWork(entry, had_work, now);
  ClassQueue& waiting = ClassOf(entry);
  tickets_.erase(found);
  if (--waiting.tickets == 0) waiting = {};  // who was behind in a time that is over
}

void Uplink::FindSlow(Clock::time_point now) {
  while (!grants_.empty() && grants_.begin()->first + options_.slow_after <= now) {
    Entry& entry = tickets_.at(grants_.begin()->second);
    entry.slow = true;
    Count(entry, false);
    grants_.erase(grants_.begin());
  }
}

Uplink::Ticket Uplink::First(const ClassQueue& waiting, bool is_demand, bool hold) const {
  const FunctionQueue& function = waiting.functions.at(waiting.order.first());
  const std::string* child = function.order.Find([&](const std::string& name, uint64_t lag, uint64_t lead) {
    if (is_demand) return true;
    if (hold && lead > options_.fair_lead_bytes && lead <= options_.fair_memory_bytes) return false;
    return function.children.at(name).counted_grants == 0 || lag > options_.fair_lag_bytes;
  });
  return child == nullptr ? 0 : *function.children.at(*child).queued.begin();
}

Uplink::Ticket Uplink::FirstOfBulk(const ClassQueue& waiting) {
  const bool may_hold = hold_left_ > Clock::duration::zero() && waiting.order.waiting() == 1;
  const Ticket fair = First(waiting, /*is_demand=*/false, may_hold);
  if (fair != 0 || !may_hold) return fair;
  holding_ = First(waiting, /*is_demand=*/false, /*hold=*/false) != 0;
  return 0;
}

void Uplink::CountHold(Clock::time_point now) {
  const Clock::duration passed = now - hold_counted_at_;
  hold_counted_at_ = now;
  if (std::exchange(holding_, false)) {
    hold_left_ = std::max(hold_left_ - passed, Clock::duration::zero());
  } else {
    hold_left_ = std::min<Clock::duration>(hold_left_ + passed * options_.held_percent / 100, options_.held_longest);
  }
}

Uplink::Grant Uplink::Give(Ticket ticket, Entry& entry, uint64_t most, Clock::time_point now) {
  const uint64_t bytes = std::min(most, entry.waiting_bytes);
  ClassQueue& waiting = ClassOf(entry);
  waiting.order.Charge(entry.function, bytes);
  waiting.functions.at(entry.function).order.Charge(entry.child, bytes);
  entry.waiting_bytes -= bytes;
  entry.granted_bytes = bytes;
  entry.granted_at = now;
  entry.begun = true;
  grants_.emplace(now, ticket);
  Count(entry, true);
  Unqueue(ticket, entry);
  limit_.Take(now, bytes);
  if (entry.priority == Priority::kFill) fill_limit_.Take(now, bytes);
  return {ticket, bytes};
}

std::optional<Uplink::Grant> Uplink::GiveCrumb(Clock::time_point now) {
  if (begun_.empty() || begun_.begin()->first + options_.longest_pause > now) return std::nullopt;
  const Ticket ticket = begun_.begin()->second;
  return Give(ticket, tickets_.at(ticket), options_.crumb_bytes, now);
}

std::optional<Uplink::Grant> Uplink::GiveInOrder(Clock::time_point now, Clock::time_point& ask_again) {
  if (limit_.ready_at() > now) {
    ask_again = limit_.ready_at();
    return std::nullopt;
  }
  for (ClassQueue& waiting : classes_) {
    if (waiting.order.empty() && waiting.counted_grants == 0) continue;
    if (waiting.order.empty()) break;  // what is out holds back the classes below
    const bool is_demand = &waiting == &classes_[static_cast<size_t>(Priority::kDemand)];
    const Ticket ticket = is_demand ? First(waiting, is_demand, /*hold=*/false) : FirstOfBulk(waiting);
    if (ticket == 0) break;
    Entry& entry = tickets_.at(ticket);
    const uint64_t slice =
        std::min(is_demand ? options_.demand_slice_bytes : options_.bulk_slice_bytes, entry.waiting_bytes);
    const uint64_t wire = WireOf(entry);
    if (wire > 0 && wire + slice > (is_demand ? options_.demand_wire_bytes : options_.bulk_wire_bytes)) break;
    if (entry.priority == Priority::kFill && fill_limit_.ready_at() > now) {
      ask_again = fill_limit_.ready_at();
      return std::nullopt;
    }
    return Give(ticket, entry, slice, now);
  }
  // A grant that turns out to be slow lets others pass.
  if (!grants_.empty()) ask_again = grants_.begin()->first + options_.slow_after;
  if (holding_) ask_again = std::min(ask_again, now + hold_left_);
  return std::nullopt;
}

Uplink::Turn Uplink::Next(Clock::time_point now) {
  FindSlow(now);
  CountHold(now);
  Turn turn;
  const bool waits =
      std::any_of(classes_.begin(), classes_.end(), [](const ClassQueue& each) { return !each.order.empty(); });
  if (!waits) return turn;
  turn.grant = GiveCrumb(now);
  if (!turn.grant) turn.grant = GiveInOrder(now, turn.ask_again);
  if (turn.grant) {
    turn.ask_again = now;
  } else if (!begun_.empty()) {
    turn.ask_again = std::min(turn.ask_again, begun_.begin()->first + options_.longest_pause);
  }
  return turn;
}

bool Uplink::full(Clock::time_point now) const {
  if (busy_tickets_ == 0 || now - busy_since_ < kFullAfter) return false;
  return options_.bytes_per_second == 0 || bytes_per_second(now) >= options_.bytes_per_second * kFullPercent / 100;
}

}  // namespace banyan::fetch
