#include "peer-agent/node_http.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/file_io.h"
#include "common/settings.h"
#include "mirror/testing/raw_client.h"

namespace banyan::peer_agent {
namespace {

using ::testing::HasSubstr;

class NodeHttpTest : public ::testing::Test {
 protected:
  // One request to a server of its own.
  mirror::testing::Answer Ask(bool metrics_only, const std::string& path) {
    const auto http = NodeHttp::Listen({.address = "127.0.0.1:0",
                                        .metrics_only = metrics_only,
                                        .add_metrics = [](MetricsPage& page) { page.Gauge("a_gauge", "A gauge.", 7); }},
                                       *mirror_);
    EXPECT_TRUE(http);
    return mirror::testing::Ask(ParseHostPort((*http)->address())->port, "GET", path, "");
  }

  const TempDir dir_ = TempDir::Make("banyan-node-http").value();
  const std::unique_ptr<store::NodeStore> store_ =
      store::NodeStore::Open({.root = dir_.path(), .budget_bytes = 1 << 20}).value();
  const std::unique_ptr<mirror::Mirror> mirror_ = OpenMirror({}, true, *store_, {}).value();
};

TEST_F(NodeHttpTest, WhereTheMirrorIsThereAreMetricsToo) {
  EXPECT_EQ(Ask(false, "/v2/").status, 200);
  EXPECT_EQ(Ask(false, "/readyz").status, 200);
  EXPECT_THAT(Ask(false, "/metrics").body, HasSubstr("a_gauge 7"));
}

TEST_F(NodeHttpTest, WhereOnlyMetricsAreNothingElseIs) {
  EXPECT_THAT(Ask(true, "/metrics").body, HasSubstr("a_gauge 7"));
  EXPECT_THAT(Ask(true, "/metrics").body, HasSubstr("banyan_mirror_flights"));
  EXPECT_EQ(Ask(true, "/healthz").status, 200);
  EXPECT_EQ(Ask(true, "/readyz").status, 200);
  for (const char* path : {"/v2/", "/v2/app/manifests/latest?ns=r.example", "/v2/app/tags/list", "/"}) {
    EXPECT_EQ(Ask(true, path).status, 404) << path;
    EXPECT_EQ(Ask(true, path).body, "only metrics are here\n") << path;
  }
}

}  // namespace
}  // namespace banyan::peer_agent
