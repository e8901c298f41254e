#include "peer-agent/image_lookup.h"

#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "fetch/image_resolver.h"
#include "image-format/artifact.h"
#include "image-format/oci.h"
#include "peer-agent/peers.h"

namespace banyan::peer_agent {

namespace {

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::steady_clock;

microseconds Since(steady_clock::time_point start) { return duration_cast<microseconds>(steady_clock::now() - start); }

std::vector<Digest> ChainIds(const image_format::ImageMap& map) {
  std::vector<Digest> diff_ids;
  std::vector<Digest> chain_ids;
  for (const image_format::Device& device : map.devices) {
    diff_ids.push_back(device.diff_id);
    chain_ids.push_back(image_format::ChainId(diff_ids));
  }
  return chain_ids;
}

}  // namespace

ImageLookup::ImageLookup(Registries& registries, Documents& documents, Trust& trust, Peers* peers, Options options)
    : registries_(registries), documents_(documents), trust_(trust), peers_(peers), options_(options) {}

ImageLookup::~ImageLookup() {
  std::vector<std::thread> threads;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [key, flight] : flights_) {
      if (flight.thread.joinable()) threads.push_back(std::move(flight.thread));
    }
  }
  for (std::thread& thread : threads) thread.join();
}

std::shared_ptr<const FoundImage> ImageLookup::Find(const std::string& reference, const std::optional<Digest>& manifest,
                                                    std::chrono::milliseconds timeout) {
  auto parsed = net::ImageReference::Parse("docker://" + reference);
  if (!parsed) {
    spdlog::info("{} starts as usual: {}", reference, parsed.error().message);
    return nullptr;
  }
  if (manifest) parsed->digest = *manifest;
  const std::string key = parsed->ToString();
  std::unique_lock lock(mutex_);
  auto found = flights_.find(key);
  if (found != flights_.end() && found->second.done && !found->second.found &&
      steady_clock::now() - found->second.ended > options_.remember_absence) {
    if (found->second.thread.joinable()) found->second.thread.join();  // it has ended
    flights_.erase(found);
    found = flights_.end();
  }
  if (found == flights_.end()) {
    if (running_ >= options_.max_lookups) {
      spdlog::warn("{} starts as usual: {} other images are being looked up", reference, running_);
      return nullptr;
    }
    Trim();
    ++running_;
    found = flights_.emplace(key, Flight()).first;
    found->second.thread = std::thread([this, key, image = *parsed] { Run(key, image); });
  }
  // Entries under way are not erased, and iterators of a map stay valid; but the entry is looked up again all the same,
  // because what has ended may be.
  ended_.wait_for(lock, timeout, [&] {
    found = flights_.find(key);
    return found == flights_.end() || found->second.done;
  });
  if (found == flights_.end()) return nullptr;
  if (!found->second.done) {
    spdlog::info("{} starts as usual: its registry has not said within {} ms whether it is converted", reference,
                 timeout.count());
  }
  return found->second.found;
}

void ImageLookup::Trim() {
  if (flights_.size() < options_.max_remembered) return;
  for (auto flight = flights_.begin(); flight != flights_.end();) {
    if (!flight->second.done) {
      ++flight;
      continue;
    }
    if (flight->second.thread.joinable()) flight->second.thread.join();  // it has ended
    flight = flights_.erase(flight);
  }
}

void ImageLookup::Run(const std::string& key, net::ImageReference reference) {
  auto resolved = Resolve(reference);
  if (!resolved) {
    spdlog::info("{} starts as usual: {}", key, resolved.error().message);
    resolved = nullptr;
  }
  const std::lock_guard lock(mutex_);
  Flight& flight = flights_.at(key);
  flight.done = true;
  flight.found = *resolved;
  flight.ended = steady_clock::now();
  --running_;
  ended_.notify_all();
}

Result<std::shared_ptr<const FoundImage>> ImageLookup::Resolve(const net::ImageReference& reference) {
  auto found = std::make_shared<FoundImage>();
  net::ImageReference name = reference;
  if (!name.tag.empty()) name.digest.reset();  // what the tag meant is in manifest_digest
  found->reference = name.ToString();
  found->began = std::chrono::system_clock::now();
  found->began_steady = steady_clock::now();
  BANYAN_ASSIGN(const Origins origins, registries_.Open(reference, {}));
  const std::string selector = reference.digest ? reference.digest->ToString() : reference.tag;
  Result<fetch::ResolvedImage> image = Fail(Code::kNotFound, "no origin");
  for (const auto& origin : origins) {
    image = fetch::ResolveImage(*origin, selector, {}, [this](const auto& artifact) { return trust_.Check(artifact); });
    if (image && image->artifact) break;
  }
  if (!image) return Fail(image.error());
  if (!image->artifact) {
    spdlog::debug("{} has no Banyan artifact", found->reference);
    return nullptr;
  }
  found->resolved = Since(found->began_steady);
  found->manifest_digest = image->descriptor.digest;
  found->artifact_digest = *image->artifact_digest;
  found->map_digest = image->artifact->map_digest;
  if (peers_ != nullptr) peers_->JoinImage(found->manifest_digest, found->map_digest, name, {});
  BANYAN_ASSIGN(const image_format::ImageMap map, documents_.Map(origins, found->map_digest));
  BANYAN_TRY(image_format::CheckArtifactAgainstMap(*image->artifact, map));
  if (peers_ != nullptr) peers_->AddImage(found->manifest_digest, map, origins);
  found->mapped = Since(found->began_steady);
  found->chain_ids = ChainIds(map);
  return found;
}

}  // namespace banyan::peer_agent
