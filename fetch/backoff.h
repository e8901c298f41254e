// How long to wait before the next attempt. Pure.
#pragma once

#include <chrono>
#include <cstdint>

#include "common/result.h"

namespace banyan::fetch {

// The wait after `failures` (at least 1) failures in a row, the last of them `code`: doubling from 50 ms to 5 s; where
// the source said no (not found, not allowed) from 1 s to 30 s, since registries come back and credentials rotate, but
// not soon. `salt` spreads it over [half, whole), so that what failed together is not tried again together.
inline std::chrono::milliseconds BackoffDelay(uint32_t failures, Code code, uint64_t salt) {
  const bool refused = code == Code::kNotFound || code == Code::kPermissionDenied || code == Code::kUnauthenticated;
  const uint64_t first = refused ? 1000 : 50;
  const uint64_t most = refused ? 30'000 : 5'000;
  const uint32_t doublings = failures - 1 < 16 ? failures - 1 : 16;
  const uint64_t whole = first << doublings < most ? first << doublings : most;
  uint64_t mixed = salt + 0x9e3779b97f4a7c15U;  // splitmix64
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9U;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebU;
  mixed ^= mixed >> 31;
  return std::chrono::milliseconds(whole / 2 + mixed % (whole - whole / 2));
}

}  // namespace banyan::fetch
