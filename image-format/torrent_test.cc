#include "image-format/torrent.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace banyan::image_format {
namespace {

std::string Bytes(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 131 >> 7);
  return bytes;
}

// Written in parts of `step` bytes.
Torrent Make(const std::string& bytes, size_t step) {
  TorrentWriter writer;
  const auto data = std::as_bytes(std::span(bytes));
  for (size_t at = 0; at < data.size(); at += step) {
    EXPECT_TRUE(writer.Write(data.subspan(at, std::min(step, data.size() - at))));
  }
  return *writer.Finish(Digest::Of(bytes));
}

TEST(TorrentTest, GoldenBytes) {
  const Torrent torrent = Make("Hello, world\n", 5);
  // SHA-1 of "Hello, world\n" is 7b4758d4baa20873585b9597c7cb9ace2d690ab8.
  const std::string piece = "\x7b\x47\x58\xd4\xba\xa2\x08\x73\x58\x5b\x95\x97\xc7\xcb\x9a\xce\x2d\x69\x0a\xb8";
  EXPECT_EQ(torrent.metainfo,
            "d4:infod6:lengthi13e4:name64:37980c33951de6b0e450c3701b219bfeee930544705f637cd1158b63827bb390"
            "12:piece lengthi1048576e6:pieces20:" +
                piece + "7:privatei1eee");
  EXPECT_EQ(torrent.info_hash.Hex(), "cca1cde1b23a8e6d54080d1676717b0b8fcc772f");
  EXPECT_EQ(WithAnnounce(torrent, "http://m/announce").substr(0, 37), "d8:announce17:http://m/announce4:info");
}

TEST(TorrentTest, DoesNotDependOnHowItWasWritten) {
  const std::string bytes = Bytes(3 * kPieceBytes + 17);
  const Torrent torrent = Make(bytes, bytes.size());
  EXPECT_EQ(Make(bytes, 100'003).metainfo, torrent.metainfo);
  const std::string even = bytes.substr(0, 2 * kPieceBytes);
  EXPECT_EQ(Make(even, kPieceBytes).metainfo, Make(even, 4096).metainfo);
}

TEST(TorrentTest, ComesBackWithAndWithoutAnnounce) {
  const std::string bytes = Bytes(2 * kPieceBytes + 1);
  const Digest digest = Digest::Of(bytes);
  const Torrent torrent = Make(bytes, 65536);
  const auto read = ReadTorrent(torrent.metainfo, digest, bytes.size());
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->info_hash, torrent.info_hash);
  const auto announced = ReadTorrent(WithAnnounce(torrent, "http://10.0.0.1:4651/announce"), digest, bytes.size());
  ASSERT_TRUE(announced) << announced.error().message;
  EXPECT_EQ(announced->metainfo, torrent.metainfo);
}

TEST(TorrentTest, PieceHashesAreThoseOfThePieces) {
  const std::string bytes = Bytes(kPieceBytes + 5);
  const Torrent torrent = Make(bytes, 4096);
  const auto hash_of = [](const std::string& piece) {
    return std::string(PieceHashes(Make(piece, piece.size()), piece.size()));
  };
  EXPECT_EQ(PieceHashes(torrent, bytes.size()),
            hash_of(bytes.substr(0, kPieceBytes)) + hash_of(bytes.substr(kPieceBytes)));
}

TEST(TorrentTest, AnyOtherFormIsRefused) {
  const std::string bytes = Bytes(2 * kPieceBytes + 1);
  const Digest digest = Digest::Of(bytes);
  const std::string good = Make(bytes, 65536).metainfo;
  const auto refused = [&](std::string_view text) {
    const auto read = ReadTorrent(text, digest, bytes.size());
    return !read && read.error().code == Code::kDataLoss;
  };
  EXPECT_TRUE(refused(""));
  EXPECT_TRUE(refused(good + "x"));
  for (size_t cut = 0; cut < good.size(); cut += 7) EXPECT_TRUE(refused(std::string_view(good).substr(0, cut)));
  EXPECT_TRUE(refused("d8:announce99999999999999999999:x" + good.substr(1)));
  EXPECT_TRUE(refused("d8:announce2:x" + good.substr(1)));
  EXPECT_FALSE(ReadTorrent(good, Digest::Of("another"), bytes.size()));
  EXPECT_FALSE(ReadTorrent(good, digest, bytes.size() + 1));
  EXPECT_FALSE(ReadTorrent(good, digest, 0));
  EXPECT_FALSE(ReadTorrent(good, digest, UINT64_MAX));
  std::string not_private = good;
  not_private[not_private.size() - 4] = '0';
  EXPECT_TRUE(refused(not_private));
}

TEST(TorrentTest, NothingHasNoTorrent) {
  TorrentWriter writer;
  EXPECT_EQ(writer.Finish(Digest::Of("")).error().code, Code::kInvalidArgument);
}

TEST(InfoHashTest, ReadsWhatItWrites) {
  const std::string hex = "0123456789abcdef0123456789abcdef01234567";
  EXPECT_EQ(InfoHash::FromHex(hex)->Hex(), hex);
  EXPECT_FALSE(InfoHash::FromHex(hex.substr(1)));
  EXPECT_FALSE(InfoHash::FromHex("0123456789ABCDEF0123456789abcdef01234567"));
}

}  // namespace
}  // namespace banyan::image_format
