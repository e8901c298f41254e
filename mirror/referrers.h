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

// Internally synchronised. Upstreams' threads must have ended before it is destroyed.
class Referrers {
 public:
  Referrers(const Hooks& hooks, std::chrono::milliseconds lifetime) : hooks_(hooks), lifetime_(lifetime) {}

  // `done` is called once, on another thread or at once; does not block. What the hook has is answered without waiting
  // for an upstream whose list is not known: it is asked for meanwhile.
  using Done = std::function<void(Result<FoundReferrers>)>;
  void Get(const ReferrersTarget& target, Done done);
  void Stop() { hook_calls_.Stop(); }

 private:
  using Clock = std::chrono::steady_clock;
  struct List {
    std::vector<std::string> descriptors;
    Clock::time_point since;
  };
  static std::string Key(const ReferrersTarget& target);
  void Answer(const ReferrersTarget& target, const Done& done);
  Result<List> Ask(const ReferrersTarget& target);

  const Hooks& hooks_;
  const std::chrono::milliseconds lifetime_;
  std::mutex mutex_;
  std::map<std::string, List> lists_;  // guarded by mutex_
  Workers hook_calls_{2, 1024};
};

// The index of those descriptors (JSON objects as text) that have that artifact type (any, if empty), each digest once.
std::string ReferrersIndex(const std::vector<std::string>& descriptors, std::string_view artifact_type);

}  // namespace banyan::mirror
