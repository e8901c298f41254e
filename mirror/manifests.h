// Manifests: by digest out of memory, the store or the upstream; by tag through what the tag meant when it was last
// looked up.
//
// Many who ask for one manifest at once share one request. A tag is believed for a time, then asked for by HEAD; while
// the upstream cannot be asked, or takes too long, what it meant last is given out as stale. Both survive a restart:
// bodies are blobs of the store, tags and the media types that cannot be told from a body are notes there.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "mirror/alarms.h"
#include "mirror/stats.h"
#include "mirror/upstreams.h"
#include "net/repository.h"
#include "store/node_store.h"

namespace banyan::mirror {

using ManifestPtr = std::shared_ptr<const net::RawManifest>;

struct ManifestTarget {
  std::shared_ptr<Upstream> upstream;  // null: only what the store has
  std::string repository;
  std::string reference;         // a tag, or the digest's text
  std::optional<Digest> digest;  // when it is one
  Identity identity;
};

struct FoundManifest {
  ManifestPtr manifest;
  RequestResult result = RequestResult::kHit;  // kHit, kStale or kMiss
};

// Internally synchronised. Upstreams' threads must have ended before it is destroyed.
class Manifests {
 public:
  struct Options {
    std::chrono::milliseconds tag_lifetime;
    std::chrono::milliseconds stale_after;  // an upstream that takes longer is not waited for if the tag is known
    uint64_t cache_bytes;                   // of manifests in memory
  };
  Manifests(store::NodeStore& store, Counters& counters, Alarms& alarms, const Options& options);

  // `done` is called once, at once or on another thread. Does not block.
  using Done = std::function<void(Result<FoundManifest>)>;
  void Get(const ManifestTarget& target, Done done);

  // Puts a manifest into the memory and the store, as if it had been fetched. Blocks.
  void Keep(const ManifestPtr& manifest);
  // Runs what is queued for the disk, and takes no more.
  void Stop() { disk_.Stop(); }

 private:
  using Clock = std::chrono::steady_clock;
  struct Tag {
    Digest digest;
    std::optional<Clock::time_point> checked;  // nullopt: by an earlier process
  };

  // One question to the upstream, and who waits for it.
  struct Flight {
    uint64_t id = 0;
    std::vector<Done> waiting;
    ManifestPtr late;  // the upstream takes long: this is answered meanwhile
  };

  ManifestPtr Remembered(const Digest& digest);
  void Remember(const ManifestPtr& manifest);
  ManifestPtr Load(const Digest& digest);
  std::optional<Tag> FindTag(const std::string& key);
  std::optional<Tag> LoadTag(const std::string& key);
  void SetTag(const std::string& key, const Digest& digest);
  bool IsFresh(const Tag& tag) const;

  void LookOnDisk(const ManifestTarget& target, const std::string& flight);
  void AskUpstream(const ManifestTarget& target, const std::string& flight);
  Result<FoundManifest> Fetch(const ManifestTarget& target);
  Result<FoundManifest> Revalidate(const ManifestTarget& target);
  void AnswerStaleSoon(const std::string& flight, const ManifestPtr& known);
  void Land(const std::string& flight, const Result<FoundManifest>& found);

  store::NodeStore& store_;
  Counters& counters_;
  Alarms& alarms_;
  const Options options_;

  std::mutex mutex_;
  std::list<ManifestPtr> recent_;  // guarded by mutex_, as is all that follows; the most recently used first
  std::unordered_map<Digest, std::list<ManifestPtr>::iterator> by_digest_;
  uint64_t recent_bytes_ = 0;
  std::unordered_map<std::string, Tag> tags_;
  uint64_t last_flight_ = 0;
  std::map<std::string, Flight> flights_;
  Workers disk_{2, 4096};  // reads of the store; last, so that it ends first
};

}  // namespace banyan::mirror
