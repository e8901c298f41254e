#include "common/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/file_io.h"

namespace banyan {
namespace {

using ::testing::HasSubstr;

TEST(SettingsTest, HostsAndPorts) {
  struct Case {
    const char* text;
    const char* host;
    uint16_t port;
  };
  for (const Case& c :
       {Case{"10.0.0.7:4640", "10.0.0.7", 4640}, Case{"[::1]:0", "::1", 0}, Case{"[::]:65535", "::", 65535},
        Case{"my-name_1.example:80", "my-name_1.example", 80}, Case{"localhost:1", "127.0.0.1", 1},
        Case{"[fe80::1%eth0.5]:1", "fe80::1%eth0.5", 1}, Case{"[::ffff:1.2.3.4]:5", "::ffff:1.2.3.4", 5}}) {
    const auto parsed = ParseHostPort(c.text);
    ASSERT_TRUE(parsed) << parsed.error().message;
    EXPECT_EQ(parsed->host, c.host) << c.text;
    EXPECT_EQ(parsed->port, c.port) << c.text;
  }
}

TEST(SettingsTest, WhatIsNoHostAndPortIsRefusedWithTheReason) {
  struct Case {
    const char* text;
    const char* why;
  };
  for (const Case& c :
       {Case{"", "port is missing"}, Case{"host", "port is missing"}, Case{":80", "host is missing"},
        Case{"host:", "no number"}, Case{"host:65536", "no number"}, Case{"host:-1", "no number"},
        Case{"host:+1", "no number"}, Case{"host:80 ", "no number"}, Case{"host: 80", "no number"},
        Case{"::1:80", "takes brackets"}, Case{"[]:80", "no host"}, Case{"[::1:80", "no host"},
        Case{"[name]:80", "in brackets"}, Case{"[::1%]:80", "in brackets"}, Case{"[::1%a b]:80", "in brackets"},
        Case{"http://a:80", "no host"}, Case{"two words:80", "no host"}, Case{"a:b:80", "no host"}}) {
    const auto parsed = ParseHostPort(c.text);
    ASSERT_FALSE(parsed) << c.text;
    EXPECT_EQ(parsed.error().code, Code::kInvalidArgument);
    EXPECT_THAT(parsed.error().message, HasSubstr(c.why)) << c.text;
  }
}

TEST(SettingsTest, AddressesAreToldFromNames) {
  for (const char* text : {"10.0.0.7", "0.0.0.0", "::", "::1", "fd00::7"}) EXPECT_TRUE(IsIpAddress(text)) << text;
  for (const char* text : {"", "name.example", "10.0.0", "[::1]", "fe80::1%eth0"})
    EXPECT_FALSE(IsIpAddress(text)) << text;
  EXPECT_TRUE(ParseHostPort("0.0.0.0:1")->is_any());
  EXPECT_TRUE(ParseHostPort("[::]:1")->is_any());
  EXPECT_FALSE(ParseHostPort("127.0.0.1:1")->is_any());
}

TEST(SettingsTest, AddressesAreWrittenAsTheyAreRead) {
  for (const char* text : {"10.0.0.7:4640", "name.example:80", "[::1]:0", "[fe80::1%eth0]:1"}) {
    EXPECT_EQ(ParseHostPort(text)->ToString(), text);
  }
}

TEST(SettingsTest, ATokenIsTheFirstLineAndNothingElse) {
  const TempDir directory = TempDir::Make("token").value();
  const std::string path = directory.path() + "/token";
  for (const char* text :
       {"ab/+c.DEF-1~_==", "ab/+c.DEF-1~_==\n", "ab/+c.DEF-1~_==\r\n", "ab/+c.DEF-1~_==\nmore words"}) {
    ASSERT_TRUE(WriteFileDurably(path, text));
    EXPECT_EQ(ReadToken(path).value(), "ab/+c.DEF-1~_==") << text;
  }
  for (const char* text : {"", "\nabc", "two words\n", "abc \n", " abc\n",
                           "\xef\xbb\xbf"
                           "abc\n",
                           "a\tb"}) {
    ASSERT_TRUE(WriteFileDurably(path, text));
    const auto token = ReadToken(path);
    ASSERT_FALSE(token) << text;
    EXPECT_EQ(token.error().code, Code::kInvalidArgument);
    EXPECT_THAT(token.error().message, HasSubstr(path));
  }
  EXPECT_EQ(ReadToken(directory.path() + "/absent").error().code, Code::kNotFound);
  ASSERT_TRUE(WriteFileDurably(path, std::string(5000, 'a')));
  EXPECT_FALSE(ReadToken(path));
}

TEST(TrackerPathTest, FollowsFromTheToken) {
  EXPECT_EQ(TrackerPath(""), "");
  // printf 'banyan tracker\nsecret' | sha256sum | cut -c1-32
  EXPECT_EQ(TrackerPath("secret"), "/5dff6ac1351d9892d0c90fc230295d5f");
}

}  // namespace
}  // namespace banyan
