// Preheating: images that nodes have been told to bring before anyone starts them, and how far they are.
//
// A node is told once a session, and tells how far it is about once a second; one whose session breaks off goes on, and
// is told again when it comes back (an agent does not begin twice what is under way, and a restarted one begins anew).
// Kept in memory only: a restarted manager knows of none, while the nodes go on.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "common/result.h"
#include "proto/tree.pb.h"
#include "tree-manager/membership.h"

namespace banyan::tree_manager {

// Externally synchronised.
class Preheats {
 public:
  static constexpr size_t kMaxKept = 64;
  static constexpr size_t kMaxReferenceBytes = 4096;

  // kInvalidArgument: no reference, or too long a one. kNotFound: a named node is not among `nodes`, or not live.
  // kFailedPrecondition: no live node fits. kResourceExhausted: kMaxKept are under way.
  Result<proto::tree::PreheatReply> Begin(const proto::tree::PreheatRequest& request,
                                          const proto::tree::NodesReply& nodes, Time now);
  // The node has begun a session.
  void Tell(const std::string& node);
  // What it is to be told now; null: nothing.
  std::shared_ptr<const proto::tree::ManagerMessage> Next(const std::string& node);
  // Reports of what it was not told are passed over.
  void Report(const std::string& node, const proto::tree::PreheatReport& report, Time now);
  // `here`: the nodes in session. kNotFound.
  Result<proto::tree::PreheatProgressReply> Progress(uint64_t id, const std::set<std::string>& here, Time now) const;

 private:
  using NodeProgress = proto::tree::PreheatProgressReply::Node;
  struct Job {
    std::shared_ptr<const proto::tree::ManagerMessage> command;
    std::map<std::string, NodeProgress> nodes;
    size_t running = 0;
    Time began;
    Time ended;
  };

  static bool Ended(const NodeProgress& node);
  Status MakeRoom();

  uint64_t last_id_ = 0;
  std::map<uint64_t, Job> jobs_;
  std::map<std::string, std::deque<uint64_t>> untold_;  // by node
};

}  // namespace banyan::tree_manager
