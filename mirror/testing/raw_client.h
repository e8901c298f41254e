// A client that sees an answer as the wire has it: status, headers, and whether the body came whole. For tests; blocks.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/unique_fd.h"

namespace banyan::mirror::testing {

struct Answer {
  int status = 0;                              // 0: none came
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
  bool whole = false;  // the body has its announced length, or its last chunk came

  // Empty when absent.
  std::string Header(const std::string& name) const;
};

// One connection, one request.
class Connection {
 public:
  explicit Connection(uint16_t port);
  // `headers`: lines that end with CRLF.
  void Send(const std::string& method, const std::string& target, const std::string& headers);
  Answer ReadHead();
  // At most `limit` bytes of the body as it is on the wire; less at its end.
  std::string ReadBody(size_t limit);
  // Reads as much and throws it away; how much that was.
  uint64_t SkipBody(uint64_t limit);
  // Whether the next bytes are these; holds few of them at a time.
  bool BodyIs(std::string_view expected);

 private:
  bool Receive();

  UniqueFd fd_;
  std::string input_;
  std::vector<char> buffer_ = std::vector<char>(256 * 1024);
};

Answer Ask(uint16_t port, const std::string& method, const std::string& target, const std::string& headers);

}  // namespace banyan::mirror::testing
