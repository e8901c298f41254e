// Converts in the background what is pulled through the proxy and has no artifact yet, so that the next start is lazy.
//
// A manifest that is answered is offered. What the policy wants is written to <root>/queue/ and converted by a few
// workers, the image that was asked for most first. Results go to the content store's repository
// "upstream/<registry>/<name>", which nothing evicts, signed if there is a key, and on request to the upstream as well.
//
// Killed at any moment: the queue's files bring the jobs back; layers that were done are found in the conversion cache
// and the content store; the artifact's manifest is written last. A layer that images share is converted once
// (LayerGate).
//
// Only manifests of one platform are converted. An index by itself causes nothing: the client that wants a platform
// asks for its manifest next.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "common/executor.h"
#include "common/result.h"
#include "convert/conversion_cache.h"
#include "convert/image_converter.h"
#include "convert/layer_gate.h"
#include "convert/spool.h"
#include "image-format/artifact.h"
#include "image-format/layer_index.h"
#include "image-format/signature.h"
#include "net/repository.h"
#include "registry-proxy/chunk_census.h"
#include "registry-proxy/content_store.h"

namespace banyan::registry_proxy {

// What may be converted. Globs are held against "<registry>/<repository>"; '*' crosses slashes.
struct ConversionPolicy {
  bool enabled = true;
  std::vector<std::string> images = {"*"};
  std::vector<std::string> never;
  uint64_t min_bytes = 0;          // of the compressed layers together
  uint64_t max_storage_bytes = 0;  // begin nothing new while the content store holds more; 0: no limit
};

struct ConversionOptions {
  std::string root;  // queue/, spool/ and conversions/ go below
  ConversionPolicy policy;
  uint32_t workers = 1;  // images at once
  uint32_t threads = 0;  // of all of them together; 0: one a hardware thread
  convert::ConvertSettings settings;
  image_format::TrustPolicy trust;                // of artifacts that are there already
  const image_format::SigningKey* key = nullptr;  // borrowed
  std::vector<std::string> push_to;               // registries that artifacts are pushed to
};

enum class ConversionState : uint8_t { kQueued, kRunning, kDone, kPresent, kFailed };

struct ConversionStatus {
  std::string upstream;
  std::string repository;
  std::string reference;  // by which it was last asked for
  Digest digest;
  ConversionState state = ConversionState::kQueued;
  uint64_t asks = 0;
  uint32_t layers = 0;
  uint32_t layers_done = 0;
  uint64_t bytes = 0;          // compressed layers
  uint64_t bytes_done = 0;     // of them
  uint32_t layers_reused = 0;  // of layers_done: made by an earlier conversion
  ChunkCount chunks;           // of layers_done
  std::string message;         // why it failed, or will be tried again
  std::optional<Digest> artifact;
  std::chrono::system_clock::time_point queued;
  std::chrono::system_clock::time_point began{};  // kRunning and later
  std::chrono::system_clock::time_point ended{};  // kDone, kPresent, kFailed; unset: by an earlier process
};

struct ConversionStats {
  uint64_t queued = 0;  // now
  uint64_t running = 0;
  uint64_t done = 0;  // since the start
  uint64_t present = 0;
  uint64_t failed = 0;
  uint64_t layers_converted = 0;
  uint64_t layers_reused = 0;
  uint64_t source_bytes = 0;
  uint64_t untrusted_artifacts = 0;  // seen at upstreams
};

// Internally synchronised.
class Conversions {
 public:
  // Opens a repository of an upstream: for reading through the proxy itself, so that nothing is fetched twice, or
  // (`push`) the upstream's own.
  using Opener = std::function<Result<std::unique_ptr<net::Repository>>(const std::string& upstream,
                                                                        const std::string& repository, bool push)>;

  // The store and the key must outlive it. Takes up what an earlier process left. Begins nothing before Start().
  static Result<std::unique_ptr<Conversions>> Open(ConversionOptions options, ContentStore& store, Opener opener);
  // Stop()s.
  ~Conversions();

  void Start();
  // Breaks off what is under way; it stays in the queue.
  void Stop();

  // Any thread; does not block.
  void Offer(const std::string& upstream, const std::string& repository, const std::string& reference,
             std::shared_ptr<const net::RawManifest> manifest);

  // "upstream/<registry>/<name>".
  static std::string StoreName(const std::string& upstream, const std::string& repository) {
    return "upstream/" + upstream + "/" + repository;
  }

  // Running first, then the queue in its order, then what has ended, the latest first. What an earlier process
  // converted is there once it has been asked for again.
  std::vector<ConversionStatus> List() const;
  ConversionStats stats() const;
  // Grows with every change of what List() gives.
  uint64_t version() const;

 private:
  struct Key {
    std::string upstream;
    std::string repository;
    Digest digest;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  struct Job {
    ConversionStatus status;
    uint32_t attempts = 0;
    std::chrono::steady_clock::time_point not_before{};
    std::map<Digest, ChunkCount> counted;  // by source layer: those that an attempt of its own has converted
  };
  struct Offered {
    Key key;
    std::string reference;
    std::shared_ptr<const net::RawManifest> manifest;
  };
  class Listener;

  Conversions(ConversionOptions options, ContentStore& store, Opener opener, convert::Spool spool);

  Status LoadQueue();
  void TakeOffers(std::stop_token stop);
  void Consider(const Offered& offer);
  bool Wanted(const Key& key, const net::RawManifest& manifest, std::string* why) const;
  struct Made {
    Digest digest;
    image_format::Artifact artifact;
  };
  std::optional<Made> FindArtifact(const Key& key) const;
  void ShowEarlier(const Offered& offer, const Made& made);
  void Work(std::stop_token stop, uint32_t worker);
  Job* Next();  // with mutex_ held
  Result<std::optional<Digest>> Convert(const Key& key, uint32_t worker, std::stop_token stop);
  Result<bool> PresentUpstream(net::Repository& repository, const Digest& subject);
  Status PushUpstream(const Key& key, const Digest& artifact, const std::string& spool, std::stop_token stop);
  void Finish(const Key& key, const Result<std::optional<Digest>>& result, bool stopped);
  std::string QueuePath(const Key& key) const;
  void Forget();                // with mutex_ held: the oldest that have ended, beyond a bound
  void Ignore(const Key& key);  // with mutex_ held
  void Change() { ++version_; }

  const ConversionOptions options_;
  ContentStore& store_;
  const Opener opener_;
  const convert::Spool spool_;
  convert::ConversionCache cache_;
  convert::LayerGate gate_;
  ThreadPool executor_;

  mutable std::mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<Offered> offers_;  // guarded by mutex_, as is all that follows
  std::map<Key, Job> jobs_;
  ChunkCensus census_;
  std::map<Key, bool> ignored_;  // what the policy does not want
  ConversionStats stats_;
  uint64_t version_ = 0;
  std::vector<std::jthread> threads_;  // Start()'s and Stop()'s alone
};

}  // namespace banyan::registry_proxy
