#include "mirror/manifests.h"

#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/log.h"
#include "net/manifest_json.h"

namespace banyan::mirror {

namespace {

constexpr size_t kMaxTagsInMemory = 16 * 1024;

std::string TagKey(const ManifestTarget& target) {
  return fmt::format("tag {}/{}:{}", target.upstream->name(), target.repository, target.reference);
}

std::string TypeKey(const Digest& digest) { return "type " + digest.ToString(); }

// Those who share one request: whose credentials it is made with counts.
std::string FlightKey(const ManifestTarget& target) {
  return fmt::format("{}\n{}\n{}\n{}\n{}", target.upstream ? target.upstream->name() : "", target.repository,
                     target.reference, target.identity.username, target.identity.password);
}

Error Unknown(const ManifestTarget& target) {
  return Error{Code::kNotFound,
               fmt::format("manifest '{}' of {}: not known here", target.reference, target.repository)};
}

}  // namespace

Manifests::Manifests(store::NodeStore& store, Counters& counters, Alarms& alarms, const Options& options)
    : store_(store), counters_(counters), alarms_(alarms), options_(options) {}

ManifestPtr Manifests::Remembered(const Digest& digest) {
  const std::scoped_lock lock(mutex_);
  const auto found = by_digest_.find(digest);
  if (found == by_digest_.end()) return nullptr;
  recent_.splice(recent_.begin(), recent_, found->second);
  return recent_.front();
}

void Manifests::Remember(const ManifestPtr& manifest) {
  const std::scoped_lock lock(mutex_);
  if (by_digest_.contains(manifest->digest) || manifest->body.size() > options_.cache_bytes) return;
  recent_.push_front(manifest);
  by_digest_[manifest->digest] = recent_.begin();
  recent_bytes_ += manifest->body.size();
  while (recent_bytes_ > options_.cache_bytes) {
    recent_bytes_ -= recent_.back()->body.size();
    by_digest_.erase(recent_.back()->digest);
    recent_.pop_back();
  }
}

ManifestPtr Manifests::Load(const Digest& digest) {
  if (ManifestPtr manifest = Remembered(digest)) return manifest;
  // A layer is no manifest, whatever path it is asked by.
  constexpr uint64_t kMaxManifestBytes = 8 * kMiB;
  if (store_.BlobBytes(digest).value_or(UINT64_MAX) > kMaxManifestBytes) return nullptr;
  Result<std::string> body = store_.GetBlob(digest);
  if (!body || !net::ParseJson(*body).is_object()) return nullptr;
  auto manifest = std::make_shared<net::RawManifest>();
  manifest->digest = digest;
  manifest->media_type = store_.GetNote(TypeKey(digest)).value_or("");
  if (manifest->media_type.empty()) manifest->media_type = net::ManifestMediaType(*body, "");
  manifest->body = *std::move(body);
  Remember(manifest);
  return manifest;
}

void Manifests::Keep(const ManifestPtr& manifest) {
  Remember(manifest);
  const Status stored = store_.PutBlob(manifest->digest, std::as_bytes(std::span(manifest->body)));
  if (!stored) spdlog::info("manifest {}: not stored: {}", manifest->digest.ToString(), stored.error().message);
  if (!stored || net::ManifestMediaType(manifest->body, "") == manifest->media_type) return;
  if (Status noted = store_.PutNote(TypeKey(manifest->digest), manifest->media_type); !noted) {
    spdlog::info("media type of {}: not stored: {}", manifest->digest.ToString(), noted.error().message);
  }
}

std::optional<Manifests::Tag> Manifests::FindTag(const std::string& key) {
  const std::scoped_lock lock(mutex_);
  const auto found = tags_.find(key);
  return found != tags_.end() ? std::optional(found->second) : std::nullopt;
}

std::optional<Manifests::Tag> Manifests::LoadTag(const std::string& key) {
  if (const std::optional<Tag> tag = FindTag(key)) return tag;
  const Result<std::string> note = store_.GetNote(key);
  const Result<Digest> digest = note ? Digest::Parse(*note) : Fail(note.error());
  return digest ? std::optional(Tag{*digest, std::nullopt}) : std::nullopt;
}

void Manifests::SetTag(const std::string& key, const Digest& digest) {
  const std::optional<Tag> before = LoadTag(key);
  {
    const std::scoped_lock lock(mutex_);
    if (tags_.size() >= kMaxTagsInMemory) tags_.clear();  // the notes have them
    tags_[key] = Tag{digest, Clock::now()};
  }
  if (before && before->digest == digest) return;
  if (Status noted = store_.PutNote(key, digest.ToString()); !noted) {
    spdlog::info("{}: not stored: {}", key, noted.error().message);
  }
}

bool Manifests::IsFresh(const Tag& tag) const {
  return tag.checked && Clock::now() - *tag.checked < options_.tag_lifetime;
}

void Manifests::Get(const ManifestTarget& target, Done done) {
  std::optional<Digest> digest = target.digest;
  if (!digest && target.upstream) {
    const std::optional<Tag> tag = FindTag(TagKey(target));
    if (tag && IsFresh(*tag)) digest = tag->digest;
  }
  if (digest) {
    if (ManifestPtr manifest = Remembered(*digest))
      return done(FoundManifest{std::move(manifest), RequestResult::kHit});
  }
  if (!target.digest && !target.upstream) return done(Fail(Unknown(target)));
  const std::string flight = FlightKey(target);
  ManifestPtr late;
  {
    const std::scoped_lock lock(mutex_);
    const auto [found, begins] = flights_.try_emplace(flight);
    late = found->second.late;
    if (!late) found->second.waiting.push_back(std::move(done));
    if (!late && !begins) return;
    if (begins) found->second.id = ++last_flight_;
  }
  if (late) return done(FoundManifest{std::move(late), RequestResult::kStale});
  if (!disk_.Post([this, target, flight] { LookOnDisk(target, flight); })) {
    Land(flight, Fail(Code::kResourceExhausted, "too many requests wait for the disk"));
  }
}

void Manifests::LookOnDisk(const ManifestTarget& target, const std::string& flight) {
  const std::optional<Tag> tag = target.digest ? std::nullopt : LoadTag(TagKey(target));
  const std::optional<Digest> digest = tag ? tag->digest : target.digest;
  if (const ManifestPtr manifest = digest ? Load(*digest) : nullptr) {
    if (!tag || IsFresh(*tag)) return Land(flight, FoundManifest{manifest, RequestResult::kHit});
    AnswerStaleSoon(flight, manifest);
  }
  if (!target.upstream) return Land(flight, Fail(Unknown(target)));
  if (!target.upstream->calls().Post([this, target, flight] { AskUpstream(target, flight); })) {
    Land(flight, Fail(Code::kResourceExhausted, "too much is waiting for this upstream already"));
  }
}

void Manifests::AskUpstream(const ManifestTarget& target, const std::string& flight) {
  Result<FoundManifest> found = target.digest ? Fetch(target) : Revalidate(target);
  if (found && found->result == RequestResult::kMiss) Remember(found->manifest);
  Land(flight, found);
  if (found && found->result == RequestResult::kMiss) Keep(found->manifest);
}

Result<FoundManifest> Manifests::Fetch(const ManifestTarget& target) {
  net::RawManifest manifest;
  BANYAN_TRY(target.upstream->Try(target.repository, target.identity, [&](net::Repository& repository) -> Status {
    BANYAN_ASSIGN(manifest, repository.GetManifest(target.reference));
    return {};
  }));
  if (!target.digest) SetTag(TagKey(target), manifest.digest);
  return FoundManifest{std::make_shared<const net::RawManifest>(std::move(manifest)), RequestResult::kMiss};
}

Result<FoundManifest> Manifests::Revalidate(const ManifestTarget& target) {
  const std::string key = TagKey(target);
  const std::optional<Tag> tag = LoadTag(key);
  const ManifestPtr known = tag ? Load(tag->digest) : nullptr;
  if (!known) return Fetch(target);
  net::ManifestHead head;
  const Status asked =
      target.upstream->Try(target.repository, target.identity, [&](net::Repository& repository) -> Status {
        BANYAN_ASSIGN(head, repository.HeadManifest(target.reference));
        return {};
      });
  ++counters_.tags_revalidated;
  if (asked && head.digest == known->digest) {
    SetTag(key, known->digest);
    return FoundManifest{known, RequestResult::kHit};
  }
  if (asked || asked.error().code == Code::kUnimplemented) {
    Result<FoundManifest> fetched = Fetch(target);
    if (fetched || fetched.error().code == Code::kNotFound) return fetched;
    return FoundManifest{known, RequestResult::kStale};
  }
  switch (asked.error().code) {
    case Code::kNotFound:
    case Code::kUnauthenticated:
    case Code::kPermissionDenied:
      return Fail(asked.error());  // the registry has spoken
    default:
      spdlog::info("{}: {}; what it meant last is served", key, asked.error().message);
      return FoundManifest{known, RequestResult::kStale};
  }
}

void Manifests::AnswerStaleSoon(const std::string& flight, const ManifestPtr& known) {
  uint64_t id = 0;
  {
    const std::scoped_lock lock(mutex_);
    id = flights_.at(flight).id;
  }
  alarms_.After(options_.stale_after, [this, flight, known, id] {
    std::vector<Done> waiting;
    {
      const std::scoped_lock lock(mutex_);
      const auto found = flights_.find(flight);
      if (found == flights_.end() || found->second.id != id) return;
      found->second.late = known;
      waiting.swap(found->second.waiting);
    }
    spdlog::info("manifest {}: the upstream takes long; what its tag meant last is served", known->digest.ToString());
    for (const Done& done : waiting) done(FoundManifest{known, RequestResult::kStale});
  });
}

void Manifests::Land(const std::string& flight, const Result<FoundManifest>& found) {
  std::vector<Done> waiting;
  {
    const std::scoped_lock lock(mutex_);
    const auto landed = flights_.find(flight);
    waiting = std::move(landed->second.waiting);
    flights_.erase(landed);
  }
  for (const Done& done : waiting) done(found);
}

}  // namespace banyan::mirror
