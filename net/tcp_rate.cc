#include "net/tcp_rate.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>

namespace banyan::net {
namespace {

// A process that shares few processors with many may not get to refill a buffer for so long; but what lies in the
// buffer of a slow connection is late for everybody below.
constexpr double kLeastSeconds = 0.1;
constexpr double kLeastBytes = 128.0 * 1024;
constexpr double kUsualBytes = 512.0 * 1024;  // enough, unless the path needs more
constexpr double kMostBytes = 8.0 * 1024 * 1024;

}  // namespace

std::optional<TcpRate> TcpRateOf(int socket) {
  tcp_info info{};
  socklen_t length = sizeof(info);
  if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return std::nullopt;
  return TcpRate{info.tcpi_delivery_rate, std::chrono::microseconds(info.tcpi_min_rtt)};
}

uint32_t SendBufferBytes(const TcpRate& rate, std::chrono::microseconds backlog) {
  const std::chrono::duration<double> time = backlog + rate.least_round_trip;
  const auto per_second = static_cast<double>(rate.bytes_per_second);
  const double least = per_second == 0 ? kUsualBytes : std::clamp(kLeastSeconds * per_second, kLeastBytes, kUsualBytes);
  return static_cast<uint32_t>(std::clamp(2 * time.count() * per_second, least, kMostBytes));
}

}  // namespace banyan::net
