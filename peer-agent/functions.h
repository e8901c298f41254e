// The functions whose trees this node is in: what the tree-manager has assigned, what peers may see, what starts touch.
//
// A function is joined when an image is resolved, before its map is fetched, so that the map comes by tree as well. Its
// layers are held from then on, mounted or not, since children may ask for them. The manager ends a membership that is
// not used for long; the next use joins again. Assignments are kept on disk: a restarted agent goes on with its
// parents, whether a manager answers or not. Only assignments that are newer, by (epoch, version), are obeyed.
// DESIGN.md §7.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "fetch/routes.h"
#include "fetch/scheduler.h"
#include "image-format/image_map.h"
#include "peer-agent/layer_table.h"
#include "peer-agent/peer_blobs.h"
#include "peer-agent/peer_server.h"
#include "peer-agent/registries.h"
#include "proto/tree.pb.h"

namespace banyan::peer_agent {

// Internally synchronised.
class Functions final : public PeerCatalog {
 public:
  // Passes a message on to the manager, or drops it when there is no session (a new one begins with Joins()). Called
  // under a lock: it must only queue.
  using Send = std::function<void(proto::tree::NodeMessage)>;

  // `state_file`: where assignments are kept. `blobs` must outlive it.
  Functions(std::string node, std::string state_file, BlobFunctions& blobs, Send send);
  ~Functions() override;

  // What was assigned before a restart; damaged: none. Those that no image is added for soon are left.
  void Load();
  // From here on layers are held.
  void Attach(LayerTable& layers, fetch::Scheduler& scheduler);
  // Lets all layers go and joins nothing any more.
  void Detach();

  // The node uses the function: it joins, unless it is in already. `reference`: where its blobs come from.
  void Join(const std::string& function, const std::string& reference);
  // Blocks until there are routes; false after `timeout`.
  bool WaitForRoutes(const std::string& function, std::chrono::milliseconds timeout);
  // Blocks until the parents have not changed for `quiet`, or `most` is over: in a burst of joins the first ones do
  // not last.
  void WaitUntilSettled(const std::string& function, std::chrono::milliseconds quiet, std::chrono::milliseconds most);
  // The image's parts, once its map is here. Does nothing when the function is not joined.
  void AddImage(const std::string& function, const image_format::ImageMap& map, const Origins& origins);
  // A start of it begins: first touches are reported for a while, and the profile is prefetched.
  void Started(const std::string& function);
  // Leaves it; for images that are dropped. Unknown ones are ignored.
  void Leave(const std::string& function);
  void LeaveAll();

  // Null: no peers. A use.
  std::shared_ptr<const fetch::Routes> RoutesOf(const std::string& function);
  // Of the first function with routes that has the layer.
  std::shared_ptr<const fetch::Routes> RoutesOfLayer(const Digest& blob);
  // The first function that has the layer; empty: none.
  std::string FunctionOfLayer(const Digest& blob) const;
  // Where the function's blobs come from; empty when it is not joined.
  std::string ReferenceOf(const std::string& function);

  // The manager's word.
  void Apply(const proto::tree::Assignments& assignments);
  void Apply(const proto::tree::Profile& profile);
  void Apply(const proto::tree::Holders& holders);
  // The switches of the fleet and of this node.
  void SetFleetSwitch(bool on);
  void SetNodeSwitch(bool on);
  bool peer_to_peer() const;
  // Whether Save() has something to write.
  bool dirty() const;

  // For the session: all memberships; what has changed since the last call.
  std::vector<proto::tree::Join> Joins();
  std::vector<proto::tree::Holding> TakeHoldings();
  // Reports first touches, refreshes what is in use, forgets what was not used again. Touches no disk. Returns when it
  // is to be called next, unless on_due says so before.
  std::chrono::steady_clock::time_point Tick();
  // Writes the state file if it is out of date. Blocks until it is on stable storage; one caller at a time.
  void Save();

  bool IsJoined(const std::string& function) override;
  Found Find(const std::string& function, const Digest& blob) override;
  void DropChunk(const std::string& function, const Digest& blob, ChunkIndex chunk) override;

  // Told when layers have come to be known; set before use.
  std::function<void()> on_layers;
  // Told when there is something to save, or Tick() has something to do before the time it named. Called under a lock:
  // it must not call back. Set before use.
  std::function<void()> on_due;

  struct Counts {
    size_t joined = 0;
    size_t with_parent = 0;  // in at least one stripe
    uint64_t assignments = 0;
    uint64_t profile_chunks = 0;  // of all functions, now
  };
  Counts counts() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Held {
    std::shared_ptr<LiveLayer> live;
    std::shared_ptr<fetch::RelayLayer> relay;
    size_t touches_sent = 0;
  };
  struct Entry {
    std::string reference;
    bool wanted = true;  // false: the manager ended the membership
    bool has_map = false;
    std::unordered_map<Digest, Held> layers;
    uint64_t blob_bytes = 0;
    proto::tree::Assignment assignment;
    std::shared_ptr<const fetch::ProfileSet> profile;
    std::vector<std::pair<Digest, ChunkIndex>> profile_order;
    uint64_t profile_version = 0;
    std::vector<fetch::PeerAddress> holders;
    std::shared_ptr<const fetch::Routes> routes;
    Clock::time_point used;
    Clock::time_point join_sent;
    Clock::time_point parents_changed;
    Clock::time_point started;  // epoch: never
    Clock::time_point next_touches;
    Clock::duration touches_interval{};
    uint32_t permille_sent = UINT32_MAX;
    bool ready_sent = false;
  };
  using Entries = std::map<std::string, Entry>;

  bool On() const { return fleet_on_ && node_on_ && !detached_; }
  void SendJoin(const std::string& function, Entry& entry);
  void SendLeave(const std::string& function);
  void BuildRoutes(const std::string& function, Entry& entry);
  static uint32_t PermilleOf(const Entry& entry);
  bool SendTouches(const std::string& function, Entry& entry);
  Clock::time_point TickEntry(const std::string& function, Entry& entry, Clock::time_point now);
  void Due() const {
    if (on_due) on_due();
  }
  void SetDirty() {
    dirty_ = true;
    Due();
  }
  void PrefetchProfile(Entry& entry);
  // The layers that nobody holds now; to be released without the lock.
  std::vector<std::shared_ptr<LiveLayer>> Erase(Entries::iterator entry);
  void Release(std::vector<std::shared_ptr<LiveLayer>> layers);
  proto::tree::Join JoinOf(const std::string& function, const Entry& entry) const;

  const std::string node_;
  const std::string state_file_;
  BlobFunctions& blobs_;
  const Send send_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  LayerTable* layers_ = nullptr;           // guarded by mutex_, as is all that follows
  fetch::Scheduler* scheduler_ = nullptr;  // both set once
  bool detached_ = false;
  bool fleet_on_ = true;
  bool node_on_ = true;
  bool dirty_ = false;
  uint64_t assignments_ = 0;
  Clock::time_point loaded_;
  Entries entries_;
  std::unordered_map<Digest, std::vector<std::string>> by_layer_;
};

}  // namespace banyan::peer_agent
