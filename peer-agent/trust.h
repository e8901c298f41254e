// Whose conversions this node follows: the configured keys, and how many artifacts they kept out.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "common/result.h"
#include "image-format/signature.h"

namespace banyan::peer_agent {

// Internally synchronised.
class Trust {
 public:
  // Replaces the policy. `key_files` are PEM files of one public key each; none: every artifact of a good version is
  // followed. On an error (which names the file) the policy stays as it is.
  Status Configure(const std::vector<std::string>& key_files, std::string min_converter_version);

  // As image_format::VerifyArtifact; refusals are counted.
  Status Check(const image_format::Artifact& artifact);

  uint64_t refused() const { return refused_; }

  // Told of each artifact that is followed, on the thread that asked. Set before use; may be null.
  std::function<void(const image_format::Artifact&)> on_trusted;

 private:
  std::mutex mutex_;
  image_format::TrustPolicy policy_;  // guarded by mutex_
  std::atomic<uint64_t> refused_{0};
};

}  // namespace banyan::peer_agent
