#include "fetch/uplink_gate.h"

#include <algorithm>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace banyan::fetch {

namespace {

using Headers = std::vector<std::pair<std::string, std::string>>;

constexpr int kFirstInterims = 16;  // the first pause, as a part of the interval

class Reply;

}  // namespace

class UplinkGate::Impl : public std::enable_shared_from_this<UplinkGate::Impl> {
 public:
  Impl(const GateOptions& options, Timer& timer)
      : interim_interval_(options.interim_interval), timer_(timer), uplink_(options.uplink) {}

  std::shared_ptr<GatedReply> Wrap(std::shared_ptr<net::HttpReply> reply, Answer answer);
  GateStats stats() const;
  // From now on no timer is set, none that is set does anything, and no answer waits for its turn.
  void Close();

  // The side of the replies; none of these calls is made with a reply's lock held. Add: 0 when closed.
  Uplink::Ticket Add(const std::shared_ptr<Reply>& reply, const Answer& answer);
  void Extend(Uplink::Ticket ticket, uint64_t bytes);
  void Done(Uplink::Ticket ticket, Priority priority, uint64_t bytes);
  void Remove(Uplink::Ticket ticket);
  void CallAfter(std::chrono::milliseconds time, std::function<void()> task);
  // The headers of a 102 that is to be sent now, and counts; nullopt: closed.
  std::optional<Headers> Interim(const Answer& answer, bool first);
  void CountEnd(bool gone);
  std::chrono::milliseconds interim_interval() const { return interim_interval_; }

 private:
  void Pump();
  void PumpAt(Clock::time_point when);

  const std::chrono::milliseconds interim_interval_;
  Timer& timer_;
  mutable std::mutex mutex_;
  bool closed_ = false;  // guarded by mutex_, as is the rest
  Uplink uplink_;
  std::unordered_map<Uplink::Ticket, std::shared_ptr<Reply>> replies_;  // those with a ticket
  Clock::time_point pump_at_ = Clock::time_point::max();                // when the timer will call Pump()
  Timer::Id pump_timer_ = 0;
  GateStats stats_;
};

namespace {

// Part of an answer's body, in the kernel's reach or in memory.
struct Piece {
  net::FileRange file;
  std::string bytes;
  size_t bytes_sent = 0;
  std::function<void(bool)> on_written;

  uint64_t left() const { return bytes.size() - bytes_sent + (file.range.empty() ? 0 : file.range.size()); }
};

// The calls of HttpReply queue up; Granted() takes them on. The ticket is added with the head and removed at the end.
// One grant is out at a time, so the calls of `reply_` come there in order; the lock is held over none of them, nor
// over calls of the gate or of callbacks.
class Reply final : public std::enable_shared_from_this<Reply> {
 public:
  Reply(std::shared_ptr<UplinkGate::Impl> gate, std::shared_ptr<net::HttpReply> reply, UplinkGate::Answer answer)
      : gate_(std::move(gate)), reply_(std::move(reply)), answer_(std::move(answer)) {}
  ~Reply() { Finish(true); }

  void TellWaiting();
  void Send(net::HttpResponse response);
  void SendHead(int status, Headers headers, std::optional<uint64_t> body_bytes);
  void Enqueue(Piece piece);
  void End();
  void Abort();
  // Whoever was to answer has gone.
  void Abandon();
  // No grants come any more.
  void Cut() { Finish(true); }

  // The gate's: `bytes` may go now.
  void Granted(Uplink::Ticket ticket, uint64_t bytes);

 private:
  struct Head {
    int status = 200;
    Headers headers;
    std::optional<uint64_t> body_bytes;
  };

  struct Step {  // one call of reply_->Write or WriteFile
    std::string bytes;
    net::FileRange file;
  };

  Step TakeStep(uint64_t& left, std::vector<std::function<void(bool)>>& whole);
  void Tick(std::chrono::milliseconds passed);
  void Written(Uplink::Ticket ticket, uint64_t bytes, const std::vector<std::function<void(bool)>>& whole, bool alive);
  void EndIfDone();
  void Finish(bool gone);

  const std::shared_ptr<UplinkGate::Impl> gate_;
  const std::shared_ptr<net::HttpReply> reply_;
  const UplinkGate::Answer answer_;

  std::mutex mutex_;
  std::optional<Head> head_;  // guarded by mutex_, as is all below: waits for the first grant
  bool answered_ = false;     // Send() or SendHead() was called
  bool head_out_ = false;
  bool ended_ = false;
  bool waiting_told_ = false;
  bool over_ = false;
  Uplink::Ticket ticket_ = 0;
  std::deque<Piece> pieces_;
  bool granted_ = false;  // bytes are with reply_
};

// What the maker of the answer holds: without it, an answer that has not ended never will.
class Handle final : public GatedReply {
 public:
  explicit Handle(std::shared_ptr<Reply> reply) : reply_(std::move(reply)) {}
  ~Handle() override { reply_->Abandon(); }

  void TellWaiting() override { reply_->TellWaiting(); }
  void Send(net::HttpResponse response) override { reply_->Send(std::move(response)); }
  void SendInterim(int, Headers) override {}  // ours say more
  void SendHead(int status, Headers headers, std::optional<uint64_t> body_bytes) override {
    reply_->SendHead(status, std::move(headers), body_bytes);
  }
  void Write(std::string bytes, std::function<void(bool)> on_written) override {
    Piece piece;
    piece.bytes = std::move(bytes);
    piece.on_written = std::move(on_written);
    reply_->Enqueue(std::move(piece));
  }
  void WriteFile(net::FileRange file, std::function<void(bool)> on_written) override {
    Piece piece;
    piece.file = std::move(file);
    piece.on_written = std::move(on_written);
    reply_->Enqueue(std::move(piece));
  }
  void End() override { reply_->End(); }
  void Abort() override { reply_->Abort(); }

 private:
  const std::shared_ptr<Reply> reply_;
};

// ---- the calls of HttpReply

void Reply::TellWaiting() {
  {
    const std::lock_guard lock(mutex_);
    if (head_out_ || over_ || std::exchange(waiting_told_, true)) return;
  }
  reply_->OnGone([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->Finish(true);
  });
  Tick(std::chrono::milliseconds(0));
}

// Often at first: whom this node waits for changes as it hears of it, and a loop ends once all in it know.
void Reply::Tick(std::chrono::milliseconds passed) {
  {
    const std::lock_guard lock(mutex_);
    if (head_out_ || over_) return;
  }
  std::optional<Headers> headers = gate_->Interim(answer_, passed.count() == 0);
  if (!headers) return;
  reply_->SendInterim(102, std::move(*headers));
  const auto interval = gate_->interim_interval();
  const auto pause = std::clamp(passed, interval / kFirstInterims, interval);
  gate_->CallAfter(pause, [weak = weak_from_this(), then = passed + pause] {
    if (const auto self = weak.lock()) self->Tick(then);
  });
}

void Reply::Send(net::HttpResponse response) {
  auto* file = std::get_if<net::FileRange>(&response.body);
  if (file != nullptr && !file->range.empty() && !answer_.head_only) {
    net::FileRange body = std::move(*file);
    SendHead(response.status, std::move(response.headers), body.range.size());
    Piece piece;
    piece.file = std::move(body);
    Enqueue(std::move(piece));
    return End();
  }
  // A few bytes, of an error most likely: not worth a place in the queue.
  {
    const std::lock_guard lock(mutex_);
    if (over_ || std::exchange(answered_, true)) return;
    head_out_ = ended_ = true;
  }
  reply_->Send(std::move(response));
  Finish(false);
}

void Reply::SendHead(int status, Headers headers, std::optional<uint64_t> body_bytes) {
  {
    const std::lock_guard lock(mutex_);
    if (over_ || std::exchange(answered_, true)) return;
    head_ = Head{status, std::move(headers), body_bytes};
  }
  const Uplink::Ticket ticket = gate_->Add(shared_from_this(), answer_);
  {
    const std::lock_guard lock(mutex_);
    ticket_ = ticket;
    if (!over_) return;
  }
  gate_->Remove(ticket);
}

void Reply::Enqueue(Piece piece) {
  const uint64_t bytes = piece.left();
  Uplink::Ticket ticket = 0;
  bool refused = false;
  {
    const std::lock_guard lock(mutex_);
    refused = over_ || ended_ || ticket_ == 0;
    if (!refused && bytes > 0) pieces_.push_back(std::move(piece));
    ticket = ticket_;
  }
  if (!refused && bytes > 0) return gate_->Extend(ticket, bytes);
  if (piece.on_written) piece.on_written(!refused);
}

void Reply::End() {
  {
    const std::lock_guard lock(mutex_);
    if (over_ || std::exchange(ended_, true)) return;
  }
  EndIfDone();
}

void Reply::Abort() {
  reply_->Abort();
  Finish(true);
}

void Reply::Abandon() {
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
  }
  Finish(true);
}

// ---- grants

Reply::Step Reply::TakeStep(uint64_t& left, std::vector<std::function<void(bool)>>& whole) {
  Piece& piece = pieces_.front();
  const uint64_t take = std::min(left, piece.left());
  left -= take;
  Step step;
  if (piece.bytes_sent < piece.bytes.size()) {
    step.bytes = piece.bytes.substr(piece.bytes_sent, take);
    piece.bytes_sent += take;
  } else {
    step.file = piece.file;
    step.file.range.end = step.file.range.begin + take;
    piece.file.range.begin += take;
  }
  if (piece.left() > 0) return step;
  if (piece.on_written) whole.push_back(std::move(piece.on_written));
  pieces_.pop_front();
  return step;
}

void Reply::Granted(Uplink::Ticket ticket, uint64_t bytes) {
  std::optional<Head> head;
  std::vector<Step> steps;
  std::vector<std::function<void(bool)>> whole;  // of the pieces that this grant brings to their end
  {
    const std::lock_guard lock(mutex_);
    if (over_) return;
    head.swap(head_);
    head_out_ = granted_ = true;
    for (uint64_t left = bytes; left > 0 && !pieces_.empty();) steps.push_back(TakeStep(left, whole));
  }
  if (head) reply_->SendHead(head->status, std::move(head->headers), head->body_bytes);
  for (size_t i = 0; i < steps.size(); ++i) {
    std::function<void(bool)> on_written;
    if (i + 1 == steps.size()) {
      on_written = [self = shared_from_this(), ticket, bytes, whole = std::move(whole)](bool alive) {
        self->Written(ticket, bytes, whole, alive);
      };
    }
    if (steps[i].file.range.empty()) {
      reply_->Write(std::move(steps[i].bytes), std::move(on_written));
    } else {
      reply_->WriteFile(std::move(steps[i].file), std::move(on_written));
    }
  }
}

void Reply::Written(Uplink::Ticket ticket, uint64_t bytes, const std::vector<std::function<void(bool)>>& whole,
                    bool alive) {
  {
    const std::lock_guard lock(mutex_);
    granted_ = false;
  }
  if (alive) gate_->Done(ticket, answer_.priority, bytes);
  for (const auto& on_written : whole) on_written(alive);
  if (!alive) return Finish(true);
  EndIfDone();
}

void Reply::EndIfDone() {
  std::optional<Head> head;
  {
    const std::lock_guard lock(mutex_);
    if (over_ || !ended_ || granted_ || !pieces_.empty()) return;
    head.swap(head_);  // still here if the body has no bytes
    head_out_ = true;
  }
  if (head) reply_->SendHead(head->status, std::move(head->headers), head->body_bytes);
  reply_->End();
  Finish(false);
}

void Reply::Finish(bool gone) {
  std::deque<Piece> pieces;
  Uplink::Ticket ticket = 0;
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(over_, true)) return;
    pieces.swap(pieces_);
    ticket = ticket_;
  }
  if (ticket != 0) gate_->Remove(ticket);
  gate_->CountEnd(gone);
  for (Piece& piece : pieces) {
    if (piece.on_written) piece.on_written(false);
  }
  if (answer_.over) answer_.over(gone);
}

}  // namespace

// ---- the gate

std::shared_ptr<GatedReply> UplinkGate::Impl::Wrap(std::shared_ptr<net::HttpReply> reply, Answer answer) {
  {
    const std::lock_guard lock(mutex_);
    ++stats_.open;
  }
  return std::make_shared<Handle>(std::make_shared<Reply>(shared_from_this(), std::move(reply), std::move(answer)));
}

Uplink::Ticket UplinkGate::Impl::Add(const std::shared_ptr<Reply>& reply, const Answer& answer) {
  const std::lock_guard lock(mutex_);
  if (closed_) return 0;
  const Uplink::Ticket ticket = uplink_.Add(answer.child, answer.function, answer.priority, 0, false, timer_.Now());
  replies_.emplace(ticket, reply);
  return ticket;
}

void UplinkGate::Impl::Extend(Uplink::Ticket ticket, uint64_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    uplink_.Extend(ticket, bytes, timer_.Now());
  }
  Pump();
}

void UplinkGate::Impl::Done(Uplink::Ticket ticket, Priority priority, uint64_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    uplink_.Done(ticket, timer_.Now());
    stats_.sent_bytes[static_cast<size_t>(priority)] += bytes;
  }
  Pump();
}

void UplinkGate::Impl::Remove(Uplink::Ticket ticket) {
  std::shared_ptr<Reply> last;  // let go of after the lock
  {
    const std::lock_guard lock(mutex_);
    uplink_.Remove(ticket, timer_.Now());
    const auto found = replies_.find(ticket);
    if (found != replies_.end()) {
      last = std::move(found->second);
      replies_.erase(found);
    }
  }
  Pump();
}

void UplinkGate::Impl::Pump() {
  std::vector<std::pair<std::shared_ptr<Reply>, Uplink::Grant>> grants;
  {
    const std::lock_guard lock(mutex_);
    const Clock::time_point now = timer_.Now();
    while (true) {
      const Uplink::Turn turn = uplink_.Next(now);
      if (turn.grant) {
        grants.emplace_back(replies_.at(turn.grant->ticket), *turn.grant);
        continue;
      }
      PumpAt(turn.ask_again);
      break;
    }
  }
  for (const auto& [reply, grant] : grants) reply->Granted(grant.ticket, grant.bytes);
}

// mutex_ held.
void UplinkGate::Impl::PumpAt(Clock::time_point when) {
  if (when >= pump_at_ || closed_) return;
  timer_.Cancel(pump_timer_);
  pump_at_ = when;
  pump_timer_ = timer_.At(when, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    {
      const std::lock_guard lock(self->mutex_);
      self->pump_at_ = Clock::time_point::max();
    }
    self->Pump();
  });
}

void UplinkGate::Impl::CallAfter(std::chrono::milliseconds time, std::function<void()> task) {
  const std::lock_guard lock(mutex_);
  if (!closed_) timer_.At(timer_.Now() + time, std::move(task));
}

std::optional<Headers> UplinkGate::Impl::Interim(const Answer& answer, bool first) {
  const std::lock_guard lock(mutex_);
  if (closed_) return std::nullopt;
  if (first) ++stats_.waited;
  ++stats_.interims;
  Headers headers;
  if (answer.via) {
    if (std::string via = answer.via(); !via.empty()) headers.emplace_back("Via", std::move(via));
  }
  return headers;
}

void UplinkGate::Impl::CountEnd(bool gone) {
  const std::lock_guard lock(mutex_);
  --stats_.open;
  if (gone) ++stats_.cut;
}

GateStats UplinkGate::Impl::stats() const {
  const std::lock_guard lock(mutex_);
  GateStats stats = stats_;
  const Clock::time_point now = timer_.Now();
  stats.bytes_per_second = uplink_.bytes_per_second(now);
  stats.full = uplink_.full(now);
  return stats;
}

void UplinkGate::Impl::Close() {
  std::unordered_map<Uplink::Ticket, std::shared_ptr<Reply>> left;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    left.swap(replies_);
    for (const auto& [ticket, reply] : left) uplink_.Remove(ticket, timer_.Now());
  }
  for (const auto& [ticket, reply] : left) reply->Cut();
}

UplinkGate::UplinkGate(const GateOptions& options, Timer& timer) : impl_(std::make_shared<Impl>(options, timer)) {}

UplinkGate::~UplinkGate() { Close(); }

void UplinkGate::Close() { impl_->Close(); }

std::shared_ptr<GatedReply> UplinkGate::Wrap(std::shared_ptr<net::HttpReply> reply, Answer answer) {
  return impl_->Wrap(std::move(reply), std::move(answer));
}

GateStats UplinkGate::stats() const { return impl_->stats(); }

}  // namespace banyan::fetch
