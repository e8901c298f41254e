#include "peer-agent/peer_faults.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace banyan::peer_agent {
namespace {

using fetch::PeerFault;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string PageOf(const PeerFaults& faults) {
  MetricsPage page;
  faults.AddMetrics(page);
  return page.Text();
}

TEST(PeerFaultsTest, NameTheCulprit) {
  PeerFaults faults;
  EXPECT_THAT(PageOf(faults), Not(HasSubstr("banyan_peer_faults_total{")));
  faults.Count("n7", PeerFault::kBadBytes);
  faults.Count("n7", PeerFault::kBadBytes);
  faults.Count("n9", PeerFault::kLied);
  EXPECT_THAT(PageOf(faults), AllOf(HasSubstr(R"(banyan_peer_faults_total{node="n7",kind="bad_bytes"} 2)"),
                                    HasSubstr(R"(banyan_peer_faults_total{node="n9",kind="lied"} 1)"),
                                    Not(HasSubstr("slow")), Not(HasSubstr("unreachable"))));
}

TEST(PeerFaultsTest, HoweverManyNamesThereAre) {
  PeerFaults faults;
  for (int i = 0; i < 2000; ++i) faults.Count("n" + std::to_string(i), PeerFault::kUnreachable);
  faults.Count("n0", PeerFault::kUnreachable);
  const std::string text = PageOf(faults);
  EXPECT_THAT(text, HasSubstr("{node=\"n0\",kind=\"unreachable\"} 2"));
  EXPECT_THAT(text, HasSubstr("{node=\"(others)\",kind=\"unreachable\"} 1744"));
}

}  // namespace
}  // namespace banyan::peer_agent
