#include "mirror/route.h"

#include <gtest/gtest.h>

#include "mirror/upstreams.h"

namespace banyan::mirror {
namespace {

const std::string kDigest = Digest::Of("x").ToString();

TEST(RouteTest, KnowsEachEndpoint) {
  const auto manifest = ParseRoute("/v2/team/app/manifests/v1.2?ns=docker.io&x=%20a+b", true);
  ASSERT_TRUE(manifest);
  EXPECT_EQ(manifest->kind, Route::Kind::kManifest);
  EXPECT_EQ(manifest->repository, "team/app");
  EXPECT_EQ(manifest->reference, "v1.2");
  EXPECT_FALSE(manifest->digest);
  EXPECT_EQ(manifest->Parameter("ns"), "docker.io");
  EXPECT_EQ(manifest->Parameter("x"), " a b");
  EXPECT_EQ(manifest->Parameter("y"), std::nullopt);
  EXPECT_EQ(ParseRoute("/v2/app/manifests/" + kDigest, true)->digest, Digest::Of("x"));
  EXPECT_EQ(ParseRoute("/v2/app/manifests/sha256%3A" + kDigest.substr(7), true)->digest, Digest::Of("x"));
  EXPECT_EQ(ParseRoute("/v2/app/blobs/" + kDigest, true)->kind, Route::Kind::kBlob);
  EXPECT_EQ(ParseRoute("/v2/app/referrers/" + kDigest, true)->kind, Route::Kind::kReferrers);
  EXPECT_EQ(ParseRoute("/v2/app/tags/list?n=3", true)->kind, Route::Kind::kTags);
  EXPECT_EQ(ParseRoute("/v2/app/blobs/uploads/", true)->kind, Route::Kind::kUpload);
  EXPECT_EQ(ParseRoute("/v2/app/blobs/uploads/a-1", true)->reference, "a-1");
  EXPECT_EQ(ParseRoute("/v2/", true)->kind, Route::Kind::kBase);
  EXPECT_EQ(ParseRoute("/v2", true)->kind, Route::Kind::kBase);
  // Names may hold the words of the API.
  EXPECT_EQ(ParseRoute("/v2/manifests/blobs/manifests/tags", true)->repository, "manifests/blobs");
}

TEST(RouteTest, AFirstComponentThatCanOnlyBeAHostIsOneIfAllowed) {
  EXPECT_EQ(ParseRoute("/v2/docker.io/library/app/tags/list", true)->host, "docker.io");
  EXPECT_EQ(ParseRoute("/v2/10.0.0.7:5000/app/tags/list", true)->host, "10.0.0.7:5000");
  EXPECT_EQ(ParseRoute("/v2/localhost/app/tags/list", true)->repository, "app");
  EXPECT_EQ(ParseRoute("/v2/team/app/tags/list", true)->host, "");
  EXPECT_EQ(ParseRoute("/v2/docker.io/tags/list", true)->repository, "docker.io");
  EXPECT_EQ(ParseRoute("/v2/docker.io/app/tags/list", false)->repository, "docker.io/app");
  EXPECT_FALSE(ParseRoute("/v2/10.0.0.7:5000/app/tags/list", false));
}

TEST(RouteTest, RefusesTheRestWithTheRightCode) {
  const auto code = [](const std::string& target) {
    const auto route = ParseRoute(target, true);
    return route ? "accepted" : route.error().code;
  };
  EXPECT_EQ(code("/v2/../app/tags/list"), "NAME_INVALID");
  EXPECT_EQ(code("/v2/%2e%2e/app/tags/list"), "NAME_INVALID");
  EXPECT_EQ(code("/v2/App/tags/list"), "NAME_INVALID");
  EXPECT_EQ(code("/v2//tags/list"), "NAME_INVALID");
  EXPECT_EQ(code("/v2/tags/list"), "NAME_INVALID");
  EXPECT_EQ(code("/v2/app/blobs/sha256:12"), "DIGEST_INVALID");
  EXPECT_EQ(code("/v2/app/blobs/md5:12"), "DIGEST_INVALID");
  EXPECT_EQ(code("/v2/app/manifests/sha512:12"), "DIGEST_INVALID");
  EXPECT_EQ(code("/v2/app/manifests/-bad"), "MANIFEST_UNKNOWN");
  EXPECT_EQ(code("/v2/app/manifests/"), "MANIFEST_UNKNOWN");
  EXPECT_EQ(code("/v2/app/blobs/uploads/..%2f"), "UNSUPPORTED");
  EXPECT_EQ(code("/v2/app"), "UNSUPPORTED");
  EXPECT_EQ(code("/v1/app/tags/list"), "UNSUPPORTED");
  EXPECT_EQ(code("/v2/app%2/tags/list"), "UNSUPPORTED");
  EXPECT_EQ(code("/v2/" + std::string(10000, 'a') + "/tags/list"), "UNSUPPORTED");
}

TEST(RouteTest, KnowsHosts) {
  for (const char* host : {"docker.io", "localhost", "10.0.0.7:5000", "[::1]:5000", "[::1]", "a-b.example:1"}) {
    EXPECT_TRUE(IsValidHost(host)) << host;
  }
  for (const char* host : {"", "a/b", "a b", "a@b", "user:pass@h", "h:", "h:0", "h:70000", "h:5a", "[::1", "[]", "..",
                           "-a", "a..b", "h?x", "h#x", "h\r\n"}) {
    EXPECT_FALSE(IsValidHost(host)) << host;
  }
}

TEST(GlobTest, StarsCrossSlashes) {
  EXPECT_TRUE(MatchesGlob("*", "team/app"));
  EXPECT_TRUE(MatchesGlob("team/*", "team/a/b"));
  EXPECT_TRUE(MatchesGlob("t?am/*p", "team/app"));
  EXPECT_TRUE(MatchesGlob("**a", "aaa"));
  EXPECT_FALSE(MatchesGlob("team/*", "teams/a"));
  EXPECT_FALSE(MatchesGlob("", "a"));
  EXPECT_FALSE(MatchesGlob("a", ""));
}

}  // namespace
}  // namespace banyan::mirror
