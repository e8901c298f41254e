// Retries of blocking registry calls: exponential backoff with jitter, or what the registry asked for by Retry-After.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>

#include "common/result.h"
#include "net/registry_session.h"

namespace banyan::net {

// How one attempt ended. Immutable value.
struct Attempt {
  Status status;
  bool transient = false;  // with an error: another attempt may succeed
  std::optional<std::chrono::seconds> retry_after;

  static Attempt Success() { return {}; }
  static Attempt Final(Error error) { return {Fail(std::move(error)), false, std::nullopt}; }
  static Attempt Transient(Error error) { return {Fail(std::move(error)), true, std::nullopt}; }
  // `restartable`: the call is a later step of a sequence that begins anew, so that a 404 or 416 (the upload session
  // was lost, say to another replica of the registry) is worth another try as well.
  static Attempt Of(const RegistryOutcome& outcome, bool restartable = false);
};

// Calls `attempt` up to `attempts` times (at least once), sleeping between.
Status Retry(uint32_t attempts, const std::function<Attempt()>& attempt);

// The pause before attempt number `attempt` (1 is the first retry): about 200 ms, doubling to 10 s, each ±50 %.
std::chrono::milliseconds Backoff(uint32_t attempt);

}  // namespace banyan::net
