// What tests with real mounts stand in: a mount namespace of their own, so that nothing is left behind however they
// end.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace banyan::lazyfs::testing {

// Enters a private mount namespace, once a process. Must be called before threads are made; false when not permitted.
bool EnterPrivateMounts();

// `bytes` of reproducible noise; the same seed gives the same bytes.
std::string Noise(size_t bytes, uint64_t seed);
void WriteFileOrDie(const std::string& path, const std::string& contents);

// True as soon as `condition` is, false after `timeout`.
bool Eventually(const std::function<bool()>& condition, std::chrono::milliseconds timeout);

// Runs a program; its exit status, or 128 + the signal.
int RunProgram(const std::vector<std::string>& command);

}  // namespace banyan::lazyfs::testing
