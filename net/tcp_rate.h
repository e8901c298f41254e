// What the kernel has measured of a TCP connection. On its own because <linux/tcp.h> and <netinet/tcp.h> exclude each
// other and only the first has these fields.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

namespace banyan::net {

struct TcpRate {
  uint64_t bytes_per_second = 0;                 // of the last round trips; 0: nothing has been acknowledged yet
  std::chrono::microseconds least_round_trip{};  // of the last minutes
};

// None: not a TCP socket.
std::optional<TcpRate> TcpRateOf(int socket);

// The send buffer that holds what goes at that rate in `backlog` and a round trip, twice, so that the next bytes are
// there before the last are acknowledged; at least what goes in 0.1 s, of that 128 to 512 KiB; at most 8 MiB. A rate of
// 0: 512 KiB.
uint32_t SendBufferBytes(const TcpRate& rate, std::chrono::microseconds backlog);

}  // namespace banyan::net
