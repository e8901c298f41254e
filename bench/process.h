// What every program here needs of its own process.
#pragma once

#include <errno.h>
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "common/result.h"

namespace banyan::bench {

// The value; or says what failed and ends the process at once, children of a fork included.
template <typename T>
T Must(Result<T> result) {
  if (result) return std::move(*result);
  std::fprintf(stderr, "%s: %s\n", program_invocation_short_name, result.error().message.c_str());
  std::_Exit(1);
}

// Of all threads of this process, user and system.
inline double CpuSeconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace banyan::bench
