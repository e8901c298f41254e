#include "net/tcp_rate.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>

namespace banyan::net {
namespace {

constexpr double kLeastBytes = 512.0 * 1024;
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
  const double bytes = 2 * time.count() * static_cast<double>(rate.bytes_per_second);
  return static_cast<uint32_t>(std::clamp(bytes, kLeastBytes, kMostBytes));
}

}  // namespace banyan::net
