#include "net/tcp_rate.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <array>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "common/unique_fd.h"

namespace banyan::net {
namespace {

using std::chrono::microseconds;

TEST(TcpRate, ASocketThatHasSentHasOne) {
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), length), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  const UniqueFd sender(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::connect(sender.get(), reinterpret_cast<const sockaddr*>(&address), length), 0);
  const UniqueFd receiver(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  std::vector<char> bytes(4 << 20);
  std::thread reader([&receiver] {
    std::vector<char> buffer(64 << 10);
    while (::recv(receiver.get(), buffer.data(), buffer.size(), 0) > 0) continue;
  });
  for (size_t sent = 0; sent < bytes.size();) {
    const ssize_t count = ::send(sender.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (count <= 0) break;
    sent += static_cast<size_t>(count);
  }
  const auto rate = TcpRateOf(sender.get());
  ::shutdown(sender.get(), SHUT_WR);
  reader.join();
  ASSERT_TRUE(rate);
  EXPECT_GT(rate->bytes_per_second, 0U);
  EXPECT_GT(rate->least_round_trip, microseconds(0));
  EXPECT_LT(rate->least_round_trip, std::chrono::seconds(10));
}

TEST(TcpRate, OtherSocketsHaveNone) {
  std::array<int, 2> pair{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
  const UniqueFd one(pair[0]);
  const UniqueFd other(pair[1]);
  EXPECT_FALSE(TcpRateOf(one.get()));
}

TEST(TcpRate, TheSendBufferGrowsWithTheRateAndTheRoundTrip) {
  const microseconds backlog(4000);
  EXPECT_EQ(SendBufferBytes({}, backlog), 512U * 1024);
  EXPECT_EQ(SendBufferBytes({1'000'000, microseconds(200)}, backlog), 128U * 1024);
  EXPECT_EQ(SendBufferBytes({2'500'000, microseconds(200)}, backlog), 250'000U);
  EXPECT_EQ(SendBufferBytes({12'500'000, microseconds(200)}, backlog), 512U * 1024);
  EXPECT_EQ(SendBufferBytes({125'000'000, microseconds(1000)}, backlog), 1'250'000U);
  EXPECT_EQ(SendBufferBytes({1'250'000'000, microseconds(200)}, backlog), 8U * 1024 * 1024);
}

}  // namespace
}  // namespace banyan::net
