// Every chunk that is wanted and not here, and what is being done about it.
//
//            Want                 Next                Arrived              Finish
//   (none) ────────▶ queued ────────────────▶ sent ────────────▶ decoding ────────▶ (none)
//                      ▲                       │ Failed, or         │ Rejected
//                      └─────── backoff ◀──────┴─ deadline ─────────┘
//
// There is at most one flight a chunk, and whoever wants the chunk joins it; a more urgent reader raises a flight that
// has not been sent. A request that outlives its deadline is given up and its chunks are tried again, but its late
// answer is taken if it comes first. A flight that nobody waits for is dropped when it fails: demand at once, prefetch
// the third time; fill is tried for ever.
//
// A chunk has two forms: its blocks, for this node's readers, and its compressed bytes, for peers that this node relays
// to. Whoever wants a chunk says in which form; it ends when every form that is wanted is here, and goes back into the
// queue when only another one came. Pure: time is passed in, actions are left to the caller.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "common/result.h"
#include "fetch/chunk_source.h"
#include "fetch/deadline_queue.h"
#include "fetch/lazy_layer.h"
#include "fetch/request_planner.h"

namespace banyan::fetch {

struct ChunkKey {
  LayerId layer = 0;
  ChunkIndex chunk = 0;
};

// A set of a chunk's forms.
using Forms = uint8_t;
inline constexpr Forms kAnyForm = 0;  // whichever is cheaper
inline constexpr Forms kBlockForm = 1;
inline constexpr Forms kCompressedForm = 2;

// Externally synchronised.
class FlightTable {
 public:
  struct Options {
    std::array<ClassLimits, kClasses> limits;
    Clock::duration attempt_timeout{};
    Clock::duration stalled_after{};
    uint64_t salt = 0;  // for the jitter of retries
  };

  explicit FlightTable(const Options& options) : options_(options), planner_(options.limits) {}

  // `table` must live until RemoveLayer(), which forgets all of the layer's flights and requests.
  void AddLayer(LayerId layer, const image_format::ChunkTable& table, LanePlan lanes = {});
  void RemoveLayer(LayerId layer);

  // Makes a flight, or joins the one there is. `reader` (0: none) is given back by Finish().
  void Want(const ChunkKey& key, Priority priority, ReadId reader, Forms forms = kBlockForm);
  // The reader no longer waits for this chunk.
  void Leave(const ChunkKey& key, ReadId reader);

  // The next request to send, if one may go. It must be answered chunk by chunk with Arrived() or Failed().
  std::optional<PlannedRequest> Next(Clock::time_point now);
  Clock::time_point DeadlineOf(const PlannedRequest& request, Clock::time_point now) const;

  // A chunk's bytes came. True: the caller checks and stores them, then calls Finish(), or Failed() with the same
  // request. False: nobody wants them any more, or others came first.
  bool Arrived(RequestId request, const ChunkKey& key, Clock::time_point now);
  // The chunk is here (or in memory) in these forms. Returns those who waited for no other. If a form is still wanted,
  // the chunk is queued again.
  std::vector<ReadId> Finish(const ChunkKey& key, Forms here = kBlockForm | kCompressedForm);
  // The same for the readers alone: the flight goes on.
  std::vector<ReadId> TakeReaders(const ChunkKey& key, Forms here);
  // The request's answer for this chunk was an error.
  void Failed(RequestId request, const ChunkKey& key, Error error, Clock::time_point now);
  // What had arrived was bad.
  void Rejected(const ChunkKey& key, Error error, Clock::time_point now);

  // Does what is due: retries, deadlines, stalls. Next() may have something afterwards.
  void Tick(Clock::time_point now);
  Clock::time_point next_event() const { return events_.next(); }

  // Why the chunk has not come yet; null when nothing has failed.
  const Error* LastError(const ChunkKey& key) const;
  Priority PriorityOf(const ChunkKey& key) const;
  // What is wanted of the chunk.
  Forms FormsOf(const ChunkKey& key) const;
  bool Wanted(const ChunkKey& key) const { return Find(key) != nullptr; }
  size_t flights(Priority priority) const { return by_class_[static_cast<size_t>(priority)]; }
  size_t fill_flights(LayerId layer) const;
  size_t requests() const { return requests_.size(); }
  uint64_t retries() const { return retries_; }
  void set_fill_paused(bool paused) { planner_.set_fill_paused(paused); }

 private:
  enum class State : uint8_t { kQueued, kSent, kDecoding, kBackoff };
  enum class EventKind : uint8_t { kRetry, kDeadline, kStall };
  struct Event {
    EventKind kind;
    LayerId layer;
    uint64_t id;  // kRetry: the chunk; else the request
  };
  using Events = DeadlineQueue<Event>;

  struct Reader {
    ReadId id = 0;
    Forms forms = kBlockForm;
  };
  struct Flight {
    State state = State::kQueued;
    Priority priority = Priority::kDemand;
    bool fill = false;        // fill wants it, whoever else does
    bool background = false;  // fill or prefetch wants it
    Forms forms = kAnyForm;   // what these want
    uint32_t failures = 0;
    RequestId request = 0;  // kSent and kDecoding: whose window it is in
    Events::Handle retry;   // kBackoff
    std::optional<Error> last_error;
    std::vector<Reader> readers;
  };
  struct Request {
    PlannedRequest planned;
    uint32_t unanswered = 0;
    Events::Handle deadline;
    Events::Handle stall;
  };
  struct Layer {
    const image_format::ChunkTable* table = nullptr;
    std::unordered_map<ChunkIndex, Flight> flights;
    std::set<RequestId> requests;
    size_t fill_flights = 0;
  };

  Flight* Find(const ChunkKey& key);
  const Flight* Find(const ChunkKey& key) const;
  uint64_t BytesOf(const ChunkKey& key) const;
  void Count(LayerId layer, Priority priority, int change);
  void Erase(const ChunkKey& key);
  static Forms FormsOf(const Flight& flight);
  void SetPriority(const ChunkKey& key, Flight& flight, Priority priority);
  void Raise(const ChunkKey& key, Flight& flight, Priority priority);
  void Answered(RequestId request, Clock::time_point now);
  void EndRequest(RequestId request);
  void GiveUp(RequestId request, Clock::time_point now);
  void BackOff(const ChunkKey& key, Flight& flight, Error error, Clock::time_point now);

  Options options_;
  RequestPlanner planner_;
  Events events_;
  std::unordered_map<LayerId, Layer> layers_;
  std::unordered_map<RequestId, Request> requests_;  // with chunks not answered yet
  std::array<size_t, kClasses> by_class_{};
  uint64_t retries_ = 0;
};

}  // namespace banyan::fetch
