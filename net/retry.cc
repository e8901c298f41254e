#include "net/retry.h"

#include <algorithm>
#include <random>
#include <thread>

#include "common/log.h"

namespace banyan::net {

Attempt Attempt::Of(const RegistryOutcome& outcome, bool restartable) {
  const bool lost_session = restartable && (outcome.http_status == 404 || outcome.http_status == 416);
  return {outcome.status, !outcome.status && (outcome.transient || lost_session), outcome.retry_after};
}

std::chrono::milliseconds Backoff(uint32_t attempt) {
  thread_local std::minstd_rand random(std::random_device{}());
  const double base = std::min(200.0 * static_cast<double>(1u << std::min(attempt - 1, 10u)), 10000.0);
  return std::chrono::milliseconds(static_cast<int64_t>(base * std::uniform_real_distribution(0.5, 1.5)(random)));
}

Status Retry(uint32_t attempts, const std::function<Attempt()>& attempt) {
  for (uint32_t number = 1;; ++number) {
    Attempt result = attempt();
    if (result.status || !result.transient || number >= attempts) return result.status;
    std::chrono::milliseconds pause = Backoff(number);
    if (result.retry_after) pause = std::max(pause, std::chrono::milliseconds(*result.retry_after));
    spdlog::debug("{}; trying again in {} ms", result.status.error().message, pause.count());
    std::this_thread::sleep_for(pause);
  }
}

}  // namespace banyan::net
