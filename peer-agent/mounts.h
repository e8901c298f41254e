// The images that are mounted on this node, each at its directory: made, restored after a restart, unmounted.
//
// Order of effects, so that a crash at any point can be taken up: the record is durable before the mount is made, and
// goes after the mount has gone. Layers are shared: two images with a common layer read through one LazyLayer and one
// device file.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/result.h"
#include "fetch/scheduler.h"
#include "lazyfs/device_server.h"
#include "lazyfs/image_mount.h"
#include "lazyfs/keeper.h"
#include "peer-agent/documents.h"
#include "peer-agent/layer_table.h"
#include "peer-agent/mount_table.h"
#include "peer-agent/registries.h"
#include "store/node_store.h"

namespace banyan::peer_agent {

class Peers;

// Internally synchronised; calls may block, but on a network never.
class Mounts {
 public:
  // All borrowed; they outlive it.
  struct Parts {
    store::NodeStore& store;
    fetch::Scheduler& scheduler;
    lazyfs::DeviceServer& devices;
    LayerTable& layers;
    Documents& documents;
    Registries& registries;
    lazyfs::SessionKeeper* keeper = nullptr;
    Peers* peers = nullptr;
    std::string selinux_context;  // empty: none
  };
  Mounts(Parts parts, MountTable table) : parts_(std::move(parts)), table_(std::move(table)) {}

  // Mounts again what the records say, or takes it over. A mount that cannot be restored is logged, keeps its record
  // and hinders no other.
  // Documents of maps that are neither mounted nor in `also_wanted` are removed.
  void Restore(std::set<Digest> also_wanted);

  // The directory belongs to the caller until the claim goes. kAlreadyExists when an image is mounted there, kAborted
  // while another claims it.
  class DirectoryClaim;
  Result<DirectoryClaim> Claim(const std::string& directory);

  // Mounts at record.directory, which is claimed and exists; record.form says how ("auto": the first form that works;
  // the result has the one that did).
  Result<MountRecord> Add(MountRecord record, const ImageDocuments& documents, const Origins& origins);

  // kNotFound when nothing of ours is mounted there; kFailedPrecondition when it is in use, no read of it waits, and
  // not `force`. Reads that wait fail first, so that a dead upstream holds nothing up. Forgets a record that could not
  // be restored as well.
  Status Remove(const std::string& directory, bool force);

  // What is seen of one mount.
  struct View {
    MountRecord record;
    std::vector<std::shared_ptr<LiveLayer>> layers;  // in the order of the map
  };
  std::vector<View> List();
  std::optional<View> Find(const std::string& directory);
  // The form that the latest mount took and why earlier ones were refused; empty before the first.
  std::pair<std::string, std::string> last_form();

  // Mounts stay; nothing is served from here any more.
  void Forget();
  // How long nothing has been mounted or under way; zero while there is something.
  std::chrono::milliseconds idle_for();

 private:
  struct Active {
    MountRecord record;
    std::vector<std::shared_ptr<LiveLayer>> layers;
    lazyfs::MountedImage image;
  };

  Status RestoreOne(const MountRecord& record);
  Result<Active> Make(MountRecord record, const ImageDocuments& documents, const Origins& origins, bool restoring);
  Status AddDevices(Active& active, const ImageDocuments& documents, const Origins& origins, bool restoring,
                    lazyfs::MountSpec& spec);
  // Makes the record durable, evicting for it on a full disk. While restoring, a failure is only logged.
  Status Record(const MountRecord& record, bool restoring);
  // Of a mount that could not be made to its end: neither it nor its record stays.
  void Unmake(Active& active);
  void Release(Active& active);
  size_t WaitingReads(const std::string& directory);
  void Unclaim(const std::string& directory);

  Parts parts_;
  std::mutex mutex_;
  MountTable table_;                               // its files; each call touches one
  std::map<std::string, Active> mounts_;           // by directory; guarded by mutex_
  std::set<std::string> in_transition_;            // directories; guarded by mutex_
  std::pair<std::string, std::string> last_form_;  // guarded by mutex_
  std::chrono::steady_clock::time_point idle_since_ = std::chrono::steady_clock::now();  // guarded by mutex_
};

// Movable; gives the directory back.
class Mounts::DirectoryClaim {
 public:
  DirectoryClaim(Mounts& mounts, std::string directory) : mounts_(&mounts), directory_(std::move(directory)) {}
  ~DirectoryClaim() {
    if (mounts_ != nullptr) mounts_->Unclaim(directory_);
  }
  DirectoryClaim(DirectoryClaim&& other) noexcept
      : mounts_(std::exchange(other.mounts_, nullptr)), directory_(std::move(other.directory_)) {}
  DirectoryClaim& operator=(DirectoryClaim&&) = delete;

 private:
  Mounts* mounts_;
  std::string directory_;
};

}  // namespace banyan::peer_agent
