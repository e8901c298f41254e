// A data blob as a torrent (BEP 3, version 1), so that nodes and ordinary BitTorrent clients can pass it on in pieces.
//
// Problem: a torrent file is free in form, and a parser of free forms is a way in. Idea: everything in ours follows
// from the blob's digest and length, but for the pieces' SHA-1s: the name is the blob's hex digest, pieces are 1 MiB,
// and `private` is set (BEP 27: no DHT, no peer exchange, only our tracker). So there is exactly one torrent of a blob,
// whoever makes it, and reading one is comparing it with that one form. Invariant: what ReadTorrent() accepts is byte
// for byte what TorrentWriter makes of the same pieces.
//
// Pieces do not grow with the blob, because a converter learns the length only at the end and would have to hash twice:
// the largest layer, 256 GiB, still makes a torrent of 5 MiB.
//
// SHA-1 is BitTorrent's, and protects nothing here: a chunk counts only after its SHA-256. docs/format.md §"Torrents".
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/byte_stream.h"
#include "common/digest.h"
#include "common/result.h"

namespace banyan::image_format {

inline constexpr std::string_view kTorrentMediaType = "application/x-bittorrent";
inline constexpr uint64_t kMaxTorrentBytes = 8 * 1024 * 1024;
inline constexpr size_t kMaxAnnounceBytes = 2000;

// SHA-1 of the torrent's info dictionary: its name in the swarm. Immutable value; the default is all zeros.
struct InfoHash {
  static constexpr size_t kBytes = 20;

  // 40 lower-case hex digits, exactly; kInvalidArgument otherwise.
  static Result<InfoHash> FromHex(std::string_view hex);
  std::string Hex() const;
  std::string_view raw() const { return {reinterpret_cast<const char*>(bytes.data()), kBytes}; }
  friend auto operator<=>(const InfoHash&, const InfoHash&) = default;

  std::array<uint8_t, kBytes> bytes{};
};

// SHA-1 of a whole buffer: a piece's hash.
InfoHash Sha1Of(std::span<const std::byte> data);

inline constexpr uint32_t kPieceBytes = 1024 * 1024;

struct Torrent {
  std::string metainfo;  // without an announce URL
  InfoHash info_hash;
};

// Makes the torrent of a blob that streams by, in memory of 20 bytes a piece. Externally synchronised.
class TorrentWriter final : public ByteSink {
 public:
  TorrentWriter();
  ~TorrentWriter() override;

  // Never fails.
  Status Write(std::span<const std::byte> data) override;
  // The torrent of all that was written, whose digest is `blob`. kInvalidArgument: nothing was written, or so much that
  // its torrent would exceed kMaxTorrentBytes. Once.
  Result<Torrent> Finish(const Digest& blob);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Reads the torrent of the blob `blob` of `blob_bytes`. An announce URL is read over. kDataLoss: it is not the one form
// that a torrent of this blob can have.
Result<Torrent> ReadTorrent(std::string_view metainfo, const Digest& blob, uint64_t blob_bytes);

// The SHA-1s of the pieces, 20 bytes each; a view into `torrent`, which must be of a blob of that length.
std::string_view PieceHashes(const Torrent& torrent, uint64_t blob_bytes);

// The same torrent with an announce URL (at most kMaxAnnounceBytes), as clients want it. The info-hash does not change.
std::string WithAnnounce(const Torrent& torrent, std::string_view announce_url);

}  // namespace banyan::image_format
