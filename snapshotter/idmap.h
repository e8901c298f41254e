// Snapshots for pods with user namespaces: the files of a lower directory shown with other owners.
//
// containerd would otherwise change the owner of every file of the root file system, which copies it up and, for a lazy
// image, downloads all of it. Instead each lower directory is given as a read-only clone of its mount whose ids the
// kernel maps (mount_setattr, MOUNT_ATTR_IDMAP; Linux 5.12, overlay over such mounts 5.19). Nothing on disk changes.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/unique_fd.h"
#include "snapshotter/snapshot.h"

namespace banyan::snapshotter {

inline constexpr std::string_view kUidMappingLabel = "containerd.io/snapshot/uidmapping";
inline constexpr std::string_view kGidMappingLabel = "containerd.io/snapshot/gidmapping";

// Ids [inside, inside + count) of the container are [outside, outside + count) of the host.
struct IdRange {
  uint32_t inside = 0;
  uint32_t outside = 0;
  uint32_t count = 0;
  friend bool operator==(const IdRange&, const IdRange&) = default;
};

struct IdMapping {
  std::vector<IdRange> uids;
  std::vector<IdRange> gids;
  // The host's ids of the container's root.
  uid_t root_uid = 0;
  gid_t root_gid = 0;
};

// Both labels: "<inside>:<outside>:<count>", several with commas between; nullopt when there is neither.
// kInvalidArgument when there is but one, when one makes no sense, or when the container's 0 is not mapped.
Result<std::optional<IdMapping>> ParseIdMapping(const Labels& labels);

// A user namespace with the mapping, which nobody is in.
Result<UniqueFd> MakeUserNamespace(const IdMapping& mapping);

// Mounts at `target` (an existing directory) what `source` shows, without mounts below it, unless it is mounted there
// already. kFailedPrecondition, with the reason and what to do, when the kernel or the file system cannot.
Status MountMapped(int user_namespace, const std::string& source, const std::string& target);

}  // namespace banyan::snapshotter
