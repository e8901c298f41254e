#include "registry-proxy/conversions.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "common/log.h"
#include "common/units.h"
#include "convert/blob_stream.h"
#include "image-format/artifact.h"
#include "mirror/upstreams.h"
#include "registry-proxy/artifact_repository.h"

namespace banyan::registry_proxy {
namespace {

using std::chrono::steady_clock;
using std::chrono::system_clock;

constexpr size_t kMaxOffers = 10'000;
constexpr size_t kMaxEnded = 1'000;
constexpr size_t kMaxIgnored = 10'000;
constexpr uint64_t kMaxCountedIndexBytes = 64 * kMiB;  // of a larger one the chunks are not counted
constexpr uint32_t kMaxAttempts = 6;
constexpr std::chrono::seconds kRetryAfter{5};  // doubled each time

bool MatchesAny(const std::vector<std::string>& globs, const std::string& name) {
  return std::any_of(globs.begin(), globs.end(),
                     [&](const std::string& glob) { return mirror::MatchesGlob(glob, name); });
}

bool MayPass(Code code) {
  return code == Code::kUnavailable || code == Code::kDeadlineExceeded || code == Code::kResourceExhausted ||
         code == Code::kAborted;
}

std::string TextField(const nlohmann::json& json, const char* name) {
  const auto field = json.find(name);
  return field != json.end() && field->is_string() ? field->get<std::string>() : std::string();
}

}  // namespace

// Brings a conversion's progress into its status.
class Conversions::Listener final : public convert::ConvertListener {
 public:
  Listener(Conversions& owner, Key key) : owner_(owner), key_(std::move(key)) {}

  void OnLayerBytes(uint64_t bytes) override {
    Update([&](ConversionStatus& status) { status.bytes_done += bytes; });
  }
  void OnLayerEnd(const convert::LayerStep& step, convert::LayerOutcome outcome,
                  const image_format::LayerIndex* index) override {
    using convert::LayerOutcome;
    if (outcome == LayerOutcome::kFailed || outcome == LayerOutcome::kInterrupted) return;
    if (index != nullptr) CountChunks(step.digest, *index, outcome == LayerOutcome::kReused);
    Update([&](ConversionStatus& status) {
      ++status.layers_done;
      if (outcome == LayerOutcome::kConverted) {
        ++owner_.stats_.layers_converted;
        owner_.stats_.source_bytes += step.bytes;
        return;
      }
      ++owner_.stats_.layers_reused;
      status.bytes_done += step.bytes;
    });
  }

 private:
  // A layer that an earlier attempt of this conversion made is not shared for that.
  void CountChunks(const Digest& source, const image_format::LayerIndex& index, bool reused) {
    const std::lock_guard lock(owner_.mutex_);
    Job& job = owner_.jobs_.at(key_);
    const auto own = job.counted.find(source);
    if (own != job.counted.end()) {
      job.status.chunks += own->second;
      return;
    }
    ChunkCount count = owner_.census_.Add(index.chunks);
    if (reused) {
      count.shared = count.all;
      count.shared_bytes = count.bytes;
      ++job.status.layers_reused;
    } else {
      job.counted.emplace(source, count);
    }
    job.status.chunks += count;
  }

  template <typename Function>
  void Update(Function function) {
    const std::lock_guard lock(owner_.mutex_);
    function(owner_.jobs_.at(key_).status);
    owner_.Change();
  }
  Conversions& owner_;
  const Key key_;
};

Conversions::Conversions(ConversionOptions options, ContentStore& store, Opener opener, convert::Spool spool)
    : options_(std::move(options)),
      store_(store),
      opener_(std::move(opener)),
      spool_(std::move(spool)),
      cache_(options_.root),
      executor_(options_.threads) {}

Result<std::unique_ptr<Conversions>> Conversions::Open(ConversionOptions options, ContentStore& store, Opener opener) {
  BANYAN_TRY(MakeDirectories(options.root + "/queue", 0700));
  BANYAN_ASSIGN(convert::Spool spool, convert::Spool::Open(options.root));
  std::unique_ptr<Conversions> conversions(
      new Conversions(std::move(options), store, std::move(opener), std::move(spool)));
  BANYAN_TRY(conversions->LoadQueue());
  return conversions;
}

Conversions::~Conversions() { Stop(); }

std::string Conversions::QueuePath(const Key& key) const {
  const std::string name = fmt::format("{}\n{}\n{}", key.upstream, key.repository, key.digest.Hex());
  return fmt::format("{}/queue/{}", options_.root, Digest::Of(name).Hex());
}

// A file that is no job is removed: a crash may have left half of a temporary one.
Status Conversions::LoadQueue() {
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(options_.root + "/queue", error)) {
    const auto text = ReadFile(item.path().string(), 64 * kKiB);
    const auto json = nlohmann::json::parse(text.value_or(""), nullptr, false);
    const auto digest = json.is_object() ? Digest::Parse(TextField(json, "digest")) : Fail(Code::kDataLoss, "");
    if (!digest || TextField(json, "repository").empty()) {
      std::filesystem::remove(item.path(), error);
      continue;
    }
    Job job;
    job.status.upstream = TextField(json, "upstream");
    job.status.repository = TextField(json, "repository");
    job.status.reference = TextField(json, "reference");
    job.status.digest = *digest;
    job.status.asks = json.value("asks", uint64_t{1});
    job.status.queued = system_clock::now();
    jobs_.emplace(Key{job.status.upstream, job.status.repository, *digest}, job);
  }
  if (!jobs_.empty()) spdlog::info("conversions: {} taken up from before", jobs_.size());
  return {};
}

void Conversions::Start() {
  threads_.emplace_back([this](std::stop_token stop) { TakeOffers(std::move(stop)); });
  for (uint32_t i = 0; i < std::max(options_.workers, 1U); ++i) {
    threads_.emplace_back([this, i](std::stop_token stop) { Work(std::move(stop), i); });
  }
}

void Conversions::Stop() {
  for (std::jthread& thread : threads_) thread.request_stop();
  wake_.notify_all();
  threads_.clear();
}

void Conversions::Offer(const std::string& upstream, const std::string& repository, const std::string& reference,
                        std::shared_ptr<const net::RawManifest> manifest) {
  if (!options_.policy.enabled || !manifest) return;
  Key key{upstream, repository, manifest->digest};
  const std::lock_guard lock(mutex_);
  if (ignored_.contains(key)) return;
  if (const auto known = jobs_.find(key); known != jobs_.end()) {
    ++known->second.status.asks;
    Change();
    return;
  }
  if (offers_.size() >= kMaxOffers) return;  // it will be asked for again
  offers_.push_back({std::move(key), reference, std::move(manifest)});
  wake_.notify_all();
}

void Conversions::TakeOffers(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  while (wake_.wait(lock, stop, [this] { return !offers_.empty(); })) {
    const Offered offer = std::move(offers_.front());
    offers_.pop_front();
    if (jobs_.contains(offer.key) || ignored_.contains(offer.key)) continue;
    lock.unlock();
    Consider(offer);
    lock.lock();
  }
}

void Conversions::Consider(const Offered& offer) {
  std::string why;
  const bool wanted = Wanted(offer.key, *offer.manifest, &why);
  if (const auto made = wanted ? FindArtifact(offer.key) : std::nullopt) return ShowEarlier(offer, *made);
  if (!wanted) {
    if (!why.empty()) spdlog::debug("conversions: {}/{}: {}", offer.key.upstream, offer.key.repository, why);
    const std::lock_guard lock(mutex_);
    return Ignore(offer.key);
  }
  Job job;
  job.status = {.upstream = offer.key.upstream,
                .repository = offer.key.repository,
                .reference = offer.reference,
                .digest = offer.key.digest,
                .asks = 1,
                .queued = system_clock::now()};
  const nlohmann::json record = {{"upstream", offer.key.upstream},
                                 {"repository", offer.key.repository},
                                 {"reference", offer.reference},
                                 {"digest", offer.key.digest.ToString()}};
  if (const Status kept = WriteFileDurably(QueuePath(offer.key), record.dump(), 0600); !kept) {
    spdlog::warn("conversions: the queue is not kept on disk: {}", kept.error().message);
  }
  const std::lock_guard lock(mutex_);
  jobs_.emplace(offer.key, std::move(job));
  Change();
  wake_.notify_all();
}

bool Conversions::Wanted(const Key& key, const net::RawManifest& raw, std::string* why) const {
  const std::string name = key.upstream + "/" + key.repository;
  const auto media_type = image_format::DetectMediaType(raw.body, raw.media_type);
  if (!media_type || !image_format::IsManifest(*media_type)) return false;
  const auto manifest = image_format::ParseManifest(raw.body);
  if (!manifest || image_format::IsArtifact(*manifest) || manifest->subject || !manifest->artifact_type.empty())
    return false;
  uint64_t bytes = 0;
  for (const auto& layer : manifest->layers) {
    bytes += layer.size;
    if (image_format::LayerCompression(layer.media_type)) continue;
    *why = "has a layer that is none of a file system: " + layer.media_type;
    return false;
  }
  if (manifest->layers.empty()) return false;
  if (bytes < options_.policy.min_bytes) *why = "is smaller than convert.min_size";
  if (!MatchesAny(options_.policy.images, name)) *why = "is not in convert.images";
  if (MatchesAny(options_.policy.never, name)) *why = "is in convert.never";
  return why->empty();
}

// One that this converter made, and that is trusted still.
std::optional<Conversions::Made> Conversions::FindArtifact(const Key& key) const {
  const std::string repository = StoreName(key.upstream, key.repository);
  for (const std::string& text : store_.Referrers(repository, key.digest)) {
    const auto descriptor = image_format::ParseDescriptor(text);
    if (!descriptor) continue;
    const auto raw = store_.GetManifest(repository, descriptor->digest.ToString());
    if (!raw) continue;
    auto artifact = image_format::ParseArtifact(raw->body);
    if (artifact && artifact->converter_version == image_format::kConverterVersion &&
        image_format::VerifyArtifact(*artifact, options_.trust)) {
      return Made{descriptor->digest, std::move(*artifact)};
    }
  }
  return std::nullopt;
}

// What a process before this one has converted, with what it shares with the others that have been asked for since.
void Conversions::ShowEarlier(const Offered& offer, const Made& made) {
  std::vector<image_format::ChunkTable> tables;
  const auto store = OpenStoreRepository(store_, StoreName(offer.key.upstream, offer.key.repository));
  for (const auto& layer : made.artifact.layers) {
    const auto blob = store->GetBlob(layer.index_digest, kMaxCountedIndexBytes);
    if (!blob) continue;
    MemorySource source(std::as_bytes(std::span(*blob)));
    if (auto index = image_format::DecodeLayerIndex(source)) tables.push_back(std::move(index->chunks));
  }
  Job job;
  job.status = {.upstream = offer.key.upstream,
                .repository = offer.key.repository,
                .reference = offer.reference,
                .digest = offer.key.digest,
                .state = ConversionState::kDone,
                .asks = 1,
                .artifact = made.digest,
                .queued = system_clock::now()};
  if (const auto manifest = image_format::ParseManifest(offer.manifest->body)) {
    job.status.layers = job.status.layers_done = static_cast<uint32_t>(manifest->layers.size());
    for (const auto& layer : manifest->layers) job.status.bytes += layer.size;
    job.status.bytes_done = job.status.bytes;
  }
  const std::lock_guard lock(mutex_);
  for (const auto& chunks : tables) job.status.chunks += census_.Add(chunks);
  jobs_.emplace(offer.key, std::move(job));
  Forget();
  Change();
}

// The one that is asked for most among those whose time has come; among equals the oldest.
Conversions::Job* Conversions::Next() {
  const auto& policy = options_.policy;
  if (policy.max_storage_bytes > 0 && store_.used_bytes() > policy.max_storage_bytes) return nullptr;
  Job* best = nullptr;
  const auto now = steady_clock::now();
  for (auto& [key, job] : jobs_) {
    if (job.status.state != ConversionState::kQueued || job.not_before > now) continue;
    if (best == nullptr || job.status.asks > best->status.asks ||
        (job.status.asks == best->status.asks && job.status.queued < best->status.queued)) {
      best = &job;
    }
  }
  return best;
}

void Conversions::Work(std::stop_token stop, uint32_t worker) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    Job* job = Next();
    if (job == nullptr) {
      // A second is how late a job may be that is tried again.
      wake_.wait_for(lock, stop, std::chrono::seconds(1), [&] { return Next() != nullptr; });
      continue;
    }
    const Key key{job->status.upstream, job->status.repository, job->status.digest};
    job->status.state = ConversionState::kRunning;
    job->status.began = system_clock::now();
    job->status.bytes_done = job->status.layers_done = job->status.layers_reused = 0;
    job->status.chunks = {};
    job->status.message.clear();
    ++job->attempts;
    Change();
    lock.unlock();
    const auto result = Convert(key, worker, stop);
    lock.lock();
    Finish(key, result, stop.stop_requested());
  }
}

Result<bool> Conversions::PresentUpstream(net::Repository& repository, const Digest& subject) {
  const auto referrers = repository.Referrers(subject, image_format::kImageArtifactType);
  if (!referrers) return false;  // then ours will be the only one
  for (const std::string& text : *referrers) {
    const auto descriptor = image_format::ParseDescriptor(text);
    if (!descriptor || descriptor->artifact_type != image_format::kImageArtifactType) continue;
    const auto raw = repository.GetManifest(descriptor->digest.ToString());
    if (!raw) continue;
    const auto artifact = image_format::ParseArtifact(raw->body);
    if (!artifact || artifact->converter_version != image_format::kConverterVersion) continue;
    if (!artifact->subject || artifact->subject->digest != subject) continue;
    if (const Status trusted = image_format::VerifyArtifact(*artifact, options_.trust); !trusted) {
      spdlog::warn("conversions: artifact {} of {} is passed over: {}", descriptor->digest.ToString(),
                   repository.name(), trusted.error().message);
      const std::lock_guard lock(mutex_);
      ++stats_.untrusted_artifacts;
      continue;
    }
    return true;
  }
  return false;
}

// The artifact's digest; nullopt: the upstream has one.
Result<std::optional<Digest>> Conversions::Convert(const Key& key, uint32_t worker, std::stop_token stop) {
  BANYAN_ASSIGN(const auto from, opener_(key.upstream, key.repository, false));
  BANYAN_ASSIGN(const net::RawManifest raw, from->GetManifest(key.digest.ToString()));
  BANYAN_ASSIGN(const std::string media_type, image_format::DetectMediaType(raw.body, raw.media_type));
  BANYAN_ASSIGN(image_format::Manifest manifest, image_format::ParseManifest(raw.body));
  {
    const std::lock_guard lock(mutex_);
    ConversionStatus& status = jobs_.at(key).status;
    status.layers = static_cast<uint32_t>(manifest.layers.size());
    status.bytes = 0;
    for (const auto& layer : manifest.layers) status.bytes += layer.size;
    Change();
  }
  BANYAN_ASSIGN(const bool present, PresentUpstream(*from, key.digest));
  if (present) return std::nullopt;

  const convert::ConvertSource source{
      *from, {.media_type = media_type, .digest = key.digest, .size = raw.body.size()}, std::move(manifest)};
  const auto to = OpenStoreRepository(store_, StoreName(key.upstream, key.repository));
  const std::string spool = spool_.Path(fmt::format("worker-{}", worker));
  BANYAN_TRY(MakeDirectories(spool, 0700));
  Listener listener(*this, key);
  const convert::ConvertTools tools{.spool_directory = spool,
                                    .cache = cache_,
                                    .executor = executor_,
                                    .gate = &gate_,
                                    .listener = &listener,
                                    .key = options_.key};
  BANYAN_ASSIGN(const convert::ConvertReport report,
                convert::ConvertImage(source, {*to, {}, {}}, options_.settings, tools, stop));
  if (const auto& targets = options_.push_to;
      std::find(targets.begin(), targets.end(), key.upstream) != targets.end()) {
    if (const Status pushed = PushUpstream(key, report.artifact_digest, spool, stop); !pushed) {
      spdlog::warn("conversions: {}/{}: the artifact is here, but was not pushed: {}", key.upstream, key.repository,
                   pushed.error().message);
    }
  }
  return std::optional(report.artifact_digest);
}

Status Conversions::PushUpstream(const Key& key, const Digest& artifact, const std::string& spool,
                                 std::stop_token stop) {
  BANYAN_ASSIGN(const auto to, opener_(key.upstream, key.repository, true));
  const auto from = OpenStoreRepository(store_, StoreName(key.upstream, key.repository));
  BANYAN_ASSIGN(const net::RawManifest raw, from->GetManifest(artifact.ToString()));
  BANYAN_ASSIGN(image_format::Manifest manifest, image_format::ParseManifest(raw.body));
  manifest.layers.push_back(manifest.config);
  for (const auto& blob : manifest.layers) {
    BANYAN_TRY(convert::CopyBlob(*from, *to, blob, "blob", spool + "/push", stop));
  }
  BANYAN_TRY(to->PutManifest(artifact.ToString(), raw.media_type, raw.body));
  return {};
}

// With mutex_ held.
void Conversions::Finish(const Key& key, const Result<std::optional<Digest>>& result, bool stopped) {
  Job& job = jobs_.at(key);
  ConversionStatus& status = job.status;
  Change();
  if (!result && stopped) {
    status.state = ConversionState::kQueued;  // the next process goes on
    return;
  }
  status.ended = system_clock::now();
  const auto seconds = std::chrono::duration<double>(status.ended - status.began).count();
  const std::string name = fmt::format("{}/{}@{}", key.upstream, key.repository, key.digest.ToString());
  if (!result && MayPass(result.error().code) && job.attempts < kMaxAttempts) {
    const auto wait = kRetryAfter * (1 << (job.attempts - 1));
    status.state = ConversionState::kQueued;
    status.message = result.error().message;
    job.not_before = steady_clock::now() + wait;
    spdlog::warn("conversions: {}: {}; again in {} s", name, status.message, wait.count());
    return;
  }
  ::unlink(QueuePath(key).c_str());
  job.counted.clear();
  if (!result) {
    status.state = ConversionState::kFailed;
    status.message = result.error().message;
    ++stats_.failed;
    spdlog::warn("conversions: {}: {}", name, status.message);
  } else if (!*result) {
    status.state = ConversionState::kPresent;
    ++stats_.present;
  } else {
    status.state = ConversionState::kDone;
    status.artifact = **result;
    ++stats_.done;
    spdlog::info("conversions: {}: artifact {} in {:.1f} s", name, status.artifact->ToString(), seconds);
  }
  Forget();
}

void Conversions::Ignore(const Key& key) {
  if (ignored_.size() >= kMaxIgnored) ignored_.clear();
  ignored_.emplace(key, true);
}

void Conversions::Forget() {
  std::vector<std::map<Key, Job>::iterator> ended;
  for (auto it = jobs_.begin(); it != jobs_.end(); ++it) {
    if (it->second.status.state > ConversionState::kRunning) ended.push_back(it);
  }
  if (ended.size() <= kMaxEnded) return;
  const auto oldest = *std::min_element(ended.begin(), ended.end(), [](const auto& a, const auto& b) {
    return a->second.status.ended < b->second.status.ended;
  });
  // What has its artifact is not looked at again for being asked for again.
  if (oldest->second.status.state != ConversionState::kFailed) Ignore(oldest->first);
  jobs_.erase(oldest);
}

std::vector<ConversionStatus> Conversions::List() const {
  std::vector<ConversionStatus> list;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, job] : jobs_) list.push_back(job.status);
  }
  const auto rank = [](const ConversionStatus& status) {
    if (status.state == ConversionState::kRunning) return 0;
    return status.state == ConversionState::kQueued ? 1 : 2;
  };
  std::stable_sort(list.begin(), list.end(), [&](const ConversionStatus& a, const ConversionStatus& b) {
    if (rank(a) != rank(b)) return rank(a) < rank(b);
    if (rank(a) == 2) return a.ended > b.ended;
    return a.asks != b.asks ? a.asks > b.asks : a.queued < b.queued;
  });
  return list;
}

ConversionStats Conversions::stats() const {
  const std::lock_guard lock(mutex_);
  ConversionStats stats = stats_;
  for (const auto& [key, job] : jobs_) {
    stats.queued += job.status.state == ConversionState::kQueued;
    stats.running += job.status.state == ConversionState::kRunning;
  }
  return stats;
}

uint64_t Conversions::version() const {
  const std::lock_guard lock(mutex_);
  return version_;
}

}  // namespace banyan::registry_proxy
