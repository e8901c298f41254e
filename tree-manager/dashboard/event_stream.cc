#include "tree-manager/dashboard/event_stream.h"

#include <utility>

#include <fmt/format.h>

#include "tree-manager/dashboard/view_json.h"

namespace banyan::tree_manager {
namespace {

using nlohmann::json;
using proto::tree::WatchEvent;

// No function has a control in its name.
constexpr const char* kNoFunction = "\n";

std::string Event(std::string_view name, std::string_view data) {
  return fmt::format("event: {}\ndata: {}\n\n", name, data);
}

// The latest word on `key` is that it is there, or that it is gone.
template <typename Present, typename Gone, typename Value>
void Set(Present& present, Gone& gone, const std::string& key, const Value& value) {
  gone.erase(key);
  present[key] = value;
}
template <typename Present, typename Gone>
void Remove(Present& present, Gone& gone, const std::string& key) {
  present.erase(key);
  gone.insert(key);
}

template <typename Present>
json TakeList(Present& present) {
  json list = json::array();
  for (const auto& [key, value] : present) list.push_back(ToJson(value));
  present.clear();
  return list;
}

}  // namespace

EventStream::EventStream(Options options, std::shared_ptr<net::HttpReply> reply)
    : options_(std::move(options)), reply_(std::move(reply)), wrote_(Clock::now()) {}

Status EventStream::Begin(Manager& manager) {
  MutexLock lock(mutex_);  // what changes meanwhile waits behind the first state
  BANYAN_ASSIGN(const auto state,
                manager.Watch(shared_from_this(), options_.function.empty() ? kNoFunction : options_.function));
  for (const SharedEvent& event : state) Merge(*event);
  tree_changed_ = true;
  return {};
}

void EventStream::Offer(const SharedEvent& event) {
  MutexLock lock(mutex_);
  if (!gone_) Merge(*event);
}

void EventStream::Merge(const WatchEvent& event) {
  switch (event.event_case()) {
    case WatchEvent::kNode:
      if (options_.nodes) Set(nodes_, nodes_gone_, event.node().node(), event.node());
      break;
    case WatchEvent::kNodeGone:
      if (options_.nodes) Remove(nodes_, nodes_gone_, event.node_gone());
      break;
    case WatchEvent::kTree:
      MergeTree(event.tree());
      break;
    case WatchEvent::kFunctionGone:
      tree_changed_ = tree_reset_ = true;
      tree_.reset();
      members_.clear();
      members_gone_.clear();
      break;
    case WatchEvent::kStart:
      if (!options_.starts) break;
      starts_[fmt::format("{}\n{}\n{}", event.start().began_unix_micros(), event.start().node(),
                          event.start().function())] = event.start();
      if (starts_.size() > StartBook::kKept) starts_.erase(starts_.begin());
      break;
    case WatchEvent::kSynced:
    case WatchEvent::EVENT_NOT_SET:
      break;
  }
}

// A watch of one function brings no others.
void EventStream::MergeTree(const proto::tree::TreeChange& tree) {
  tree_changed_ = true;
  tree_ = tree.function();
  for (const std::string& name : tree.gone()) Remove(members_, members_gone_, name);
  for (const auto& node : tree.nodes()) Set(members_, members_gone_, node.node(), node);
}

void EventStream::OfferFunctions(const std::map<std::string, std::string>& functions,
                                 const std::vector<std::string>& gone) {
  MutexLock lock(mutex_);
  if (gone_) return;
  for (const std::string& name : gone) Remove(functions_, functions_gone_, name);
  for (const auto& [name, text] : functions) Set(functions_, functions_gone_, name, text);
}

std::string EventStream::TakeFunctions() {
  if (!functions_reset_ && functions_.empty() && functions_gone_.empty()) return {};
  std::string list;
  for (const auto& [name, text] : functions_) list += (list.empty() ? "" : ",") + text;
  functions_.clear();
  return Event("functions",
               fmt::format(R"({{"reset":{},"functions":[{}],"gone":{}}})", std::exchange(functions_reset_, false), list,
                           Dump(std::exchange(functions_gone_, {}))));
}

std::string EventStream::TakeNodes() {
  if (!options_.nodes || (!nodes_reset_ && nodes_.empty() && nodes_gone_.empty())) return {};
  return Event("nodes", Dump({{"reset", std::exchange(nodes_reset_, false)},
                              {"nodes", TakeList(nodes_)},
                              {"gone", std::exchange(nodes_gone_, {})}}));
}

std::string EventStream::TakeTree() {
  if (options_.function.empty() || !std::exchange(tree_changed_, false)) return {};
  return Event("tree", Dump({{"reset", std::exchange(tree_reset_, false)},
                             {"function", tree_ ? ToJson(*tree_) : json(nullptr)},
                             {"nodes", TakeList(members_)},
                             {"gone", std::exchange(members_gone_, {})}}));
}

std::string EventStream::TakeStarts() {
  if (starts_.empty()) return {};
  return Event("starts", Dump({{"starts", TakeList(starts_)}}));
}

void EventStream::OfferConversions(std::shared_ptr<const ConversionsView> view) {
  MutexLock lock(mutex_);
  if (options_.conversions) conversions_ = std::move(view);
}

// What differs from the view that was told last.
std::string EventStream::TakeConversions() {
  const auto told = std::exchange(told_conversions_, conversions_);
  if (told == conversions_) return {};
  std::string list;
  for (const auto& [key, text] : conversions_->conversions) {
    if (told) {
      const auto known = told->conversions.find(key);
      if (known != told->conversions.end() && known->second == text) continue;
    }
    list += (list.empty() ? "" : ",") + text;
  }
  json gone = json::array();
  if (told) {
    for (const auto& [key, text] : told->conversions) {
      if (!conversions_->conversions.contains(key)) gone.push_back(key);
    }
    if (list.empty() && gone.empty() && told->proxies == conversions_->proxies) return {};
  }
  return Event("conversions", fmt::format(R"({{"reset":{},"proxies":{},"conversions":[{}],"gone":{}}})", !told,
                                          conversions_->proxies, list, Dump(gone)));
}

std::string EventStream::TakePending() {
  return TakeFunctions() + TakeNodes() + TakeTree() + TakeStarts() + TakeConversions();
}

void EventStream::Flush(Clock::time_point now) {
  MutexLock lock(mutex_);
  if (gone_) return;
  if (writing_) {
    if (now - wrote_ < options_.patience) return;
    gone_ = true;
    lock.Unlock();
    reply_->Abort();
    return;
  }
  std::string bytes = TakePending();
  if (bytes.empty() && now - wrote_ >= options_.heartbeat) bytes = ": beat\n\n";
  if (bytes.empty()) return;
  writing_ = true;
  wrote_ = now;
  lock.Unlock();
  reply_->Write(std::move(bytes), [self = shared_from_this()](bool alive) { self->Written(alive); });
}

void EventStream::Written(bool alive) {
  MutexLock lock(mutex_);
  writing_ = false;
  gone_ = gone_ || !alive;
}

void EventStream::End() {
  {
    MutexLock lock(mutex_);
    if (std::exchange(gone_, true)) return;
  }
  reply_->End();
}

void EventStream::Lost() {
  MutexLock lock(mutex_);
  gone_ = true;
}

bool EventStream::gone() const {
  MutexLock lock(mutex_);
  return gone_;
}

}  // namespace banyan::tree_manager
