// One blob on its way from an upstream through the store to however many ask for it.
//
// Idea: one thread reads the upstream and appends to the store's file; each reader has a position in that file and is
// sent what lies between it and the frontier, by sendfile, whenever the frontier has moved and its last piece is out.
// So a slow reader holds up nobody and costs no memory. Invariant: the blob's last byte (or the end of a body of
// unknown length) is given out only after the digest of the whole was found right; if it is wrong, those who wait for
// the tail are cut, and nobody can take it for whole.
//
// Where the store has no room the flight goes on without it: pieces then wait in a window of bounded size until the
// slowest reader has them, and one that takes nothing for too long is cut.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "common/digest.h"
#include "common/result.h"
#include "mirror/answers.h"
#include "mirror/hooks.h"
#include "mirror/stats.h"
#include "mirror/upstreams.h"
#include "net/http_server.h"
#include "store/node_store.h"

namespace banyan::mirror {

struct BlobTarget {
  std::shared_ptr<Upstream> upstream;
  std::string repository;
  Identity identity;
  Digest digest;
};

class BlobFlight;

// What a flight needs of its surroundings; outlives it.
struct FlightContext {
  store::NodeStore& store;
  Counters& counters;
  const Hooks& hooks;
  // Whether a flight without readers may go on; the second is for when it has ended.
  std::function<bool()> take_orphan;
  std::function<void()> give_orphan;
  // From now on no new reader is to be sent to this flight: its blob is in the store, or it has failed.
  std::function<void(const BlobFlight&)> forget;
};

// Internally synchronised.
class BlobFlight : public std::enable_shared_from_this<BlobFlight> {
 public:
  BlobFlight(FlightContext context, BlobTarget target);
  ~BlobFlight();

  // Answers a GET. `range`: the Range header, or empty. False when the flight is past what the range needs and has not
  // kept it, or has failed: the reply was not touched.
  bool Join(const std::string& range, const std::shared_ptr<net::HttpReply>& reply);
  // The size, if it is known yet.
  std::optional<uint64_t> blob_bytes() const;

  // The fetching thread's: brings the blob, or fails, and ends.
  void Run();
  // In place of Run(), when there is no thread to run it.
  void Refuse();
  // Ends it soon.
  void Stop();

 private:
  struct Reader;
  struct Work;  // what to do for a reader outside the lock
  using ReaderPtr = std::shared_ptr<Reader>;
  enum class Phase { kOpening, kFlowing, kWhole, kFailed };

  Status Fetch();
  Status FetchFromUpstream();
  BlobAsk Ask() const;
  Status Stream(net::OpenedBlob opened);
  Status TakeHead(std::optional<uint64_t> blob_bytes);
  void BeginStoring();
  Status CheckDigest();
  Status TakePiece(std::span<const std::byte> piece);
  Status KeepInWindow(std::span<const std::byte> piece);
  void GoUncached(const Error& why);
  bool ShouldStop();
  void Settle(const Status& status);

  uint64_t FileEnd() const;  // mutex_ held, as for all below
  uint64_t AvailableEnd() const;
  void Resolve(Reader& reader, Work& work) const;
  void ChoosePiece(Reader& reader, Work& work) const;
  bool NextWork(Reader& reader, Work& work);
  void TrimWindow();

  void Do(const ReaderPtr& reader, Work work);
  void Pump(const ReaderPtr& reader);
  void PumpAll();
  void OnWritten(const ReaderPtr& reader, uint64_t bytes, bool alive);
  void Drop(const ReaderPtr& reader);
  void CutSlowest(std::unique_lock<std::mutex>& lock);
  void FetchFarRange(const ReaderPtr& reader, ByteRange range);

  const FlightContext context_;
  const BlobTarget target_;

  // The fetching thread's.
  bool uncached_ = false;
  Sha256 own_hash_;  // when uncached
  bool orphan_ = false;
  bool used_other_ = false;  // bytes came from hooks.open_blob_first

  mutable std::mutex mutex_;
  std::condition_variable window_moved_;
  std::unique_ptr<store::BlobFill> fill_;  // set once, under mutex_; appended to by the fetching thread alone
  Phase phase_ = Phase::kOpening;          // guarded by mutex_, as is all that follows
  bool stop_ = false;
  std::optional<uint64_t> blob_bytes_;
  uint64_t received_ = 0;
  bool windowed_ = false;
  uint64_t window_begin_ = 0;
  std::string window_;
  std::optional<Error> failure_;
  std::set<ReaderPtr> readers_;
};

// The headers of an answer with a blob or a part of it.
HeaderFields BlobHeaders(const Digest& digest);
net::HttpResponse UnsatisfiableRange(uint64_t blob_bytes);

}  // namespace banyan::mirror
