// One browser's live view, as server-sent events (WHATWG HTML, "Server-sent events").
//
// The problem is a client that reads more slowly than the cluster changes. Idea: nothing is queued. What has changed
// is kept by what it is about (a node, a function, a start), the latest state wins, and only when the client has taken
// the last write and the batch's time has come is the next made. So a stream holds at most one message a node,
// whatever the client does; one that takes nothing for `patience` is dropped, and its browser comes again.
//
// Events, in this order in a batch; each carries JSON:
//   functions {reset, functions, gone}               every function that is new or changed
//   nodes     {reset, nodes, gone}     of the whole cluster; only if asked for
//   tree      {reset, function, nodes, gone}       of the one function that was asked for
//   starts    {starts}                               cold starts; only if asked for
//   conversions {reset, proxies, conversions, gone}  of the registry proxies; only if asked for
// `reset`: what was known before is void. "function": null: nobody runs it any more.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/mutex.h"
#include "net/http_server.h"
#include "tree-manager/dashboard/proxy_watch.h"
#include "tree-manager/manager.h"

namespace banyan::tree_manager {

// Internally synchronised.
class EventStream final : public WatchSink, public std::enable_shared_from_this<EventStream> {
 public:
  using Clock = std::chrono::steady_clock;
  struct Options {
    std::string function;  // whose trees; empty: none
    bool nodes = false;
    bool starts = false;
    bool conversions = false;
    std::chrono::milliseconds heartbeat{10'000};  // a comment, when there is nothing to say
    std::chrono::milliseconds patience{30'000};   // with a client that takes nothing
  };

  EventStream(Options options, std::shared_ptr<net::HttpReply> reply);

  // Watches. kResourceExhausted: too many do.
  Status Begin(Manager& manager);
  void Offer(const SharedEvent& event) override;
  // The dashboard's own list of functions: name → JSON, and names that are gone.
  void OfferFunctions(const std::map<std::string, std::string>& functions, const std::vector<std::string>& gone);
  // What the registry proxies do; passed over unless it was asked for.
  void OfferConversions(std::shared_ptr<const ConversionsView> view);
  bool wants_conversions() const { return options_.conversions; }
  // Writes what there is, if the client has taken the last; drops it if that takes too long.
  void Flush(Clock::time_point now);
  // Ends the answer.
  void End();
  // The connection is lost, or given up.
  bool gone() const;
  void Lost();

 private:
  std::string TakePending() BANYAN_REQUIRES(mutex_);
  std::string TakeFunctions() BANYAN_REQUIRES(mutex_);
  std::string TakeNodes() BANYAN_REQUIRES(mutex_);
  std::string TakeTree() BANYAN_REQUIRES(mutex_);
  std::string TakeStarts() BANYAN_REQUIRES(mutex_);
  std::string TakeConversions() BANYAN_REQUIRES(mutex_);
  void Merge(const proto::tree::WatchEvent& event) BANYAN_REQUIRES(mutex_);
  void MergeTree(const proto::tree::TreeChange& tree) BANYAN_REQUIRES(mutex_);
  void Written(bool alive);

  const Options options_;
  const std::shared_ptr<net::HttpReply> reply_;

  mutable Mutex mutex_;
  bool gone_ BANYAN_GUARDED_BY(mutex_) = false;
  bool writing_ BANYAN_GUARDED_BY(mutex_) = false;
  Clock::time_point wrote_ BANYAN_GUARDED_BY(mutex_);

  bool functions_reset_ BANYAN_GUARDED_BY(mutex_) = true;
  std::map<std::string, std::string> functions_ BANYAN_GUARDED_BY(mutex_);
  std::set<std::string> functions_gone_ BANYAN_GUARDED_BY(mutex_);
  bool nodes_reset_ BANYAN_GUARDED_BY(mutex_) = true;
  std::unordered_map<std::string, proto::tree::NodeInfo> nodes_ BANYAN_GUARDED_BY(mutex_);
  std::set<std::string> nodes_gone_ BANYAN_GUARDED_BY(mutex_);
  bool tree_reset_ BANYAN_GUARDED_BY(mutex_) = true;
  bool tree_changed_ BANYAN_GUARDED_BY(mutex_) = false;
  std::optional<proto::tree::FunctionInfo> tree_ BANYAN_GUARDED_BY(mutex_);
  std::unordered_map<std::string, proto::tree::TreeNode> members_ BANYAN_GUARDED_BY(mutex_);
  std::set<std::string> members_gone_ BANYAN_GUARDED_BY(mutex_);
  std::map<std::string, proto::tree::StartReport> starts_ BANYAN_GUARDED_BY(mutex_);
  std::shared_ptr<const ConversionsView> conversions_ BANYAN_GUARDED_BY(mutex_);
  std::shared_ptr<const ConversionsView> told_conversions_ BANYAN_GUARDED_BY(mutex_);
};

}  // namespace banyan::tree_manager
