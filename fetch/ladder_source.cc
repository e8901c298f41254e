#include "fetch/ladder_source.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "fetch/door.h"

namespace banyan::fetch {

// What the ladder and the callbacks of its rungs share. The rungs are destroyed by the ladder's owner, never by a
// callback, which may run on a thread that the rung would wait for.
struct LadderSource::State {
  State(std::vector<std::shared_ptr<ChunkSource>> rungs_in, Timer& timer_in, Options options_in)
      : timer(timer_in), options(options_in), rungs(std::move(rungs_in)), avoid_until(rungs.size()) {}

  Timer& timer;
  const Options options;

  Door door;  // of rungs and timer
  std::mutex mutex;
  std::vector<std::shared_ptr<ChunkSource>> rungs;  // changed only by the destructor, when nobody is inside
  std::vector<Clock::time_point> avoid_until;       // guarded by mutex

  // The rungs in the order in which to ask them now.
  std::vector<size_t> Order() {
    const auto now = timer.Now();
    const std::lock_guard lock(mutex);
    std::vector<size_t> order(rungs.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_partition(order.begin(), order.end(), [&](size_t rung) { return avoid_until[rung] <= now; });
    return order;
  }
  void Avoid(size_t rung) {
    const auto until = timer.Now() + options.avoid_after_bad_bytes;
    const std::lock_guard lock(mutex);
    avoid_until[rung] = until;
  }
};

// One request's way up.
struct LadderSource::Climb {
  std::shared_ptr<State> state;
  ChunkRequest request;
  OnChunk on_chunk;
  std::vector<size_t> order;

  static void Ask(const std::shared_ptr<Climb>& climb, ChunkRange chunks, size_t position);
};

// One rung's answer to some chunks of a request.
struct LadderSource::Step {
  std::shared_ptr<Climb> climb;
  ChunkRange chunks;
  size_t position;  // in the climb's order
  std::mutex mutex;
  uint32_t unanswered = 0;                           // guarded by mutex
  std::vector<std::pair<ChunkIndex, Error>> failed;  // guarded by mutex

  void OnAnswer(ChunkIndex chunk, Result<ChunkBytes> answer);
  void AskOn();
};

void LadderSource::Climb::Ask(const std::shared_ptr<Climb>& climb, ChunkRange chunks, size_t position) {
  State& state = *climb->state;
  ChunkRequest request = climb->request;
  request.chunks = chunks;
  if (request.deadline != Clock::time_point::max()) {
    const auto now = state.timer.Now();
    const auto rungs_left = static_cast<Clock::rep>(climb->order.size() - position);
    request.deadline = now + std::max(request.deadline - now, Clock::duration::zero()) / rungs_left;
  }
  const auto step = std::make_shared<Step>();
  step->climb = climb;
  step->chunks = chunks;
  step->position = position;
  step->unanswered = chunks.size();
  state.rungs[climb->order[position]]->Fetch(std::move(request), [step](ChunkIndex chunk, Result<ChunkBytes> answer) {
    step->OnAnswer(chunk, std::move(answer));
  });
}

void LadderSource::Step::OnAnswer(ChunkIndex chunk, Result<ChunkBytes> answer) {
  const bool good = answer.has_value();
  if (const auto inside = good ? Door::Pass() : climb->state->door.Enter()) {
    const size_t rung = climb->order[position];
    const bool bad = answer.error().code == Code::kDataLoss;
    if (bad) climb->state->Avoid(rung);
    if (climb->request.on_way_failed) climb->request.on_way_failed(climb->state->rungs[rung]->name(), bad);
  }
  bool last = false;
  {
    const std::lock_guard lock(mutex);
    if (!good) failed.emplace_back(chunk, answer.error());
    last = --unanswered == 0;
  }
  if (good) climb->on_chunk(chunk, std::move(answer));
  if (last) AskOn();
}

// All have answered: nobody else touches `failed` any more.
void LadderSource::Step::AskOn() {
  if (failed.empty()) return;
  const bool top = position + 1 == climb->order.size();
  const auto inside = top ? Door::Pass() : climb->state->door.Enter();
  if (!inside) {
    for (auto& [chunk, error] : failed) climb->on_chunk(chunk, Fail(std::move(error)));
    return;
  }
  for (size_t i = 0; i < failed.size();) {
    ChunkRange run{failed[i].first, failed[i].first + 1};
    while (++i < failed.size() && failed[i].first == run.end) ++run.end;
    Climb::Ask(climb, run, position + 1);
  }
}

LadderSource::LadderSource(std::vector<std::shared_ptr<ChunkSource>> rungs, Timer& timer, Options options)
    : state_(std::make_shared<State>(std::move(rungs), timer, options)) {}

LadderSource::~LadderSource() {
  std::vector<std::shared_ptr<ChunkSource>> rungs;  // they answer what is outstanding when they go, outside the lock
  state_->door.Close();
  const std::lock_guard lock(state_->mutex);
  rungs.swap(state_->rungs);
}

void LadderSource::Fetch(ChunkRequest request, OnChunk on_chunk) {
  const auto climb = std::make_shared<Climb>();
  climb->state = state_;
  climb->order = state_->Order();
  climb->on_chunk = std::move(on_chunk);
  const ChunkRange chunks = request.chunks;
  climb->request = std::move(request);
  Climb::Ask(climb, chunks, 0);
}

}  // namespace banyan::fetch
