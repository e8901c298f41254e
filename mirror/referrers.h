// The referrers of a manifest: what the upstream's API or its fallback tag lists, behind what a hook adds.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "mirror/alarms.h"
#include "mirror/hooks.h"
#include "mirror/upstreams.h"

namespace banyan::mirror {

struct ReferrersTarget {
  std::shared_ptr<Upstream> upstream;  // null: only what the hook has
  std::string upstream_name;           // may be empty
  std::string repository;
  Identity identity;
  Digest subject;
  std::string artifact_type;  // empty: any
};

struct FoundReferrers {
  std::string index;   // an OCI image index
  bool stale = false;  // the upstream could not be asked
};

// Many who ask for the referrers of one manifest at once share one question to the upstream. Internally synchronised.
// Upstreams' threads and the alarms must have ended before it is destroyed.
class Referrers {
 public:
  struct Options {
    std::chrono::milliseconds lifetime;     // of an upstream's list
    std::chrono::milliseconds stale_after;  // an upstream that takes longer is not waited for if its list is known
    std::chrono::milliseconds budget;       // the same if the hook has what is asked for
  };
  Referrers(const Hooks& hooks, Alarms& alarms, const Options& options)
      : hooks_(hooks), alarms_(alarms), options_(options) {}

  // `done` is called once, on another thread or at once; does not block.
  using Done = std::function<void(Result<FoundReferrers>)>;
  void Get(const ReferrersTarget& target, Done done);
  void Stop() { hook_calls_.Stop(); }

 private:
  using Clock = std::chrono::steady_clock;
  struct List {
    std::vector<std::string> descriptors;
    Clock::time_point since;
  };
  struct Waiting;
  static std::string Key(const ReferrersTarget& target);
  void Answer(const ReferrersTarget& target, Done done);
  void Join(const std::string& key, const ReferrersTarget& target, const std::shared_ptr<Waiting>& waiting);
  Result<List> Ask(const ReferrersTarget& target);
  void Land(const std::string& key, const Result<List>& list);

  const Hooks& hooks_;
  Alarms& alarms_;
  const Options options_;
  std::mutex mutex_;
  std::map<std::string, List> lists_;                                     // guarded by mutex_
  std::map<std::string, std::vector<std::shared_ptr<Waiting>>> flights_;  // guarded by mutex_
  Workers hook_calls_{2, 4096};
};

// The index of those descriptors (JSON objects as text) that have that artifact type (any, if empty), each digest once.
std::string ReferrersIndex(const std::vector<std::string>& descriptors, std::string_view artifact_type);

}  // namespace banyan::mirror
