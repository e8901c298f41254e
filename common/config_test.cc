#include "common/config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/file_io.h"

namespace banyan {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

struct Registry {
  bool plain_http = false;
  std::vector<std::string> mirrors;
};
struct Settings {
  std::string data_root = "/var/lib/banyan";
  ByteCount budget{uint64_t{64} << 30};
  milliseconds timeout{300'000};
  bool fill = false;
  int64_t threads = 2;
  std::map<std::string, Registry> registries;
};

Status Load(Settings& settings, std::string_view text) {
  ConfigSchema schema;
  schema.Add("data_root", "Where everything lies.", &settings.data_root);
  schema.Add("store.budget", "Disk space.\nOf the whole store.", &settings.budget);
  schema.Add("fetch.timeout", "How long.", &settings.timeout);
  schema.Add("fetch.fill", "Fetch the rest.", &settings.fill);
  schema.Add("fetch.threads", "How many.", &settings.threads);
  schema.AddTables("registries", "A registry.", "docker.io", [&](const std::string& name, ConfigSchema& table) {
    Registry& registry = settings.registries[name];
    table.Add("plain_http", "No TLS.", &registry.plain_http);
    table.Add("mirrors", "Asked first.", &registry.mirrors);
  });
  if (text == "reference") {
    settings.data_root = schema.Reference();
    return {};
  }
  return schema.Load(text, "a.toml");
}

std::string ErrorOf(std::string_view text) {
  Settings settings;
  const Status status = Load(settings, text);
  return status ? "" : status.error().message;
}

TEST(ConfigTest, SetsWhatIsGivenAndLeavesTheRest) {
  Settings settings;
  const Status status = Load(settings, R"(
data_root = "/srv/b"
[fetch]
timeout = "1m30s"
threads = 7
[store]
budget = 1000
[registries."a.example:5000"]
plain_http = true
mirrors = ["http://b", "http://c"]
)");
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_EQ(settings.data_root, "/srv/b");
  EXPECT_EQ(settings.timeout, milliseconds(90'000));
  EXPECT_EQ(settings.threads, 7);
  EXPECT_FALSE(settings.fill);
  EXPECT_EQ(settings.budget.bytes, 1000U);
  EXPECT_TRUE(settings.registries.at("a.example:5000").plain_http);
  EXPECT_EQ(settings.registries.at("a.example:5000").mirrors, (std::vector<std::string>{"http://b", "http://c"}));
}

TEST(ConfigTest, RefusesWithFileLineAndKey) {
  EXPECT_THAT(ErrorOf("\n[fetch]\ntimeuot = \"1s\"\n"), HasSubstr("a.toml:3: fetch.timeuot: no such key"));
  EXPECT_THAT(ErrorOf("fill = true\n"), HasSubstr("a.toml:1: fill: no such key"));
  EXPECT_THAT(ErrorOf("[fetsch]\n"), HasSubstr("no such section (known: store, fetch, registries)"));
  EXPECT_THAT(ErrorOf("[fetch]\nfill = \"yes\"\n"), HasSubstr("a.toml:2: fetch.fill: must be true or false"));
  EXPECT_THAT(ErrorOf("[fetch]\nthreads = 1.5\n"), HasSubstr("must be an integer"));
  EXPECT_THAT(ErrorOf("[fetch]\ntimeout = \"10\"\n"), HasSubstr("'10' is no duration"));
  EXPECT_THAT(ErrorOf("[store]\nbudget = -1\n"), HasSubstr("must be a number of bytes"));
  EXPECT_THAT(ErrorOf("[registries]\nx = 1\n"), HasSubstr("must be a table"));
  EXPECT_THAT(ErrorOf("[registries.\"x\"]\nmirrors = [1]\n"), HasSubstr("registries.\"x\".mirrors"));
  EXPECT_THAT(ErrorOf("data_root = \n"), HasSubstr("a.toml:1: "));
}

TEST(ConfigTest, TheReferenceIsItselfAConfiguration) {
  Settings settings;
  ASSERT_TRUE(Load(settings, "reference"));
  const std::string reference = settings.data_root;
  EXPECT_THAT(reference, HasSubstr("# Disk space.\n# Of the whole store.\nbudget = \"64GiB\"\n"));
  EXPECT_THAT(reference, HasSubstr("[registries.\"docker.io\"]"));
  EXPECT_EQ(ErrorOf(reference), "");
}

TEST(ConfigTest, ReadsBytesAndDurations) {
  EXPECT_EQ(ParseByteCount("1.5GB")->bytes, 1'500'000'000U);
  EXPECT_EQ(ParseByteCount("64 KiB")->bytes, 65536U);
  EXPECT_EQ(ParseByteCount("7")->bytes, 7U);
  for (const char* bad : {"", "GiB", "1 XB", "-1", "1..5MB", "99999999TiB", "1e3"})
    EXPECT_FALSE(ParseByteCount(bad)) << bad;
  EXPECT_EQ(ToString(ByteCount{uint64_t{3} << 20}), "3MiB");
  EXPECT_EQ(ToString(ByteCount{1500}), "1500B");
  EXPECT_EQ(*ParseDuration("1h30m"), milliseconds(5'400'000));
  EXPECT_EQ(*ParseDuration("0.5s"), milliseconds(500));
  for (const char* bad : {"", "5", "s", "5 s", "-1s", "1d"}) EXPECT_FALSE(ParseDuration(bad)) << bad;
  EXPECT_EQ(ToString(milliseconds(90'000)), "90s");
  EXPECT_EQ(ToString(milliseconds(0)), "0ms");
}

struct Small {
  int64_t number = 3;
  std::string root = "/srv";
};
void DeclareSmall(Small& small, ConfigSchema& schema) {
  schema.Add("number", "A number.", &small.number);
  schema.Add("root", "A directory.", &small.root);
}
Status CheckSmall(const Small& small) {
  BANYAN_TRY(CheckAbsolute("root", small.root));
  return CheckRange("number", small.number, 1, 9);
}

TEST(ConfigTest, AFileIsReadAndChecked) {
  const TempDir directory = TempDir::Make("config").value();
  const std::string path = directory.path() + "/a.toml";
  const auto load = [&](const std::string& text) {
    EXPECT_TRUE(WriteFileDurably(path, text));
    return LoadConfigFile<Small>(path, DeclareSmall, CheckSmall);
  };
  EXPECT_EQ(load("number = 9\n")->number, 9);
  EXPECT_EQ(load("")->root, "/srv");
  EXPECT_EQ(load("number = 0\n").error().message, path + ": number: 0 is not within 1 to 9");
  EXPECT_EQ(load("number = 10\n").error().code, Code::kInvalidArgument);
  for (const char* root : {"", "srv"}) {
    EXPECT_EQ(load(fmt::format("root = \"{}\"\n", root)).error().message,
              fmt::format("{}: root: '{}' is no absolute path", path, root));
  }
  EXPECT_THAT(load("root = 1\n").error().message, HasSubstr("a.toml:1: root"));
  EXPECT_EQ(LoadConfigFile<Small>(path + "x", DeclareSmall, CheckSmall).error().code, Code::kNotFound);
  EXPECT_EQ(load(ReferenceOf<Small>(DeclareSmall))->number, 3);
}

}  // namespace
}  // namespace banyan
