// Whether an image that containerd pulls can start lazily: one look-up an image, however many of its layers ask.
//
// A look-up resolves the artifact and fetches the image map, on a thread of its own: containerd waits for it only so
// long, and then pulls as usual while the look-up goes on for the next to ask. A converted image is remembered as long
// as the process lives (an artifact is what its digest says); "not converted" for some seconds, since a proxy may be at
// work on it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "net/repository.h"
#include "peer-agent/documents.h"
#include "peer-agent/registries.h"
#include "peer-agent/trust.h"

namespace banyan::peer_agent {

class Peers;

struct FoundImage {
  std::string reference;  // docker://…
  Digest manifest_digest;
  Digest artifact_digest;
  Digest map_digest;
  std::vector<Digest> chain_ids;  // of the lowest 1, 2, … layers
  // When the first asked, and how long after that artifact and map were here.
  std::chrono::system_clock::time_point began;
  std::chrono::steady_clock::time_point began_steady;
  std::chrono::microseconds resolved{0};
  std::chrono::microseconds mapped{0};
};

// Internally synchronised.
class ImageLookup {
 public:
  struct Options {
    std::chrono::milliseconds remember_absence{5'000};
    size_t max_lookups = 64;  // under way; more are answered "no" at once
    size_t max_remembered = 4096;
  };

  // All borrowed; `peers` may be null.
  ImageLookup(Registries& registries, Documents& documents, Trust& trust, Peers* peers, Options options);
  ImageLookup(Registries& registries, Documents& documents, Trust& trust, Peers* peers = nullptr)
      : ImageLookup(registries, documents, trust, peers, Options()) {}
  // Waits for look-ups under way (a registry client's time-outs at most).
  ~ImageLookup();

  // `reference` as containerd writes it ("127.0.0.1:5000/app:1"); `manifest` is the platform's manifest, if it is
  // known. Null: not converted, not known within `timeout`, or not to be found out (which is logged). Blocks.
  std::shared_ptr<const FoundImage> Find(const std::string& reference, const std::optional<Digest>& manifest,
                                         std::chrono::milliseconds timeout);

 private:
  struct Flight {
    bool done = false;
    std::shared_ptr<const FoundImage> found;
    std::chrono::steady_clock::time_point ended;
    std::thread thread;
  };

  void Run(const std::string& key, net::ImageReference reference);
  Result<std::shared_ptr<const FoundImage>> Resolve(const net::ImageReference& reference);
  void Trim();

  Registries& registries_;
  Documents& documents_;
  Trust& trust_;
  Peers* const peers_;
  const Options options_;
  std::mutex mutex_;
  std::condition_variable ended_;
  std::map<std::string, Flight> flights_;  // guarded by mutex_; ended ones are what is remembered
  size_t running_ = 0;                     // guarded by mutex_
};

}  // namespace banyan::peer_agent
