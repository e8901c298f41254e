// Repository::FetchRange over a RegistrySession: a queue, a cap on what is under way, and strict checks of what comes
// back.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>

#include "common/digest.h"
#include "common/units.h"
#include "net/registry_session.h"
#include "net/repository.h"

namespace banyan::net {

// Internally synchronised by confinement to the session's thread. The session must be shut down before this is
// destroyed; that answers all that is outstanding with kCancelled.
class RangeFetcher {
 public:
  RangeFetcher(RegistrySession& session, std::string repository_path, uint32_t max_active)
      : session_(session), repository_path_(std::move(repository_path)), max_active_(max_active > 0 ? max_active : 1) {}

  uint64_t Fetch(const Digest& digest, ByteRange range, std::string_view priority, Repository::OnData on_data,
                 Repository::OnDone on_done);
  void Cancel(uint64_t id);

 private:
  struct Job;
  void Add(std::shared_ptr<Job> job);
  void Pump();
  void Begin(const std::shared_ptr<Job>& job);

  RegistrySession& session_;
  const std::string repository_path_;
  const uint32_t max_active_;
  std::atomic<uint64_t> next_id_{1};

  // The session's thread's own.
  std::deque<std::shared_ptr<Job>> waiting_;
  std::map<uint64_t, uint64_t> active_;  // id → the session's id
};

}  // namespace banyan::net
