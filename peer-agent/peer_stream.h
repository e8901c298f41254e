// One GET to a peer as a blocking stream: for whole blobs, which a thread of the mirror reads. The reader's pace is the
// transfer's: nothing is read ahead of it. A peer that sends next to nothing for some seconds is given up, as a silent
// one is.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/result.h"
#include "common/unique_fd.h"
#include "net/header_list.h"
#include "net/http_message.h"

namespace banyan::peer_agent {

// Externally synchronised.
class PeerStream {
 public:
  struct Request {
    std::string address;  // IPv4 or IPv6
    uint16_t port = 0;
    std::string target;
    std::vector<std::pair<std::string, std::string>> headers;
    std::chrono::milliseconds connect_timeout{800};
    std::chrono::milliseconds stall_timeout{1200};   // without a byte, 102s included
    std::chrono::milliseconds longest_wait{60'000};  // for the answer's head
  };
  using OnHead = std::function<Status(int status, const net::HeaderList&)>;
  using OnInterim = std::function<Status(const net::HeaderList&)>;

  // Blocks until the final head has come and `on_head` has taken it. `on_interim` is called for each 1xx answer. Their
  // errors are returned; else kUnavailable (no connection, a cut one, silence), kDeadlineExceeded (no answer within
  // `longest_wait`), kInvalidArgument (not HTTP).
  static Result<std::unique_ptr<PeerStream>> Open(const Request& request, OnHead on_head, const OnInterim& on_interim);

  // The next bytes of the body; 0: its end, and stays so. Errors as of Open(), but kDeadlineExceeded for silence and
  // for a trickle.
  Result<size_t> Read(std::span<std::byte> buffer);

 private:
  using Clock = std::chrono::steady_clock;

  explicit PeerStream(const Request& request);
  Status Connect(const Request& request);
  Status Send(const std::string& bytes);
  Status Wait(short events, Clock::time_point until);
  Status Receive();
  Status CheckPace(Clock::duration waited, size_t bytes);

  const std::string name_;  // "10.0.0.7:5066", for messages
  const std::chrono::milliseconds stall_timeout_;
  UniqueFd socket_;
  std::vector<char> input_;
  size_t input_used_ = 0;
  std::string body_;  // parsed and not read yet
  size_t body_read_ = 0;
  bool head_done_ = false;
  Clock::duration waited_{};  // for the body, and
  size_t came_ = 0;           // what that brought, since it was looked at last
  std::optional<Error> interim_failure_;
  std::optional<net::HttpResponseParser> parser_;
};

}  // namespace banyan::peer_agent
