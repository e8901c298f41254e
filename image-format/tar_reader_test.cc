#include "image-format/tar_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "image-format/tar_header.h"
#include "image-format/testing/convert_for_test.h"
#include "image-format/testing/tar_builder.h"

namespace banyan::image_format {
namespace {

using testing::AsBytes;
using ::testing::HasSubstr;
using testing::TarBuilder;
using testing::TarEntry;

struct Read {
  TarHeader header;
  std::string contents;
};

Result<std::vector<Read>> ReadAll(const std::string& tar) {
  MemorySource source(AsBytes(tar));
  TarReader reader(source);
  std::vector<Read> all;
  while (true) {
    Read read;
    BANYAN_ASSIGN(const bool more, reader.Next(read.header));
    if (!more) break;
    while (true) {
      BANYAN_ASSIGN(const TarBody body, reader.ReadBody());
      if (body.data.empty() && body.hole_bytes == 0) break;
      read.contents.append(reinterpret_cast<const char*>(body.data.data()), body.data.size());
      read.contents.append(body.hole_bytes, '\0');
    }
    all.push_back(std::move(read));
  }
  BANYAN_TRY(reader.Drain());
  return all;
}

std::vector<Read> MustRead(const std::string& tar) {
  auto all = ReadAll(tar);
  EXPECT_TRUE(all.has_value()) << all.error().message;
  return all.value_or(std::vector<Read>());
}

void ExpectFailure(const std::string& tar, Code code, const std::string& text) {
  const auto all = ReadAll(tar);
  ASSERT_FALSE(all.has_value());
  EXPECT_EQ(all.error().code, code) << all.error().message;
  EXPECT_THAT(all.error().message, HasSubstr(text));
}

TEST(TarReader, ReadsPlainEntries) {
  TarBuilder tar;
  tar.Directory("d/").File("d/f", "hello", 04755).Symlink("d/s", "f").HardLink("d/h", "d/f").CharacterDevice("c", 1, 3);
  const auto all = MustRead(tar.Finish());
  ASSERT_EQ(all.size(), 5U);
  EXPECT_EQ(all[0].header.type, TarType::kDirectory);
  EXPECT_EQ(all[1].contents, "hello");
  EXPECT_EQ(all[1].header.mode, 04755);
  EXPECT_EQ(all[2].header.linkname, "f");
  EXPECT_EQ(all[3].header.type, TarType::kHardLink);
  EXPECT_EQ(all[4].header.device_minor, 3U);
}

TEST(TarReader, LongNamesOfBothKinds) {
  const std::string name = std::string(200, 'n') + "/" + std::string(150, 'm');
  const std::string target(300, 't');
  for (const bool gnu : {false, true}) {
    TarBuilder tar;
    tar.Add({.name = name, .type = '2', .linkname = target, .gnu = gnu});
    const auto all = MustRead(tar.Finish());
    ASSERT_EQ(all.size(), 1U);
    EXPECT_EQ(all[0].header.name, name);
    EXPECT_EQ(all[0].header.linkname, target);
  }
}

TEST(TarReader, UstarPrefix) {
  std::string block = TarBuilder::Header({.name = "name"});
  block.replace(345, 3, "a/b");
  TarBuilder::FixChecksum(block);
  EXPECT_EQ(MustRead(block).at(0).header.name, "a/b/name");
}

TEST(TarReader, NumbersAndTimes) {
  TarBuilder tar;
  tar.Add({.name = "binary", .uid = 3'000'000'000, .gid = 70'000'000, .mtime = -5, .gnu = true});
  tar.Add({.name = "pax", .pax = {{"uid", "4000000000"}, {"mtime", "-1.25"}}});
  tar.Add({.name = "fine", .pax = {{"mtime", "1700000000.1234567891"}}});
  const auto all = MustRead(tar.Finish());
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all[0].header.uid, 3'000'000'000U);
  EXPECT_EQ(all[0].header.gid, 70'000'000U);
  EXPECT_EQ(all[0].header.mtime_seconds, -5);
  EXPECT_EQ(all[1].header.uid, 4'000'000'000U);
  EXPECT_EQ(all[1].header.mtime_seconds, -2);
  EXPECT_EQ(all[1].header.mtime_nanoseconds, 750'000'000U);
  EXPECT_EQ(all[2].header.mtime_nanoseconds, 123'456'789U);
}

TEST(TarReader, PaxRecordsActOnTheNextEntryOnlyAndGlobalOnesOnNone) {
  TarBuilder tar;
  tar.Special('g', TarBuilder::PaxRecord("uid", "7"), false);
  tar.Add({.name = "a",
           .contents = "12345",
           .pax = {{"SCHILY.xattr.user.x", std::string("v\0=\n", 4)}, {"size", "5"}},
           .size = 1});
  tar.File("b", "");
  const auto all = MustRead(tar.Finish());
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].contents, "12345");
  EXPECT_EQ(all[0].header.uid, 0U);
  EXPECT_EQ(all[0].header.xattrs.at("user.x"), std::string("v\0=\n", 4));
  EXPECT_TRUE(all[1].header.xattrs.empty());
}

TEST(TarReader, LinksHaveNoBodyAndV7SlashIsADirectory) {
  TarBuilder tar;
  tar.Add({.name = "l", .type = '1', .linkname = "f", .size = 5000});
  std::string v7 = TarBuilder::Header({.name = "dir/", .type = '\0'});
  v7.replace(257, 8, 8, '\0');
  TarBuilder::FixChecksum(v7);
  tar.Raw(v7).File("end", "x");
  const auto all = MustRead(tar.Finish());
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all[1].header.type, TarType::kDirectory);
  EXPECT_EQ(all[2].contents, "x");
}

TEST(TarReader, EndBlocksAndPaddingMayBeMissing) {
  const std::string header = TarBuilder::Header({.name = "f", .contents = "abc"});
  EXPECT_EQ(MustRead(header + "abc").at(0).contents, "abc");
  EXPECT_EQ(MustRead(header + "abc" + std::string(509, '\0')).size(), 1U);
  EXPECT_EQ(MustRead(header + "abc" + std::string(509 + 1024, '\0') + "trailing").size(), 1U);
  EXPECT_TRUE(MustRead("").empty());
}

TEST(TarReader, TruncationAndGarbageAreNamed) {
  const std::string tar = TarBuilder().File("file", std::string(2000, 'x')).Finish();
  ExpectFailure(tar.substr(0, 1000), Code::kDataLoss, "'file'");
  ExpectFailure(tar.substr(0, 100), Code::kDataLoss, "header");
  std::string damaged = tar;
  damaged[3] = 'X';
  ExpectFailure(damaged, Code::kInvalidArgument, "checksum");
  ExpectFailure(tar.substr(0, 2560) + std::string(512, '\0') + tar, Code::kInvalidArgument, "lone zero block");
  ExpectFailure(TarBuilder().Add({.name = "v", .type = 'V'}).Finish(), Code::kInvalidArgument, "type 'V'");
  ExpectFailure(TarBuilder().Special('x', "99 path=x\n", false).Finish(), Code::kInvalidArgument, "length is wrong");
  ExpectFailure(TarBuilder().Special('x', TarBuilder::PaxRecord("path", "x"), false).Finish(), Code::kInvalidArgument,
                "without an entry");
  ExpectFailure(TarBuilder().Add({.name = "PaxHeaders", .type = 'x', .size = 1ULL << 40}).Finish(),
                Code::kInvalidArgument, "at most");
  ExpectFailure(TarBuilder().Add({.name = "n", .pax = {{"path", std::string(5000, 'p')}}}).Finish(),
                Code::kInvalidArgument, "4096");
  ExpectFailure(TarBuilder().Add({.name = "u", .pax = {{"uid", "4294967296"}}}).Finish(), Code::kInvalidArgument,
                "owner");
}

TEST(TarReader, SignedChecksum) {
  std::string block = TarBuilder::Header({.name = "\xff\xfe"});
  int sum = 0;
  block.replace(148, 8, 8, ' ');
  for (const char c : block) sum += static_cast<signed char>(c);
  char digits[8];
  std::snprintf(digits, sizeof(digits), "%06o", static_cast<unsigned>(sum));
  block.replace(148, 8, std::string(digits, 7) + ' ');
  EXPECT_EQ(MustRead(block).at(0).header.name, "\xff\xfe");
}

std::string Holes(const std::string& text, size_t lead, size_t total) {
  std::string contents(total, '\0');
  return contents.replace(lead, text.size(), text);
}

TEST(TarReader, OldGnuSparseWithExtension) {
  std::string block = TarBuilder::Header({.name = "s", .type = 'S', .gnu = true, .size = 25});
  const auto put = [](std::string& where, size_t offset, unsigned value) {
    char digits[16];
    std::snprintf(digits, sizeof(digits), "%011o", value);
    where.replace(offset, 11, digits);
  };
  std::string extension(512, '\0');
  std::string expected(100000, '\0');
  std::string data;
  for (unsigned i = 0; i < 5; ++i) {
    std::string& where = i < 4 ? block : extension;
    const size_t slot = i < 4 ? 386 + 24 * i : 0;
    put(where, slot, 10000 * i + 1);
    put(where, slot + 12, 5);
    const std::string piece(5, static_cast<char>('a' + i));
    expected.replace(10000 * i + 1, 5, piece);
    data += piece;
  }
  block[482] = 1;
  put(block, 483, 100000);
  TarBuilder::FixChecksum(block);
  TarBuilder tar;
  tar.Raw(block + extension).Body(data).File("next", "n");
  const auto all = MustRead(tar.Finish());
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].header.size, 100000U);
  EXPECT_TRUE(all[0].contents == expected);
}

TEST(TarReader, PaxSparseOfEachVersion) {
  const std::string expected = Holes("data", 8192, 20000);
  const std::string map10 = std::string("1\n8192\n4\n");
  TarBuilder tar;
  tar.Add({.name = "x",
           .contents = "data",
           .pax = {{"GNU.sparse.size", "20000"},
                   {"GNU.sparse.numblocks", "1"},
                   {"GNU.sparse.offset", "8192"},
                   {"GNU.sparse.numbytes", "4"}}});
  tar.Add({.name = "x",
           .contents = "data",
           .pax = {{"GNU.sparse.size", "20000"},
                   {"GNU.sparse.numblocks", "1"},
                   {"GNU.sparse.map", "8192,4"},
                   {"GNU.sparse.name", "real"}}});
  tar.Add({.name = "x",
           .contents = map10 + std::string(512 - map10.size(), '\0') + "data",
           .pax = {{"GNU.sparse.major", "1"},
                   {"GNU.sparse.minor", "0"},
                   {"GNU.sparse.name", "real"},
                   {"GNU.sparse.realsize", "20000"}}});
  const auto all = MustRead(tar.Finish());
  ASSERT_EQ(all.size(), 3U);
  for (const Read& read : all) EXPECT_TRUE(read.contents == expected) << read.header.name;
  EXPECT_EQ(all[1].header.name, "real");
  EXPECT_EQ(all[2].header.name, "real");
}

TEST(TarReader, LyingSparseMapsAreRefused) {
  const auto map = [](const std::string& text, const std::string& count) {
    return TarBuilder()
        .Add({.name = "x",
              .contents = "data",
              .pax = {{"GNU.sparse.size", "100"}, {"GNU.sparse.numblocks", count}, {"GNU.sparse.map", text}}})
        .Finish();
  };
  ExpectFailure(map("98,4", "1"), Code::kInvalidArgument, "outside the file");
  ExpectFailure(map("0,3", "1"), Code::kInvalidArgument, "sparse map of 3 bytes");
  ExpectFailure(map("8,2,0,2", "2"), Code::kInvalidArgument, "overlap");
  ExpectFailure(map("0,4", "2"), Code::kInvalidArgument, "wrong length");
  ExpectFailure(map("0,-4", "1"), Code::kInvalidArgument, "malformed");
}

}  // namespace
}  // namespace banyan::image_format
