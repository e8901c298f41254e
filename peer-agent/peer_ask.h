// What a peer's request says, read out of its headers (docs/protocol.md). Pure; any bytes give an ask or a refusal.
#pragma once

#include <string>
#include <string_view>

#include "common/digest.h"
#include "fetch/chunk_source.h"
#include "net/http_message.h"

namespace banyan::peer_agent {

struct PeerAsk {
  Digest blob;
  std::string child;     // what the asking node calls itself; "-" if it does not
  std::string function;  // "" if it names none
  fetch::Priority priority = fetch::Priority::kPrefetch;
  bool head = false;
  bool only_if_cached = false;
  bool recheck = false;  // the child found bytes bad that this node sent: look at what is on the disk
  std::string range;     // the Range header
  // Of the form "bytes=a-b". Whole blobs are asked for without, or from an offset to the end.
  bool chunks = false;
};

// A status to refuse a request with.
struct AskRefusal {
  int status = 400;
  std::string message;
};

tl::expected<PeerAsk, AskRefusal> ParsePeerAsk(const net::HttpRequest& request);

// Whether `authorization` is "Bearer <token>"; takes as long whatever part of it is right. An empty token is never
// right.
bool HasToken(std::string_view authorization, std::string_view token);

}  // namespace banyan::peer_agent
