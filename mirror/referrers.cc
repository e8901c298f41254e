#include "mirror/referrers.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/log.h"
#include "net/manifest_json.h"

namespace banyan::mirror {

namespace {

constexpr size_t kMaxLists = 4096;

std::string Text(const nlohmann::json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

bool HasType(const std::vector<std::string>& descriptors, const std::string& artifact_type) {
  for (const std::string& text : descriptors) {
    const nlohmann::json descriptor = net::ParseJson(text);
    if (descriptor.is_object() && (artifact_type.empty() || Text(descriptor, "artifactType") == artifact_type))
      return true;
  }
  return false;
}

}  // namespace

std::string ReferrersIndex(const std::vector<std::string>& descriptors, std::string_view artifact_type) {
  nlohmann::json index = {
      {"schemaVersion", 2}, {"mediaType", net::kOciIndexType}, {"manifests", nlohmann::json::array()}};
  std::set<std::string> seen;
  for (const std::string& text : descriptors) {
    nlohmann::json descriptor = net::ParseJson(text);
    if (!descriptor.is_object()) continue;
    if (!artifact_type.empty() && Text(descriptor, "artifactType") != artifact_type) continue;
    if (!seen.insert(Text(descriptor, "digest")).second) continue;
    index["manifests"].push_back(std::move(descriptor));
  }
  return index.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string Referrers::Key(const ReferrersTarget& target) {
  return fmt::format("{}\n{}\n{}\n{}\n{}", target.upstream->name(), target.repository, target.subject.ToString(),
                     target.identity.username, target.identity.password);
}

// One request. What it is told first counts: by the upstream, or by the alarm.
struct Referrers::Waiting {
  std::vector<std::string> own;  // the hook's descriptors
  std::string artifact_type;
  std::optional<List> known;  // what the upstream said last
  bool answered = false;      // `own` has the type that is asked for
  std::mutex mutex;
  Done done;  // guarded by mutex; null once it was called

  void Answer(const List* list, bool stale) {
    std::vector<std::string> all = own;
    if (list) all.insert(all.end(), list->descriptors.begin(), list->descriptors.end());
    Call(FoundReferrers{ReferrersIndex(all, artifact_type), stale});
  }
  void AnswerWithoutUpstream() { Answer(known ? &*known : nullptr, true); }
  // The upstream's word.
  void Land(const Result<List>& list) {
    if (list) return Answer(&*list, false);
    if (known || answered) return AnswerWithoutUpstream();
    // No such repository or manifest there: nothing refers to it.
    if (list.error().code == Code::kNotFound) return Answer(nullptr, false);
    Call(Fail(list.error()));
  }
  void Call(const Result<FoundReferrers>& found) {
    Done call;
    {
      const std::scoped_lock lock(mutex);
      call.swap(done);
    }
    if (call) call(found);
  }
};

void Referrers::Get(const ReferrersTarget& target, Done done) {
  const auto shared_done = std::make_shared<Done>(std::move(done));
  if (hook_calls_.Post([this, target, shared_done] { Answer(target, std::move(*shared_done)); })) return;
  (*shared_done)(Fail(Code::kResourceExhausted, "too many requests wait for the disk"));
}

void Referrers::Answer(const ReferrersTarget& target, Done done) {
  const auto waiting = std::make_shared<Waiting>();
  if (hooks_.extra_referrers) {
    waiting->own = hooks_.extra_referrers(target.upstream_name, target.repository, target.subject);
  }
  waiting->artifact_type = target.artifact_type;
  waiting->done = std::move(done);
  if (!target.upstream) return waiting->Answer(nullptr, false);
  const std::string key = Key(target);
  {
    const std::scoped_lock lock(mutex_);
    if (const auto found = lists_.find(key); found != lists_.end()) waiting->known = found->second;
  }
  const auto& known = waiting->known;
  if (known && Clock::now() - known->since < options_.lifetime) return waiting->Answer(&*known, false);
  waiting->answered = HasType(waiting->own, target.artifact_type);
  Join(key, target, waiting);
  if (!waiting->answered && !known) return;
  const auto patience = waiting->answered ? std::min(options_.budget, options_.stale_after) : options_.stale_after;
  alarms_.After(patience, [waiting] { waiting->AnswerWithoutUpstream(); });
}

void Referrers::Join(const std::string& key, const ReferrersTarget& target, const std::shared_ptr<Waiting>& waiting) {
  {
    const std::scoped_lock lock(mutex_);
    std::vector<std::shared_ptr<Waiting>>& flight = flights_[key];
    flight.push_back(waiting);
    if (flight.size() > 1) return;
  }
  if (!target.upstream->calls().Post([this, key, target] { Land(key, Ask(target)); })) {
    Land(key, Fail(Code::kResourceExhausted, "too much is waiting for this upstream already"));
  }
}

void Referrers::Land(const std::string& key, const Result<List>& list) {
  std::vector<std::shared_ptr<Waiting>> flight;
  {
    const std::scoped_lock lock(mutex_);
    flight = std::move(flights_[key]);
    flights_.erase(key);
  }
  for (const auto& waiting : flight) waiting->Land(list);
}

Result<Referrers::List> Referrers::Ask(const ReferrersTarget& target) {
  List list;
  // All types at once: some registries ignore the filter, and the next may ask for another.
  BANYAN_TRY(target.upstream->Try(target.repository, target.identity, [&](net::Repository& repository) -> Status {
    BANYAN_ASSIGN(list.descriptors, repository.Referrers(target.subject, ""));
    return {};
  }));
  list.since = Clock::now();
  const std::scoped_lock lock(mutex_);
  if (lists_.size() >= kMaxLists) lists_.clear();
  lists_[Key(target)] = list;
  return list;
}

}  // namespace banyan::mirror
