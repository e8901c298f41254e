// Parsers of references and headers, by tables.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "net/auth.h"
#include "net/http_message.h"
#include "net/manifest_json.h"
#include "net/range_header.h"
#include "net/reference.h"
#include "net/repository.h"
#include "net/url.h"

namespace banyan::net {
namespace {

const std::string kHex(64, 'a');

TEST(ReferenceTest, Docker) {
  struct Case {
    std::string text, host, repository, tag;
  };
  const Case cases[] = {
      {"docker://debian", "docker.io", "library/debian", "latest"},
      {"docker://docker.io/debian:12", "docker.io", "library/debian", "12"},
      {"docker://index.docker.io/a/b", "docker.io", "a/b", "latest"},
      {"docker://user/app:v1", "docker.io", "user/app", "v1"},
      {"docker://localhost/app", "localhost", "app", "latest"},
      {"docker://localhost:5000/app:v", "localhost:5000", "app", "v"},
      {"docker://[::1]:5000/a/b:v", "[::1]:5000", "a/b", "v"},
      {"docker://quay.io/a/b/c__d.e-f", "quay.io", "a/b/c__d.e-f", "latest"},
  };
  for (const Case& c : cases) {
    const auto parsed = ImageReference::Parse(c.text);
    ASSERT_TRUE(parsed) << c.text << ": " << parsed.error().message;
    EXPECT_EQ(parsed->host, c.host);
    EXPECT_EQ(parsed->repository, c.repository);
    EXPECT_EQ(parsed->tag, c.tag);
    const auto again = ImageReference::Parse(parsed->ToString());
    ASSERT_TRUE(again) << parsed->ToString();
    EXPECT_EQ(again->ToString(), parsed->ToString());
  }
  const auto pinned = ImageReference::Parse("docker://h.example/a@sha256:" + kHex);
  ASSERT_TRUE(pinned);
  EXPECT_EQ(pinned->tag, "");
  EXPECT_EQ(pinned->digest->Hex(), kHex);
  EXPECT_EQ(ImageReference::Parse("docker://h.example/a:t@sha256:" + kHex)->tag, "t");
}

TEST(ReferenceTest, DockerRefused) {
  for (const std::string& text : {std::string("debian"),
                                  std::string("docker://"),
                                  std::string("docker://h.example/"),
                                  std::string("docker://h.example/A"),
                                  std::string("docker://h.example/a:"),
                                  std::string("docker://h.example/a:-x"),
                                  std::string("docker://h.example/a//b"),
                                  std::string("docker://h.example/../b"),
                                  std::string("docker://h.example/a..b"),
                                  std::string("docker://h.example/a___b"),
                                  std::string("docker://h.example/a@sha256:abc"),
                                  std::string("docker://h.example/a@md5:abc"),
                                  std::string("docker://h.example:0/a"),
                                  std::string("docker://h.example:99999/a"),
                                  std::string("docker://[::1/a"),
                                  std::string("docker://user@h.example/a"),
                                  std::string("docker://h.example/a?b"),
                                  "docker://a/" + std::string(300, 'b'),
                                  std::string("docker://h.example/a\r\nb"),
                                  std::string("docker-archive:x")}) {
    const auto parsed = ImageReference::Parse(text);
    EXPECT_FALSE(parsed) << text;
    EXPECT_TRUE(parsed || parsed.error().code == Code::kInvalidArgument) << text;
  }
}

TEST(ReferenceTest, Oci) {
  const auto plain = ImageReference::Parse("oci:dir");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->repository, "dir");
  EXPECT_EQ(plain->tag, "");
  const auto colons = ImageReference::Parse("oci:/data/a:b/img:v1.0");
  ASSERT_TRUE(colons);
  EXPECT_EQ(colons->repository, "/data/a:b/img");
  EXPECT_EQ(colons->tag, "v1.0");
  EXPECT_EQ(ImageReference::Parse("oci:/data/a:b/img")->tag, "");
  for (const char* text : {"oci:", "oci::tag", "oci:dir:", "oci:dir:a b"})
    EXPECT_FALSE(ImageReference::Parse(text)) << text;
}

TEST(ChallengeTest, Lists) {
  const auto bearer = ParseChallenges(R"(Bearer realm="https://a/t?x=1,2",service="s \"q\"", scope=repository:a:pull)");
  ASSERT_EQ(bearer.size(), 1u);
  EXPECT_EQ(bearer[0].scheme, "bearer");
  EXPECT_EQ(bearer[0].Parameter("realm"), "https://a/t?x=1,2");
  EXPECT_EQ(bearer[0].Parameter("service"), "s \"q\"");
  const auto two = ParseChallenges(R"(Basic realm="r", BEARER Realm="t" , service = "s")");
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0].scheme, "basic");
  EXPECT_EQ(two[1].Parameter("realm"), "t");
  EXPECT_EQ(two[1].Parameter("service"), "s");
  EXPECT_TRUE(ParseChallenges("").empty());
  EXPECT_TRUE(ParseChallenges("=x").empty());
  EXPECT_EQ(ParseChallenges(R"(Bearer realm="unterminated)")[0].Parameter("realm"), "");
  EXPECT_LE(ParseChallenges(std::string(100'000, 'a') + " a b c").size(), 16u);
}

TEST(CredentialsTest, KeysAndForms) {
  const auto directory = TempDir::Make("banyan-net-test");
  const std::string path = directory->path() + "/config.json";
  ASSERT_TRUE(WriteFileDurably(path, R"({"auths":{
    "https://index.docker.io/v1/":{"auth":")" +
                                         Base64Encode("hub:pw:x") + R"("},
    "h.example/team":{"username":"team","password":"t"}, "h.example":{"username":"all","password":"a"},
    "r.example":{"identitytoken":"refresh"}}, "credHelpers":{"k.example":"keychain"}})"));
  CredentialsFile file(path);
  EXPECT_EQ(file.Find("docker.io", "library/x")->username, "hub");
  EXPECT_EQ(file.Find("docker.io", "library/x")->password, "pw:x");
  EXPECT_EQ(file.Find("h.example", "team/app")->username, "team");
  EXPECT_EQ(file.Find("h.example", "teams")->username, "all");
  EXPECT_EQ(file.Find("r.example", "x")->identity_token, "refresh");
  EXPECT_TRUE(file.Find("other.example", "x")->empty());
  EXPECT_EQ(file.Find("k.example", "x").error().code, Code::kFailedPrecondition);
  ASSERT_TRUE(WriteFileDurably(path, R"({"auths":{"h.example":{"auth":"!!"}}})"));
  EXPECT_FALSE(file.Find("h.example", "x"));
  ASSERT_TRUE(WriteFileDurably(path, "not json"));
  EXPECT_FALSE(file.Find("h.example", "x"));
  EXPECT_FALSE(CredentialsFile("/nonexistent/config.json").Find("h", "x"));
}

TEST(Base64Test, RoundTrip) {
  for (const std::string text : {"", "a", "ab", "abc", "abcd", "\xff\xfe\x01"}) {
    EXPECT_EQ(*Base64Decode(Base64Encode(text)), text);
  }
  EXPECT_FALSE(Base64Decode("a"));
  EXPECT_FALSE(Base64Decode("a b="));
}

TEST(TokenTest, Answers) {
  EXPECT_EQ(ParseTokenResponse(R"({"token":"t"})")->value, "t");
  EXPECT_EQ(ParseTokenResponse(R"({"access_token":"t","expires_in":300})")->lifetime.count(), 300);
  EXPECT_EQ(ParseTokenResponse(R"({"token":"t","expires_in":-5})")->lifetime.count(), 1);
  EXPECT_EQ(ParseTokenResponse(R"({"token":"t","expires_in":1e99})")->lifetime.count(), 86400);
  for (const char* body : {"", "[]", "{}", R"({"token":"a\r\nX: y"})", R"({"token":5})"})
    EXPECT_FALSE(ParseTokenResponse(body));
}

TEST(RangeTest, Requests) {
  EXPECT_EQ(**ParseRange("bytes=0-9", 100), (ByteRange{0, 10}));
  EXPECT_EQ(**ParseRange("bytes=90-", 100), (ByteRange{90, 100}));
  EXPECT_EQ(**ParseRange("bytes=90-1000", 100), (ByteRange{90, 100}));
  EXPECT_EQ(**ParseRange("bytes=-5", 100), (ByteRange{95, 100}));
  EXPECT_EQ(**ParseRange("bytes=-500", 100), (ByteRange{0, 100}));
  EXPECT_EQ(**ParseRange("Bytes=0-18446744073709551615", 100), (ByteRange{0, 100}));
  for (const char* ignored : {"", "items=0-1", "bytes=1", "bytes=5-4", "bytes=0-1,3-4", "bytes=a-b", "bytes=-",
                              "bytes=+1-2", "bytes=99999999999999999999-"}) {
    const auto range = ParseRange(ignored, 100);
    ASSERT_TRUE(range) << ignored;
    EXPECT_FALSE(*range) << ignored;
  }
  for (const char* unsatisfiable : {"bytes=100-", "bytes=100-200", "bytes=-0"}) {
    EXPECT_EQ(ParseRange(unsatisfiable, 100).error().code, Code::kOutOfRange) << unsatisfiable;
  }
  EXPECT_FALSE(ParseRange("bytes=0-", 0));
}

TEST(RangeTest, Answers) {
  const auto known = ParseContentRange("bytes 5-9/100");
  ASSERT_TRUE(known);
  EXPECT_EQ(known->range, (ByteRange{5, 10}));
  EXPECT_EQ(*known->complete_bytes, 100u);
  EXPECT_FALSE(ParseContentRange("bytes 5-9/*")->complete_bytes);
  for (const char* bad :
       {"", "bytes", "bytes */100", "bytes 9-5/100", "bytes 5-9/9", "bytes 0-18446744073709551615/*", "5-9/100"}) {
    EXPECT_FALSE(ParseContentRange(bad)) << bad;
  }
  EXPECT_EQ(FormatRange({5, 10}), "bytes=5-9");
  EXPECT_EQ(FormatContentRange({5, 10}, 100), "bytes 5-9/100");
}

TEST(LinkTest, Next) {
  EXPECT_EQ(*NextLink({R"(</v2/a?n=1>; rel="next")"}), "/v2/a?n=1");
  EXPECT_EQ(*NextLink({R"(<a,b>; rel=prev; title="x, <y>", <c>; rel=next)"}), "c");
  EXPECT_FALSE(NextLink({R"(<a>; rel="prev")", "", "<<<", ",,,"}));
}

TEST(UrlTest, OriginsAndResolution) {
  const Url base = *Url::Parse("https://H.example/v2/a?x=1");
  EXPECT_EQ(base.host(), "h.example");
  EXPECT_EQ(base.port(), 443);
  EXPECT_EQ(base.ForMessages().find('?'), std::string::npos);
  EXPECT_TRUE(base.SameOrigin(*Url::Parse("https://h.example:443/b")));
  EXPECT_FALSE(base.SameOrigin(*Url::Parse("http://h.example/b")));
  EXPECT_FALSE(base.SameOrigin(*Url::Parse("https://h.example.evil/b")));
  EXPECT_EQ(base.Resolve("/b?c")->text(), "https://H.example/b?c");
  EXPECT_EQ(base.Resolve("http://o.example/b")->host(), "o.example");
  for (const char* bad :
       {"", "file:///etc/passwd", "https://u:p@h/", "https://h/a b", "http://h/\r\nX: y", "/x", "ftp://h/"}) {
    EXPECT_FALSE(Url::Parse(bad)) << bad;
  }
  EXPECT_TRUE(IsLoopbackHost("127.0.0.1:5000"));
  EXPECT_TRUE(IsLoopbackHost("[::1]:1"));
  EXPECT_TRUE(IsLoopbackHost("::1"));
  EXPECT_TRUE(IsLoopbackHost("::ffff:127.0.0.1"));
  EXPECT_FALSE(IsLoopbackHost("::ffff:10.0.0.1"));
  EXPECT_FALSE(IsLoopbackHost("::2"));
  EXPECT_FALSE(IsLoopbackHost("127.0.0.1.evil.example"));
  EXPECT_FALSE(IsLoopbackHost("127.evil.example.x"));
}

TEST(ManifestJsonTest, DeepNestingIsRefused) {
  const std::string deep(1'000'000, '[');
  EXPECT_TRUE(ParseJson(deep).is_discarded());
  EXPECT_FALSE(AddDescriptor(R"({"manifests":[],"a":)" + deep, {}));
}

}  // namespace
}  // namespace banyan::net
