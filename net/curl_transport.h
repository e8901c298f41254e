// libcurl's multi interface on one thread, as a plain asynchronous HTTP transport: no redirects, no authentication, no
// retries; those belong to the session above it.
//
// Problem: ranges of many chunks must be in flight at once without a thread each, must be cancelled at once, and must
// fail when they stall. Idea: one thread owns the multi handle and everything that hangs on it; other threads only post
// closures. Handlers are called from curl's buffer, on that thread, and never while a lock is held. Invariant: each
// started transfer's OnDone is called exactly once, also when the transport is destroyed.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"
#include "net/header_list.h"

namespace banyan::net {

// A request body that can be sent again: read_at fills a prefix of the buffer from `offset` on (0 bytes: error in
// disguise, since size_bytes says where the end is).
struct UploadBody {
  uint64_t size_bytes = 0;
  std::function<Result<size_t>(uint64_t offset, std::span<std::byte> buffer)> read_at;
};

struct TransferRequest {
  std::string method = "GET";
  std::string url;
  std::vector<std::string> headers;  // "Name: value", without line ends
  std::shared_ptr<const UploadBody> body;
  std::chrono::milliseconds stall_timeout{10000};
};

enum class Take {
  kTaken,  // go on
  kPause,  // nothing was taken; the same bytes come again after Resume()
  kStop,   // end the transfer: it counts as done, without an error
};

enum class TransferEnd {
  kComplete,      // the whole response came, or the handler stopped it
  kConnect,       // no connection (name, refused, timeout)
  kTlsHandshake,  // the peer does not speak TLS, or refused the handshake
  kCertificate,   // the peer's certificate is not trusted
  kCut,           // the connection ended before the response did
  kStalled,       // no byte moved for stall_timeout
  kCancelled,
  kOther,
};

struct TransferResult {
  TransferEnd end = TransferEnd::kOther;
  std::string reason;  // for messages; names neither URL nor headers
};

// Called on the transport's thread only.
class TransferHandler {
 public:
  virtual ~TransferHandler() = default;
  // The final (not 1xx) status and headers.
  virtual void OnHead(int status, const HeaderList& headers) = 0;
  virtual Take OnData(std::span<const std::byte> data) = 0;
  virtual void OnDone(const TransferResult& result) = 0;
};

class CurlTransport {
 public:
  struct Options {
    std::string ca_file;
    std::chrono::milliseconds connect_timeout{5000};
    uint32_t kept_connections = 16;
  };
  using TransferId = uint64_t;

  static Result<std::unique_ptr<CurlTransport>> Create(const Options& options);
  ~CurlTransport();
  CurlTransport(const CurlTransport&) = delete;
  CurlTransport& operator=(const CurlTransport&) = delete;

  // Ends every transfer with kCancelled, runs what was posted, joins the thread. Not from the transport's thread.
  void Shutdown();

  // From any thread: runs `task` on the transport's thread, in order of posting; after Shutdown at once, on the
  // caller's.
  void Post(std::function<void()> task);

  // The rest only on the transport's thread.
  // Never calls the handler before it returns. The handler is kept until OnDone has returned.
  TransferId Start(TransferRequest request, std::shared_ptr<TransferHandler> handler);
  // OnDone comes with kCancelled, after Cancel() returned. Unknown ids are ignored.
  void Cancel(TransferId id);
  void Resume(TransferId id);
  bool stopping() const;

 private:
  struct Loop;
  explicit CurlTransport(std::unique_ptr<Loop> loop);
  std::unique_ptr<Loop> loop_;
};

}  // namespace banyan::net
