#include "image-format/torrent.h"

#include <openssl/evp.h>

#include <algorithm>

#include <fmt/format.h>

namespace banyan::image_format {
namespace {

constexpr uint64_t kMaxPieces = (kMaxTorrentBytes - 4096) / InfoHash::kBytes;

struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

class Sha1 {
 public:
  Sha1() : context_(EVP_MD_CTX_new()) { Begin(); }
  void Update(std::span<const std::byte> data) { EVP_DigestUpdate(context_.get(), data.data(), data.size()); }
  // And begins anew.
  InfoHash Finish() {
    InfoHash hash;
    unsigned size = 0;
    EVP_DigestFinal_ex(context_.get(), hash.bytes.data(), &size);
    Begin();
    return hash;
  }

 private:
  void Begin() { EVP_DigestInit_ex(context_.get(), EVP_sha1(), nullptr); }

  std::unique_ptr<EVP_MD_CTX, FreeContext> context_;
};

constexpr std::string_view kAnnounceKey = "8:announce";
constexpr std::string_view kHead = "d4:info";
constexpr std::string_view kInfoTail = "7:privatei1ee";

uint64_t PiecesOf(uint64_t blob_bytes) { return blob_bytes / kPieceBytes + (blob_bytes % kPieceBytes != 0 ? 1 : 0); }

// The info dictionary up to the piece hashes.
std::string InfoHead(const Digest& blob, uint64_t blob_bytes) {
  return fmt::format("d6:lengthi{}e4:name64:{}12:piece lengthi{}e6:pieces{}:", blob_bytes, blob.Hex(), kPieceBytes,
                     PiecesOf(blob_bytes) * InfoHash::kBytes);
}

Torrent MakeTorrent(const Digest& blob, uint64_t blob_bytes, std::string_view piece_hashes) {
  const std::string info = fmt::format("{}{}{}", InfoHead(blob, blob_bytes), piece_hashes, kInfoTail);
  return {fmt::format("{}{}e", kHead, info), Sha1Of(std::as_bytes(std::span(info)))};
}

// What is behind "8:announce<n>:<url>" and the dictionary's "d"; the text itself if it does not begin so.
std::string_view BehindAnnounce(std::string_view text) {
  std::string_view rest = text;
  if (!rest.starts_with('d')) return text;
  rest.remove_prefix(1);
  if (!rest.starts_with(kAnnounceKey)) return text;
  rest.remove_prefix(kAnnounceKey.size());
  size_t length = 0;
  while (!rest.empty() && rest[0] >= '0' && rest[0] <= '9' && length <= kMaxAnnounceBytes) {
    length = length * 10 + static_cast<size_t>(rest[0] - '0');
    rest.remove_prefix(1);
  }
  if (length > kMaxAnnounceBytes || rest.size() < length + 1 || rest[0] != ':') return text;
  return rest.substr(length + 1);
}

}  // namespace

Result<InfoHash> InfoHash::FromHex(std::string_view hex) {
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
  InfoHash hash;
  bool good = hex.size() == 2 * kBytes;
  for (size_t i = 0; good && i < kBytes; ++i) {
    const int high = digit(hex[2 * i]);
    const int low = digit(hex[2 * i + 1]);
    good = high >= 0 && low >= 0;
    hash.bytes[i] = static_cast<uint8_t>(high * 16 + low);
  }
  if (!good) return Fail(Code::kInvalidArgument, fmt::format("info-hash '{}' is not 40 hex digits", hex.substr(0, 80)));
  return hash;
}

std::string InfoHash::Hex() const {
  std::string hex;
  for (const uint8_t byte : bytes) hex += fmt::format("{:02x}", byte);
  return hex;
}

InfoHash Sha1Of(std::span<const std::byte> data) {
  Sha1 hash;
  hash.Update(data);
  return hash.Finish();
}

struct TorrentWriter::State {
  uint64_t bytes = 0;
  Sha1 piece;
  std::string hashes;
};

TorrentWriter::TorrentWriter() : state_(std::make_unique<State>()) {}
TorrentWriter::~TorrentWriter() = default;

Status TorrentWriter::Write(std::span<const std::byte> data) {
  while (!data.empty()) {
    const auto part = data.first(std::min<size_t>(data.size(), kPieceBytes - state_->bytes % kPieceBytes));
    state_->piece.Update(part);
    state_->bytes += part.size();
    data = data.subspan(part.size());
    if (state_->bytes % kPieceBytes == 0 && PiecesOf(state_->bytes) <= kMaxPieces) {
      state_->hashes += state_->piece.Finish().raw();
    }
  }
  return {};
}

Result<Torrent> TorrentWriter::Finish(const Digest& blob) {
  if (state_->bytes == 0 || PiecesOf(state_->bytes) > kMaxPieces) {
    return Fail(Code::kInvalidArgument,
                fmt::format("blob {}: no torrent of {} bytes can be made", blob.ToString(), state_->bytes));
  }
  if (state_->bytes % kPieceBytes != 0) state_->hashes += state_->piece.Finish().raw();
  return MakeTorrent(blob, state_->bytes, state_->hashes);
}

Result<Torrent> ReadTorrent(std::string_view metainfo, const Digest& blob, uint64_t blob_bytes) {
  const auto bad = [&](std::string_view why) {
    return Fail(Code::kDataLoss, fmt::format("torrent of blob {}: {}", blob.ToString(), why));
  };
  if (blob_bytes == 0 || PiecesOf(blob_bytes) > kMaxPieces) return bad("no blob of that length has one");
  const std::string_view behind = BehindAnnounce(metainfo);
  const std::string rest = behind.size() == metainfo.size() ? std::string(metainfo) : fmt::format("d{}", behind);
  const std::string begin = std::string(kHead) + InfoHead(blob, blob_bytes);
  const uint64_t hash_bytes = PiecesOf(blob_bytes) * InfoHash::kBytes;
  if (rest.size() != begin.size() + hash_bytes + kInfoTail.size() + 1 || !rest.starts_with(begin)) {
    return bad("is not in the form that its length and digest give");
  }
  Torrent torrent = MakeTorrent(blob, blob_bytes, std::string_view(rest).substr(begin.size(), hash_bytes));
  if (torrent.metainfo != rest) return bad("is not in the form that its length and digest give");
  return torrent;
}

std::string_view PieceHashes(const Torrent& torrent, uint64_t blob_bytes) {
  const size_t bytes = PiecesOf(blob_bytes) * InfoHash::kBytes;
  return std::string_view(torrent.metainfo).substr(torrent.metainfo.size() - 1 - kInfoTail.size() - bytes, bytes);
}

std::string WithAnnounce(const Torrent& torrent, std::string_view announce_url) {
  return fmt::format("d{}{}:{}{}", kAnnounceKey, announce_url.size(), announce_url,
                     std::string_view(torrent.metainfo).substr(1));
}

}  // namespace banyan::image_format
