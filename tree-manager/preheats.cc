#include "tree-manager/preheats.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace banyan::tree_manager {
namespace {

using proto::tree::NodeInfo;
using proto::tree::NodesReply;
using proto::tree::PreheatRequest;

bool IsHere(const NodeInfo& node) { return node.state() == proto::tree::LIVE || node.state() == proto::tree::DRAINING; }

Result<std::vector<const NodeInfo*>> Named(const PreheatRequest& request, const NodesReply& nodes) {
  std::vector<const NodeInfo*> chosen;
  std::set<std::string> seen;
  for (const std::string& name : request.nodes()) {
    const auto found = std::find_if(nodes.nodes().begin(), nodes.nodes().end(),
                                    [&](const NodeInfo& node) { return node.node() == name && IsHere(node); });
    if (found == nodes.nodes().end()) return Fail(Code::kNotFound, fmt::format("no node '{}' is here", name));
    if (seen.insert(name).second) chosen.push_back(&*found);
  }
  return chosen;
}

// One of each zone in turn, so that a few of them are in different zones.
std::vector<const NodeInfo*> Spread(const std::vector<const NodeInfo*>& nodes) {
  std::map<std::string, std::deque<const NodeInfo*>> zones;
  for (const NodeInfo* node : nodes) zones[node->zone()].push_back(node);
  std::vector<const NodeInfo*> spread;
  while (spread.size() < nodes.size()) {
    for (auto& [zone, left] : zones) {
      if (left.empty()) continue;
      spread.push_back(left.front());
      left.pop_front();
    }
  }
  return spread;
}

Result<std::vector<const NodeInfo*>> Choose(const PreheatRequest& request, const NodesReply& nodes) {
  if (request.nodes_size() > 0) return Named(request, nodes);
  std::vector<const NodeInfo*> chosen;
  for (const NodeInfo& node : nodes.nodes()) {
    if (IsHere(node) && (request.zone().empty() || node.zone() == request.zone())) chosen.push_back(&node);
  }
  chosen = Spread(chosen);
  if (request.count() > 0 && request.count() < chosen.size()) chosen.resize(request.count());
  return chosen;
}

}  // namespace

bool Preheats::Ended(const NodeProgress& node) {
  return node.state() == NodeProgress::DONE || node.state() == NodeProgress::FAILED;
}

// The oldest of those that have ended goes.
Status Preheats::MakeRoom() {
  if (jobs_.size() < kMaxKept) return {};
  const auto old = std::find_if(jobs_.begin(), jobs_.end(), [](const auto& item) { return item.second.running == 0; });
  if (old == jobs_.end()) return Fail(Code::kResourceExhausted, fmt::format("{} are under way already", kMaxKept));
  jobs_.erase(old);
  return {};
}

Result<proto::tree::PreheatReply> Preheats::Begin(const PreheatRequest& request, const NodesReply& nodes, Time now) {
  if (request.reference().empty() || request.reference().size() > kMaxReferenceBytes) {
    return Fail(Code::kInvalidArgument, "no image is named, or by too long a name");
  }
  BANYAN_ASSIGN(const auto chosen, Choose(request, nodes));
  if (chosen.empty()) return Fail(Code::kFailedPrecondition, "no node that is here fits");
  BANYAN_TRY(MakeRoom());

  Job job;
  const uint64_t id = ++last_id_;
  auto command = std::make_shared<proto::tree::ManagerMessage>();
  command->mutable_preheat()->set_id(id);
  command->mutable_preheat()->set_reference(request.reference());
  command->mutable_preheat()->set_plain_http(request.plain_http());
  job.command = std::move(command);
  job.began = now;
  job.running = chosen.size();
  proto::tree::PreheatReply reply;
  reply.set_id(id);
  for (const NodeInfo* node : chosen) {
    job.nodes[node->node()].set_node(node->node());
    untold_[node->node()].push_back(id);
    reply.add_nodes(node->node());
  }
  jobs_.emplace(id, std::move(job));
  return reply;
}

void Preheats::Tell(const std::string& node) {
  std::deque<uint64_t> untold;
  for (const auto& [id, job] : jobs_) {
    const auto found = job.nodes.find(node);
    if (found != job.nodes.end() && !Ended(found->second)) untold.push_back(id);
  }
  if (untold.empty()) {
    untold_.erase(node);
  } else {
    untold_[node] = std::move(untold);
  }
}

std::shared_ptr<const proto::tree::ManagerMessage> Preheats::Next(const std::string& node) {
  const auto untold = untold_.find(node);
  if (untold == untold_.end()) return nullptr;
  std::shared_ptr<const proto::tree::ManagerMessage> command;
  while (command == nullptr && !untold->second.empty()) {
    const auto job = jobs_.find(untold->second.front());
    untold->second.pop_front();
    if (job != jobs_.end()) command = job->second.command;
  }
  if (untold->second.empty()) untold_.erase(untold);
  return command;
}

void Preheats::Report(const std::string& node, const proto::tree::PreheatReport& report, Time now) {
  const auto job = jobs_.find(report.id());
  if (job == jobs_.end()) return;
  const auto found = job->second.nodes.find(node);
  if (found == job->second.nodes.end() || Ended(found->second)) return;
  NodeProgress& progress = found->second;
  progress.set_present_bytes(report.present_bytes());
  progress.set_total_bytes(report.total_bytes());
  progress.set_state(!report.ended()          ? NodeProgress::RUNNING
                     : report.error().empty() ? NodeProgress::DONE
                                              : NodeProgress::FAILED);
  progress.set_error(report.error().substr(0, 1000));
  if (report.ended() && --job->second.running == 0) job->second.ended = now;
}

Result<proto::tree::PreheatProgressReply> Preheats::Progress(uint64_t id, const std::set<std::string>& here,
                                                             Time now) const {
  const auto job = jobs_.find(id);
  if (job == jobs_.end()) return Fail(Code::kNotFound, fmt::format("no preheating {} is known", id));
  const bool ended = job->second.running == 0;
  proto::tree::PreheatProgressReply reply;
  reply.set_id(id);
  reply.set_reference(job->second.command->preheat().reference());
  reply.set_ended(ended);
  const auto took = (ended ? job->second.ended : now) - job->second.began;
  reply.set_took_millis(static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(took).count()));
  for (const auto& [name, progress] : job->second.nodes) {
    auto& node = *reply.add_nodes();
    node = progress;
    node.set_away(!Ended(progress) && !here.contains(name));
  }
  return reply;
}

}  // namespace banyan::tree_manager
