// Mounts of chain prefixes that several images share (docs/decisions/0005-shared-prefix-mounts.md).
//
// Problem: page cache belongs to a superblock, and every image is one, so N images with one base hold the base's pages
// N times. Idea: when a second image shares enough of its chain with one that is mounted, the shared part is mounted
// once by itself, in the background, and later images are given as two lower directories: what their own layers change,
// over that mount. Whoever shares nothing keeps one merged mount; nothing that is mounted is mounted again.
//
//   <root>/prefixes/<chain ID, shortened>   one mount each, an ordinary one in the mount table
//
// A prefix is kept by the mounts whose records name it; one that none names is unmounted.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "common/executor.h"
#include "image-format/image_map.h"
#include "peer-agent/documents.h"
#include "peer-agent/mounts.h"
#include "peer-agent/registries.h"

namespace banyan::peer_agent {

// Internally synchronised.
class PrefixMounts {
 public:
  struct Options {
    std::string root;          // its mounts must be seen where the images' are
    uint64_t least_bytes = 0;  // of the shared layers' devices; 0: nothing is shared
  };
  // All borrowed; `executor` runs the making of prefixes.
  PrefixMounts(Mounts& mounts, Documents& documents, Executor& executor, Options options)
      : mounts_(mounts), documents_(documents), executor_(executor), options_(std::move(options)) {}

  // A prefix that is mounted, kept as long as this lives; then by the records that name it.
  class Use {
   public:
    Use(PrefixMounts& owner, std::string directory, uint32_t layers)
        : owner_(&owner), directory_(std::move(directory)), layers_(layers) {}
    ~Use();
    Use(Use&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)),
          directory_(std::move(other.directory_)),
          layers_(other.layers_) {}
    Use& operator=(Use&&) = delete;
    const std::string& directory() const { return directory_; }
    uint32_t layers() const { return layers_; }

   private:
    PrefixMounts* owner_;
    std::string directory_;
    uint32_t layers_;
  };

  // The longest mounted prefix of the image's lowest `layers` that is worth standing on.
  std::optional<Use> Find(const image_format::ImageMap& map, uint32_t layers);
  // The image was mounted: if it shares enough with another that is, the prefix is made in the background, for those
  // that come. `record` is the image's.
  void Consider(const MountRecord& record, const Digest& map_digest, const image_format::ImageMap& map, uint32_t layers,
                const Origins& origins);
  // Unmounts prefixes that no mount names.
  void Sweep();

 private:
  bool IsPrefix(const MountRecord& record) const { return record.directory.starts_with(options_.root + "/"); }
  // The layers that the map's lowest `layers` - 1 share with another image's mount, at most.
  uint32_t LongestShared(const image_format::ImageMap& map, uint32_t layers, const std::string& own_directory);
  Status Make(MountRecord record, const Digest& map_digest, uint32_t layers, const Origins& origins);
  void Leave(const std::string& directory);

  Mounts& mounts_;
  Documents& documents_;
  Executor& executor_;
  const Options options_;
  std::mutex mutex_;
  std::map<std::string, size_t> uses_;  // by directory; guarded by mutex_
  std::set<std::string> changing_;      // directories that are being mounted or unmounted; guarded by mutex_
};

}  // namespace banyan::peer_agent
