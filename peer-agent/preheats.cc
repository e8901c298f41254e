#include "peer-agent/preheats.h"

#include <chrono>
#include <utility>

#include <spdlog/spdlog.h>

namespace banyan::peer_agent {
namespace {

constexpr std::chrono::milliseconds kReportEvery{900};

}  // namespace

Preheats::~Preheats() { Stop(); }

void Preheats::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Preheats::Take(const proto::tree::PreheatCommand& command, Send send) {
  proto::tree::PreheatReport answer;
  answer.set_id(command.id());
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    const auto key = std::make_pair(command.id(), command.reference());
    const auto known = known_.find(key);
    if (known != known_.end()) {
      answer = known->second;
    } else if (waiting_.size() >= kMaxWaiting) {
      answer.set_ended(true);
      answer.set_error("too many images wait on this node already");
    } else {
      if (known_.size() >= kMaxRemembered) known_.erase(known_.begin());
      known_[key] = answer;
      waiting_.emplace_back(command, send);
      if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
      wake_.notify_all();
    }
  }
  send(std::move(answer));
}

void Preheats::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (stopping_) return;
    const auto [command, send] = waiting_.front();
    waiting_.pop_front();
    lock.unlock();
    proto::tree::PreheatReport report = Bring(command, send);
    lock.lock();
    if (stopping_) return;  // it is told again to the next agent
    known_[{command.id(), command.reference()}] = report;
    lock.unlock();
    send(std::move(report));
    lock.lock();
  }
}

proto::tree::PreheatReport Preheats::Bring(const proto::tree::PreheatCommand& command, const Send& send) {
  proto::tree::PreheatReport report;
  report.set_id(command.id());
  auto reported = std::chrono::steady_clock::time_point();
  const Status status = fetch_(command, [&](uint64_t present, uint64_t total) {
    report.set_present_bytes(present);
    report.set_total_bytes(total);
    const auto now = std::chrono::steady_clock::now();
    if (now - reported >= kReportEvery) {
      reported = now;
      send(report);
    }
    const std::lock_guard lock(mutex_);
    return !stopping_;
  });
  report.set_ended(true);
  if (!status) {
    report.set_error(status.error().message);
    spdlog::warn("preheat {}: {}", command.reference(), status.error().message);
  } else {
    spdlog::info("preheat {}: {} bytes are here", command.reference(), report.present_bytes());
  }
  return report;
}

}  // namespace banyan::peer_agent
