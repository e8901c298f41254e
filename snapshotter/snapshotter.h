// containerd's snapshots, kept on disk, with lazily served layers in the place of unpacked ones.
//
// To containerd a snapshot is a name, a parent and labels; to a container it is an overlay of directories. An ordinary
// layer is a directory that containerd unpacks into. A *claimed* one is a layer that LazyImages serves: it is committed
// at once, containerd downloads nothing, and when something needs it as a lower directory the whole chain up to it is
// mounted there, so that nothing is stacked below a claimed snapshot.
//
//   <root>/snapshots/meta/<id>.json   one record a snapshot; replacing that one file is the whole transaction
//   <root>/snapshots/<id>/fs          the layer's files, or where its chain is mounted
//   <root>/snapshots/<id>/work        overlay's, of active snapshots
//   <root>/snapshots/<id>/m<n>        id-mapped clones of lower directories (idmap.h)
//   <root>/snapshots/trash/           directories being deleted
//
// A directory is made before its record and deleted after it, so a crash leaves at most directories without record;
// they are cleaned up when the state is opened. Ids are never used twice.
//
// No call waits for another image's: mounts and look-ups, which may wait for a network, are made with no lock held but
// that of the name itself. What such a call needs is pinned instead, as a child pins its parent.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "common/result.h"
#include "common/unique_fd.h"
#include "snapshotter/key_locks.h"
#include "snapshotter/lazy_images.h"
#include "snapshotter/reaper.h"
#include "snapshotter/record_table.h"
#include "snapshotter/snapshot.h"

namespace banyan::snapshotter {

struct Options {
  std::string root;              // absolute; made if needed; only this process uses it
  LazyImages* images = nullptr;  // outlives the Snapshotter; called from any thread, from Open() on
  // A container's snapshot has got its mounts for the first time, and stands on the chain that is mounted at
  // `directory` (the one given to LazyImages::Mount). Called from any thread, without locks.
  std::function<void(const std::string& directory)> on_prepared;
};

struct ClaimedSnapshot {
  std::string name;
  std::string directory;  // where its chain is mounted, if it is
  LazyChain chain;
  uint32_t children = 0;  // snapshots on top of it
};

// Internally synchronised. Errors have the codes of containerd's contract: an absent key or parent kNotFound, a taken
// name kAlreadyExists, the wrong kind kFailedPrecondition, an unacceptable argument kInvalidArgument.
class Snapshotter {
 public:
  // Reads all records; a damaged one is set aside and logged. kFailedPrecondition when another process has the root.
  static Result<std::unique_ptr<Snapshotter>> Open(Options options);
  // Ends the background thread; what it has not deleted is found again by the next Open(). No call may be under way.
  ~Snapshotter();

  // May wait for the network when the parent is claimed and its chain has to be mounted; kUnavailable with the reason
  // when it cannot be. With kReferenceLabel among the labels and a layer that can be served, the snapshot is committed
  // under a name of its own and the answer is kAlreadyExists; containerd then finds it by that label and the parent.
  // With uid and gid mappings among them that the kernel cannot give: kFailedPrecondition.
  Result<std::vector<Mount>> Prepare(const std::string& key, const std::string& parent, Labels labels);
  Result<std::vector<Mount>> View(const std::string& key, const std::string& parent, Labels labels);
  // Makes again what a reboot has taken away.
  Result<std::vector<Mount>> Mounts(const std::string& key);
  Status Commit(const std::string& name, const std::string& key, Labels labels);
  // Durable when it returns. Unmounting and deleting go on in the background. kFailedPrecondition while it has
  // children, or while a mount on top of it is being made.
  Status Remove(const std::string& key);

  Result<SnapshotInfo> Stat(const std::string& key) const;
  // `paths` is the field mask: "labels" or "labels.<key>"; empty: all labels. Only the labels of `info` are taken.
  Result<SnapshotInfo> Update(const SnapshotInfo& info, const std::vector<std::string>& paths);
  // In the order of names. `filters`: filter.h.
  Result<std::vector<SnapshotInfo>> List(const std::vector<std::string>& filters) const;
  // Without the parents. Scans the directory of an active snapshot; that of a committed one at the first call.
  Result<Usage> UsageOf(const std::string& key);
  // Waits until all that had been removed before the call has been deleted, or cannot be for now.
  Status Cleanup();

  size_t count() const;
  std::vector<ClaimedSnapshot> Claimed() const;

 private:
  struct Entry {
    Record record;
    uint32_t pins = 0;  // children, and calls that need it to stay
  };
  // Keeps a snapshot from being removed.
  class Pin {
   public:
    Pin() = default;
    Pin(Snapshotter& owner, std::string name) : owner_(&owner), name_(std::move(name)) {}
    Pin(Pin&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), name_(std::move(other.name_)) {}
    Pin& operator=(Pin&&) = delete;
    ~Pin();
    // The pin has become a child's.
    void Keep() { owner_ = nullptr; }

   private:
    Snapshotter* owner_ = nullptr;
    std::string name_;
  };
  // What a snapshot stands on, the topmost first.
  struct Ground {
    std::vector<std::string> lowers;
    std::string lazy_directory;  // of the claimed snapshot among the ancestors; empty: none
  };

  Snapshotter(Options options, RecordTable table, UniqueFd lock);

  Status Load();
  void RetireOrphans(const std::set<uint64_t>& known);
  Result<std::vector<Mount>> Create(Kind kind, const std::string& key, const std::string& parent, Labels labels);
  Result<std::vector<Mount>> CreateOrdinary(Record record, Pin pin);
  // True: the layer is in a committed snapshot with that parent.
  bool Claim(const std::string& parent, const Labels& labels);
  Status CommitClaimed(const std::string& parent, const Labels& labels, const LazyChain& chain);
  // Durable when it returns; the pin becomes the new snapshot's.
  Status Insert(const Record& record, Pin& parent);
  // Of the same name, which the caller has locked.
  Status Replace(const Record& record);
  Status MakeDirectoriesOf(const Record& record);

  Result<Pin> PinParent(const std::string& parent);
  std::optional<Record> Find(const std::string& name) const;
  // A committed one with that reference and parent, claimed or unpacked earlier (for another namespace, say), whose
  // files are there.
  std::optional<Record> FindReference(const std::string& reference, const std::string& parent) const;
  // `record`'s parent is pinned by the caller.
  Result<Ground> GroundOf(const Record& record);
  std::string DirectoryOf(uint64_t id) const;
  uint64_t NextId();

  const Options options_;
  const RecordTable table_;
  const UniqueFd lock_;  // of the root
  KeyLocks names_;       // held while a snapshot of that name is being made or changed
  KeyLocks claims_;      // by reference and parent; taken after one of names_

  mutable Mutex mutex_;  // never held over anything that waits
  std::map<std::string, Entry> entries_ BANYAN_GUARDED_BY(mutex_);
  uint64_t last_id_ BANYAN_GUARDED_BY(mutex_) = 0;

  std::unique_ptr<Reaper> reaper_;  // from Load() on
};

}  // namespace banyan::snapshotter
