#include "mirror/referrers.h"

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

void Referrers::Get(const ReferrersTarget& target, Done done) {
  Workers& workers = target.upstream ? target.upstream->calls() : hook_calls_;
  const auto shared_done = std::make_shared<const Done>(std::move(done));
  if (workers.Post([this, target, shared_done] { Answer(target, *shared_done); })) return;
  (*shared_done)(Fail(Code::kResourceExhausted, "too much is waiting for this upstream already"));
}

void Referrers::Answer(const ReferrersTarget& target, const Done& done) {
  std::vector<std::string> all;
  if (hooks_.extra_referrers) all = hooks_.extra_referrers(target.upstream_name, target.repository, target.subject);
  const auto answer = [&](const List* list, bool stale) {
    if (list) all.insert(all.end(), list->descriptors.begin(), list->descriptors.end());
    done(FoundReferrers{ReferrersIndex(all, target.artifact_type), stale});
  };
  if (!target.upstream) return answer(nullptr, false);
  std::optional<List> known;
  {
    const std::scoped_lock lock(mutex_);
    if (const auto found = lists_.find(Key(target)); found != lists_.end()) known = found->second;
  }
  if (known && Clock::now() - known->since < lifetime_) return answer(&*known, false);
  const bool answered = HasType(all, target.artifact_type);
  if (answered) answer(known ? &*known : nullptr, false);
  const Result<List> asked = Ask(target);
  if (answered) return;
  if (asked) return answer(&*asked, false);
  if (known) return answer(&*known, true);
  // No such repository or manifest there: nothing refers to it.
  if (asked.error().code == Code::kNotFound) return answer(nullptr, false);
  done(Fail(asked.error()));
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
