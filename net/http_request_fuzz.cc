// The server's request parser and the client's response parser, fed in pieces whose size the first byte chooses.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "net/http_message.h"

namespace {

constexpr uint32_t kMaxHeaderBytes = 4096;
constexpr uint64_t kMaxBodyBytes = 4096;

// What the connection does: keep what was not consumed, put more behind it.
template <typename Parser>
bool FeedInPieces(Parser& parser, std::string_view bytes, size_t piece) {
  std::string input;
  while (!bytes.empty() && !parser.done()) {
    input += bytes.substr(0, piece);
    bytes.remove_prefix(std::min(piece, bytes.size()));
    const auto consumed = parser.Feed(input);
    if (!consumed) return false;
    if (*consumed > input.size()) std::abort();
    input.erase(0, *consumed);
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t piece = data[0] / 2 + 1;
  if (data[0] % 2 == 0) {
    banyan::net::HttpRequestParser parser(kMaxHeaderBytes, kMaxBodyBytes);
    if (!FeedInPieces(parser, bytes, piece) || !parser.done()) return 0;
    const banyan::net::HttpRequest request = parser.Take();
    if (request.body.size() > kMaxBodyBytes || request.target.size() > kMaxHeaderBytes) std::abort();
    return 0;
  }
  size_t heads = 0;
  size_t body_bytes = 0;
  banyan::net::HttpResponseParser parser(
      kMaxHeaderBytes, false,
      [&](int, const banyan::net::HeaderList&) {
        ++heads;
        return banyan::Status();
      },
      [&](std::span<const std::byte> chunk) {
        if (heads != 1) std::abort();
        body_bytes += chunk.size();
        return banyan::Status();
      });
  if (FeedInPieces(parser, bytes, piece)) (void)parser.FeedEnd();
  if (heads > 1 || body_bytes > bytes.size()) std::abort();
  return 0;
}
