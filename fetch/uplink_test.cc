#include "fetch/uplink.h"

#include <map>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace banyan::fetch {
namespace {

using std::chrono::milliseconds;
using Ticket = Uplink::Ticket;

class UplinkTest : public ::testing::Test {
 protected:
  Ticket Add(Uplink& uplink, const std::string& child, const std::string& function, Priority priority, uint64_t bytes,
             bool begun = false) {
    const Ticket ticket = uplink.Add(child, function, priority, bytes, begun, now_);
    names_[ticket] = child + "/" + function;
    return ticket;
  }
  std::optional<Uplink::Grant> Next(Uplink& uplink) { return uplink.Next(now_).grant; }
  // Sends one grant after the other, each at once, and counts the bytes by "child/function".
  std::map<std::string, uint64_t> Send(Uplink& uplink, int grants) {
    std::map<std::string, uint64_t> sent;
    for (int i = 0; i < grants; ++i) {
      const auto grant = Next(uplink);
      if (!grant) break;
      sent[names_[grant->ticket]] += grant->bytes;
      uplink.Done(grant->ticket, now_);
    }
    return sent;
  }
  // What goes out in `time` when each grant takes the link `bytes / rate`.
  std::map<std::string, uint64_t> SendFor(Uplink& uplink, milliseconds time) {
    std::map<std::string, uint64_t> sent;
    const auto end = now_ + time;
    while (now_ < end) {
      const Uplink::Turn turn = uplink.Next(now_);
      if (turn.grant) {
        sent[names_[turn.grant->ticket]] += turn.grant->bytes;
        uplink.Done(turn.grant->ticket, now_);
      } else {
        now_ = std::min(end, turn.ask_again);
      }
    }
    return sent;
  }

  Clock::time_point now_{std::chrono::hours(1)};
  std::map<Ticket, std::string> names_;
};

TEST_F(UplinkTest, DemandBeforePrefetchBeforeFill) {
  Uplink uplink;
  const Ticket fill = Add(uplink, "a", "f", Priority::kFill, kMiB);
  const Ticket prefetch = Add(uplink, "a", "f", Priority::kPrefetch, 100 * kKiB);
  const Ticket demand = Add(uplink, "b", "f", Priority::kDemand, 300 * kKiB);
  auto grant = Next(uplink);
  ASSERT_TRUE(grant);
  EXPECT_EQ(grant->ticket, demand);
  EXPECT_EQ(grant->bytes, 300 * kKiB) << "a whole chunk";
  EXPECT_FALSE(Next(uplink)) << "what is out holds back the lower classes";
  uplink.Done(demand, now_);
  grant = Next(uplink);
  ASSERT_TRUE(grant);
  EXPECT_EQ(grant->ticket, prefetch);
  EXPECT_EQ(grant->bytes, 64 * kKiB) << "a slice";
  EXPECT_FALSE(Next(uplink));
  uplink.Done(prefetch, now_);
  EXPECT_EQ(Next(uplink)->ticket, prefetch);
  uplink.Done(prefetch, now_);
  EXPECT_EQ(Next(uplink)->ticket, fill);
}

TEST_F(UplinkTest, DemandThatComesLaterStandsBehindFewSlices) {
  Uplink uplink;
  std::vector<Uplink::Grant> out;
  for (int i = 0; i < 20; ++i) Add(uplink, "child" + std::to_string(i), "f", Priority::kFill, 10 * kMiB);
  while (const auto grant = Next(uplink)) out.push_back(*grant);
  EXPECT_EQ(out.size(), 4U) << "256 KiB of bulk on the wire";
  const Ticket demand = Add(uplink, "x", "f", Priority::kDemand, kMiB);
  EXPECT_EQ(Next(uplink)->ticket, demand) << "at once, whatever bulk is out";
  for (const auto& grant : out) uplink.Done(grant.ticket, now_);
  EXPECT_FALSE(Next(uplink)) << "no bulk while demand is out";
  uplink.Done(demand, now_);
  EXPECT_TRUE(Next(uplink));
}

TEST_F(UplinkTest, FairByBytesBetweenFunctionsThenChildren) {
  Uplink uplink;
  // One function with four children, one with one: half each.
  for (int i = 0; i < 4; ++i) Add(uplink, "child" + std::to_string(i), "many", Priority::kPrefetch, kGiB);
  Add(uplink, "child0", "one", Priority::kPrefetch, kGiB);
  auto sent = Send(uplink, 800);
  EXPECT_EQ(sent["child0/one"], 400 * 64 * kKiB);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(sent["child" + std::to_string(i) + "/many"], 100 * 64 * kKiB) << i;
}

TEST_F(UplinkTest, ManyTicketsOfOneChildGainItNothing) {
  Uplink uplink;
  for (int i = 0; i < 10; ++i) Add(uplink, "greedy", "f", Priority::kDemand, kGiB);
  Add(uplink, "modest", "f", Priority::kDemand, kGiB);
  auto sent = Send(uplink, 100);
  EXPECT_EQ(sent["greedy/f"], sent["modest/f"]);
}

TEST_F(UplinkTest, FairInBytesNotInTurns) {
  Uplink uplink;
  // Answers of 16 KiB against answers of 64: who is given little a turn gets more turns.
  Add(uplink, "large", "f", Priority::kPrefetch, kGiB);
  uint64_t small = 0;
  uint64_t large = 0;
  Ticket current = Add(uplink, "small", "f", Priority::kPrefetch, 16 * kKiB);
  for (int i = 0; i < 500; ++i) {
    const auto grant = Next(uplink);
    ASSERT_TRUE(grant);
    (grant->ticket == current ? small : large) += grant->bytes;
    uplink.Done(grant->ticket, now_);
    if (grant->ticket != current) continue;
    uplink.Remove(current, now_);
    current = Add(uplink, "small", "f", Priority::kPrefetch, 16 * kKiB);
  }
  EXPECT_NEAR(static_cast<double>(small), static_cast<double>(large), 128.0 * kKiB);
}

TEST_F(UplinkTest, NewcomersStartAtTheMinimumAndNobodySavesTurnsUp) {
  Uplink uplink;
  Add(uplink, "old", "f", Priority::kPrefetch, kGiB);
  Send(uplink, 1000);
  Add(uplink, "new", "f", Priority::kPrefetch, kGiB);
  auto sent = Send(uplink, 100);
  EXPECT_LE(sent["new/f"], 51 * 64 * kKiB) << "it does not make up for what it did not ask for";
  EXPECT_GE(sent["new/f"], 49 * 64 * kKiB);
}

TEST_F(UplinkTest, WhoComesBackKeepsItsCount) {
  FairOrder order;
  order.Enter("ahead");
  order.Enter("behind");
  order.Charge("ahead", 100);
  order.Leave("ahead");
  order.Enter("ahead");
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(order.first(), "behind") << i;
    order.Charge("behind", 11);
  }
  EXPECT_EQ(order.first(), "ahead");
}

TEST_F(UplinkTest, AnAnswerThatHasBegunIsFinishedFirst) {
  Uplink uplink;
  const Ticket first = Add(uplink, "a", "f", Priority::kFill, 200 * kKiB);
  Add(uplink, "a", "f", Priority::kFill, 200 * kKiB);
  for (int i = 0; i < 4; ++i) {
    const auto grant = Next(uplink);
    EXPECT_EQ(grant->ticket, first) << i;
    uplink.Done(grant->ticket, now_);
  }
}

TEST_F(UplinkTest, ADeadChildCountsAgainstNobodyForLong) {
  Uplink uplink;
  const Ticket dead = Add(uplink, "dead", "f", Priority::kDemand, 8 * kMiB);
  EXPECT_EQ(Next(uplink)->ticket, dead);
  const Ticket bulk = Add(uplink, "alive", "f", Priority::kFill, kMiB);
  const Uplink::Turn turn = uplink.Next(now_);
  EXPECT_FALSE(turn.grant);
  EXPECT_EQ(turn.ask_again, now_ + milliseconds(250));
  now_ = turn.ask_again;
  EXPECT_EQ(Next(uplink)->ticket, bulk);
  EXPECT_FALSE(Next(uplink)) << "one grant a ticket";
  uplink.Done(bulk, now_);
  EXPECT_TRUE(Next(uplink)) << "and it stays so";
  uplink.Done(dead, now_);
  EXPECT_EQ(Next(uplink)->ticket, dead);
}

TEST_F(UplinkTest, RemovalMakesRoom) {
  Uplink uplink;
  std::vector<Ticket> tickets;
  for (int i = 0; i < 8; ++i) tickets.push_back(Add(uplink, std::to_string(i), "f", Priority::kFill, kMiB));
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(Next(uplink));
  EXPECT_FALSE(Next(uplink));
  for (const Ticket ticket : tickets) uplink.Remove(ticket, now_);
  EXPECT_EQ(uplink.tickets(), 0U);
  uplink.Done(tickets[0], now_);
  uplink.Remove(tickets[0], now_);
  uplink.Extend(tickets[0], 10, now_);
  EXPECT_FALSE(Next(uplink));
  const Ticket demand = Add(uplink, "a", "f", Priority::kDemand, 1);
  EXPECT_EQ(Next(uplink)->ticket, demand);
}

TEST_F(UplinkTest, RateLimitOfAll) {
  UplinkOptions options;
  options.bytes_per_second = 10 * kMiB;
  Uplink uplink(options);
  Add(uplink, "a", "f", Priority::kPrefetch, kGiB);
  Add(uplink, "b", "g", Priority::kDemand, 5 * kMiB);
  auto sent = SendFor(uplink, milliseconds(2000));
  EXPECT_EQ(sent["b/g"], 5 * kMiB);
  EXPECT_NEAR(static_cast<double>(sent["a/f"]), 15.0 * kMiB, 0.2 * kMiB);
  EXPECT_NEAR(static_cast<double>(uplink.bytes_per_second(now_)), 10.0 * kMiB, kMiB);
  now_ += std::chrono::seconds(2);
  EXPECT_EQ(uplink.bytes_per_second(now_), 0U);
}

TEST_F(UplinkTest, CeilingOfFillOnly) {
  UplinkOptions options;
  options.fill_bytes_per_second = kMiB;
  Uplink uplink(options);
  Add(uplink, "a", "f", Priority::kFill, kGiB);
  auto sent = SendFor(uplink, milliseconds(4000));
  EXPECT_NEAR(static_cast<double>(sent["a/f"]), 4.0 * kMiB, 0.1 * kMiB);
  const Ticket demand = Add(uplink, "b", "f", Priority::kDemand, 100 * kMiB);
  for (int i = 0; i < 100; ++i) {
    const auto grant = Next(uplink);
    ASSERT_TRUE(grant) << "demand knows no ceiling";
    EXPECT_EQ(grant->ticket, demand);
    uplink.Done(demand, now_);
  }
}

TEST_F(UplinkTest, AnAnswerThatHasBegunIsNeverSilentForLong) {
  Uplink uplink;
  const Ticket begun = Add(uplink, "a", "f", Priority::kFill, kMiB);
  EXPECT_EQ(Next(uplink)->ticket, begun);
  uplink.Done(begun, now_);
  const Ticket waiting = Add(uplink, "c", "f", Priority::kFill, kMiB);
  Add(uplink, "b", "f", Priority::kDemand, kGiB);
  uint64_t crumbs = 0;
  for (int i = 0; i < 1000; ++i, now_ += milliseconds(10)) {
    const auto grant = Next(uplink);
    ASSERT_TRUE(grant);
    uplink.Done(grant->ticket, now_);
    EXPECT_NE(grant->ticket, waiting) << "its child is told to wait otherwise";
    if (grant->ticket != begun) continue;
    EXPECT_EQ(grant->bytes, 4 * kKiB);
    ++crumbs;
  }
  EXPECT_GE(crumbs, 23U);
  EXPECT_LE(crumbs, 26U);
}

TEST_F(UplinkTest, FullWhenBusyWithoutAPause) {
  Uplink uplink;
  EXPECT_FALSE(uplink.full(now_));
  const Ticket fill = Add(uplink, "a", "f", Priority::kFill, kGiB);
  now_ += milliseconds(500);
  EXPECT_FALSE(uplink.full(now_)) << "fill gives way";
  const Ticket demand = Add(uplink, "a", "f", Priority::kDemand, kGiB);
  EXPECT_FALSE(uplink.full(now_));
  now_ += milliseconds(200);
  EXPECT_TRUE(uplink.full(now_));
  uplink.Remove(demand, now_);
  EXPECT_FALSE(uplink.full(now_));
  uplink.Remove(fill, now_);
}

TEST_F(UplinkTest, ForgetsWhoNoLongerMatters) {
  FairOrder order;
  order.Enter("stays");
  for (int i = 0; i < 1000; ++i) {
    const std::string name = std::to_string(i);
    order.Enter(name);
    order.Charge(name, 10);
    order.Leave(name);
    order.Charge("stays", 10);
  }
  EXPECT_LE(order.known(), 3U);
}

// Whatever is asked, in whatever order: the sums agree, and all is sent.
TEST_F(UplinkTest, RandomOperationsSendEverythingOnce) {
  UplinkOptions options;
  options.bytes_per_second = 50 * kMiB;
  Uplink uplink(options);
  uint64_t state = 42;
  const auto random = [&](uint64_t below) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return (state >> 33) % below;
  };
  std::map<Ticket, uint64_t> left;
  std::map<Ticket, uint64_t> out;
  for (int step = 0; step < 20'000; ++step) {
    now_ += std::chrono::microseconds(random(2000));
    switch (random(5)) {
      case 0: {
        const uint64_t bytes = random(kMiB);
        left[Add(uplink, std::to_string(random(5)), std::to_string(random(3)), static_cast<Priority>(random(3)), bytes,
                 random(2) == 0)] = bytes;
        break;
      }
      case 1:
        if (!left.empty()) {
          const auto any = std::next(left.begin(), static_cast<ptrdiff_t>(random(left.size())));
          uplink.Extend(any->first, 1000, now_);
          any->second += 1000;
        }
        break;
      case 2:
        if (!out.empty()) {
          const auto any = std::next(out.begin(), static_cast<ptrdiff_t>(random(out.size())));
          uplink.Done(any->first, now_);
          out.erase(any);
        }
        break;
      case 3:
        if (left.size() > 40) {
          const auto any = std::next(left.begin(), static_cast<ptrdiff_t>(random(left.size())));
          uplink.Remove(any->first, now_);
          out.erase(any->first);
          left.erase(any);
        }
        break;
      default:
        if (const auto grant = Next(uplink)) {
          ASSERT_TRUE(left.contains(grant->ticket));
          ASSERT_FALSE(out.contains(grant->ticket));
          ASSERT_GT(grant->bytes, 0U);
          ASSERT_LE(grant->bytes, left[grant->ticket]);
          left[grant->ticket] -= grant->bytes;
          out[grant->ticket] = grant->bytes;
        }
    }
  }
  for (int i = 0; i < 100'000; ++i) {
    for (const auto& [ticket, bytes] : out) uplink.Done(ticket, now_);
    out.clear();
    const Uplink::Turn turn = uplink.Next(now_);
    if (turn.grant) {
      left[turn.grant->ticket] -= turn.grant->bytes;
      out[turn.grant->ticket] = turn.grant->bytes;
    } else if (turn.ask_again == Clock::time_point::max()) {
      break;
    } else {
      now_ = std::max(now_, turn.ask_again);
    }
  }
  for (const auto& [ticket, bytes] : left) EXPECT_EQ(bytes, 0U) << ticket;
}

// Two children with two asks each, and a kernel that gives the asks of each child a share of the link of their own.
class SharedLink : public UplinkTest {
 protected:
  struct Child {
    uint64_t weight = 1;                  // of the link, against the other's
    uint64_t most_per_tick = UINT64_MAX;  // what its own link takes
    std::map<Ticket, uint64_t> out;       // bytes not yet sent
    uint64_t sent = 0;
  };

  // `bytes_per_tick` is what the link takes in a millisecond.
  void Run(Uplink& uplink, std::map<std::string, Child>& children, uint64_t bytes_per_tick, milliseconds time) {
    std::map<Ticket, Child*> owners;
    for (auto& [name, child] : children) {
      for (int i = 0; i < 2; ++i) owners[Add(uplink, name, "f", Priority::kPrefetch, 1024 * kGiB, true)] = &child;
    }
    for (const auto end = now_ + time; now_ < end; now_ += milliseconds(1)) {
      while (const auto grant = Next(uplink)) owners.at(grant->ticket)->out[grant->ticket] = grant->bytes;
      uint64_t weights = 0;
      for (const auto& [name, child] : children) weights += child.out.size() * child.weight;
      uint64_t left = bytes_per_tick;
      for (auto& [name, child] : children) {
        if (child.out.empty()) continue;
        left -= Send(uplink, child, bytes_per_tick * child.out.size() * child.weight / weights);
      }
      for (auto& [name, child] : children) left -= Send(uplink, child, left);
    }
  }

 private:
  uint64_t Send(Uplink& uplink, Child& child, uint64_t most) {
    uint64_t left = std::min(child.most_per_tick, most);
    const uint64_t before = child.sent;
    while (left > 0 && !child.out.empty()) {
      const auto first = child.out.begin();
      const uint64_t taken = std::min(left, first->second);
      left -= taken;
      child.sent += taken;
      if ((first->second -= taken) > 0) continue;
      uplink.Done(first->first, now_);
      child.out.erase(first);
    }
    return child.sent - before;
  }
};

TEST_F(SharedLink, ChildrenGetTheSameThoughTcpPrefersOne) {
  Uplink uplink;
  std::map<std::string, Child> children{{"a", {.weight = 55}}, {"b", {.weight = 45}}};
  Run(uplink, children, 12'000, milliseconds(10'000));
  const uint64_t a = children["a"].sent;
  const uint64_t b = children["b"].sent;
  EXPECT_LE(std::max(a, b) - std::min(a, b), 256 * kKiB) << a << " and " << b;
  EXPECT_GT(a + b, 115'000'000U) << "of 120: the link was not left idle";
}

// Nor does that go on once the one behind is 2 MiB behind.
TEST_F(SharedLink, NobodyIsHeldBackForOneWhoDoesNotTakeItsTurn) {
  Uplink uplink;
  std::map<std::string, Child> children{{"a", {}}, {"b", {.most_per_tick = 0}}};
  Run(uplink, children, 12'000, milliseconds(1'000));
  EXPECT_GT(children["a"].sent, 8'000'000U) << "of 12: at most 0.2 s at once";
}

TEST_F(SharedLink, AChildWithANarrowLinkCostsTheOtherLittle) {
  Uplink uplink;
  std::map<std::string, Child> children{{"a", {}}, {"b", {.most_per_tick = 600}}};
  Run(uplink, children, 12'000, milliseconds(10'000));
  EXPECT_GT(children["a"].sent, 105'000'000U) << "of 114";
  EXPECT_GT(children["b"].sent, 5'500'000U) << "of 6 (in two passes a tick: at most 12)";
}

}  // namespace
}  // namespace banyan::fetch
