#include "peer-agent/peer_ask.h"

#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "fetch/priority_header.h"

namespace banyan::peer_agent {
namespace {

TEST(PeerAskTest, Priority) {
  using fetch::Priority;
  for (const auto& [header, priority] : std::vector<std::pair<std::string_view, Priority>>{
           {"u=0", Priority::kDemand},
           {"u=1", Priority::kDemand},
           {"u=3", Priority::kPrefetch},
           {"i, u=6", Priority::kFill},
           {"u=5;x=1,i", Priority::kFill},
           {"", Priority::kPrefetch},
           {"u=9", Priority::kPrefetch},
           {"u=12", Priority::kPrefetch},
           {",,,u", Priority::kPrefetch},
           {"u=", Priority::kPrefetch},
       }) {
    EXPECT_EQ(fetch::ParsePriority(header), priority) << header;
  }
}

TEST(PeerAskTest, Token) {
  EXPECT_TRUE(HasToken("Bearer abc", "abc"));
  EXPECT_TRUE(HasToken("bearer abc", "abc"));
  for (const std::string_view bad :
       {"", "abc", "Bearer", "Bearer ", "Bearer ab", "Bearer abcabc", "Bearer abd", "Basic abc"}) {
    EXPECT_FALSE(HasToken(bad, "abc")) << bad;
  }
  EXPECT_FALSE(HasToken("Bearer ", "")) << "no token is no key";
}

}  // namespace
}  // namespace banyan::peer_agent
