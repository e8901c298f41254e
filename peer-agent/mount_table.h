// What is mounted, on disk: one small JSON file a mount under <data-root>/mounts, written before the mount is made and
// removed after it is gone. An agent that starts again restores its mounts from these files and the node store alone:
// neither a registry nor any other machine is asked, and a record that cannot be read hinders no other.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/digest.h"
#include "common/result.h"

namespace banyan::peer_agent {

struct MountRecord {
  std::string reference;  // as the user gave it
  std::string directory;  // absolute
  std::string form;       // "file", "loop", "tree"
  Digest manifest_digest;
  Digest artifact_digest;
  Digest map_digest;  // the image map's blob, which is in the node store
  std::string image_config;
  bool plain_http = false;
  std::string credentials_file;
  std::string ca_file;
  bool fill = false;
  uint32_t read_ahead_kib = 1024;
  std::string owner;  // "<pid> <start time>" of the process that the mount lives as long as; empty: none
  // The mount of a shared prefix that this one is stacked on; empty: it stands alone.
  std::string lower_directory;
  // Per device, whether the mount stands on the store's own file (pinned whole) rather than on FUSE.
  std::vector<bool> local_devices;
};

// Externally synchronised.
class MountTable {
 public:
  // Makes the directory if needed.
  static Result<MountTable> Open(std::string directory);

  // Durable when it returns; replaces the record of the same mount directory.
  Status Put(const MountRecord& record);
  // Absent: no error.
  Status Remove(const std::string& mount_directory);

  struct Contents {
    std::vector<MountRecord> records;
    std::vector<std::string> damaged;  // messages that name the file
  };
  Result<Contents> Load() const;

 private:
  explicit MountTable(std::string directory) : directory_(std::move(directory)) {}
  std::string PathOf(const std::string& mount_directory) const;

  std::string directory_;
};

}  // namespace banyan::peer_agent
