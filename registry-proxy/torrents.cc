#include "registry-proxy/torrents.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <span>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/log.h"
#include "common/units.h"
#include "mirror/answers.h"

namespace banyan::registry_proxy {
namespace {

namespace fs = std::filesystem;
using image_format::Torrent;

net::HttpResponse AnswerOf(const Torrent& torrent, const std::string& announce_url, bool body) {
  std::string bytes = announce_url.empty() ? torrent.metainfo : image_format::WithAnnounce(torrent, announce_url);
  return {
      200,
      {{"Content-Type", std::string(image_format::kTorrentMediaType)}, {"Banyan-Info-Hash", torrent.info_hash.Hex()}},
      body ? std::move(bytes) : std::string()};
}

}  // namespace

Torrents::Torrents(std::string directory, std::string announce_url)
    : directory_(std::move(directory)), announce_url_(std::move(announce_url)) {}

Torrents::~Torrents() { Stop(); }

void Torrents::Stop() {
  stopping_ = true;
  workers_.Stop();
}

void Torrents::Answer(const Digest& blob, OpenBlob open, bool body, std::shared_ptr<net::HttpReply> reply) {
  const bool taken = workers_.Post([this, blob, open = std::move(open), body, reply] {
    auto torrent = Find(blob);
    if (!torrent) torrent = Make(blob, open);
    reply->Send(torrent ? AnswerOf(*torrent, announce_url_, body)
                        : mirror::ErrorAnswer(torrent.error(), "BLOB_UNKNOWN"));
  });
  if (taken) return;
  auto busy = mirror::ErrorAnswer(503, "UNAVAILABLE", "too many torrents are being made");
  busy.headers.emplace_back("Retry-After", "5");
  reply->Send(std::move(busy));
}

// The file: the blob's length as a decimal line, then the metainfo.
Result<Torrent> Torrents::Find(const Digest& blob) const {
  BANYAN_ASSIGN(const std::string text, ReadFile(PathOf(blob), image_format::kMaxTorrentBytes + 32));
  uint64_t blob_bytes = 0;
  const size_t line = std::min(text.find('\n'), text.size());
  const auto [end, error] = std::from_chars(text.data(), text.data() + line, blob_bytes);
  if (error != std::errc() || end != text.data() + line || line == text.size()) {
    return Fail(Code::kDataLoss, PathOf(blob) + ": damaged");
  }
  return image_format::ReadTorrent(std::string_view(text).substr(line + 1), blob, blob_bytes);
}

Result<Torrent> Torrents::Make(const Digest& blob, const OpenBlob& open) {
  BANYAN_ASSIGN(const auto source, open());
  std::vector<std::byte> buffer(256 * kKiB);
  image_format::TorrentWriter writer;
  Sha256 hash;
  uint64_t blob_bytes = 0;
  while (true) {
    if (stopping_) return Fail(Code::kCancelled, "the proxy is ending");
    BANYAN_ASSIGN(const size_t count, source->Read(buffer));
    if (count == 0) break;
    const auto bytes = std::span(buffer).first(count);
    hash.Update(bytes);
    BANYAN_TRY(writer.Write(bytes));
    blob_bytes += count;
  }
  if (hash.Finish() != blob) {
    return Fail(Code::kDataLoss, fmt::format("blob {}: its bytes are not its digest's", blob.ToString()));
  }
  BANYAN_ASSIGN(Torrent torrent, writer.Finish(blob));
  ++made_;
  Keep(blob, blob_bytes, torrent);
  return torrent;
}

// What cannot be kept is made again.
void Torrents::Keep(const Digest& blob, uint64_t blob_bytes, const Torrent& torrent) const {
  Status kept = MakeDirectories(directory_, 0700);
  if (kept) kept = WriteFileDurably(PathOf(blob), fmt::format("{}\n{}", blob_bytes, torrent.metainfo));
  if (!kept) return spdlog::warn("torrent of {}: {}", blob.ToString(), kept.error().message);
  std::vector<std::pair<fs::file_time_type, fs::path>> files;
  std::error_code error;
  for (const auto& item : fs::directory_iterator(directory_, error)) {
    files.emplace_back(item.last_write_time(error), item.path());
  }
  if (files.size() <= kMaxKept) return;
  std::sort(files.begin(), files.end());
  files.resize(files.size() - kMaxKept);
  for (const auto& [time, path] : files) fs::remove(path, error);
}

}  // namespace banyan::registry_proxy
