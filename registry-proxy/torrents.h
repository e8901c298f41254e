// `/v2/<name>/blobs/<digest>.torrent`: any blob that may be pulled, as a torrent with the cluster's tracker in it.
//
// A torrent is a function of its blob (image-format/torrent.h), so one that was made at conversion and one made here
// are the same, and it is made here for whatever is asked: layers of images that were never converted too. That means
// reading the blob once, so they are made one after the other, few may wait, and what was made is kept in a directory
// of at most kMaxKept small files.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/byte_stream.h"
#include "common/digest.h"
#include "common/result.h"
#include "image-format/torrent.h"
#include "mirror/workers.h"
#include "net/http_server.h"

namespace banyan::registry_proxy {

// Internally synchronised.
class Torrents {
 public:
  static constexpr size_t kMaxKept = 4096;
  static constexpr size_t kMaxWaiting = 16;

  // `announce_url` may be empty: torrents without a tracker.
  Torrents(std::string directory, std::string announce_url);
  // Stop()s.
  ~Torrents();

  // Opens the blob from its start; called on a worker's thread, may block.
  using OpenBlob = std::function<Result<std::unique_ptr<ByteSource>>()>;
  // On a server thread: answers later, 503 when too many wait. `body`: not for HEAD.
  void Answer(const Digest& blob, OpenBlob open, bool body, std::shared_ptr<net::HttpReply> reply);
  // Breaks off what is under way.
  void Stop();

  uint64_t made() const { return made_; }

 private:
  Result<image_format::Torrent> Find(const Digest& blob) const;
  Result<image_format::Torrent> Make(const Digest& blob, const OpenBlob& open);
  void Keep(const Digest& blob, uint64_t blob_bytes, const image_format::Torrent& torrent) const;
  std::string PathOf(const Digest& blob) const { return directory_ + "/" + blob.Hex(); }

  const std::string directory_;
  const std::string announce_url_;
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> made_{0};
  mirror::Workers workers_{1, kMaxWaiting};
};

}  // namespace banyan::registry_proxy
