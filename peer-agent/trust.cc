#include "peer-agent/trust.h"

#include <utility>

#include "common/file_io.h"
#include "common/units.h"

namespace banyan::peer_agent {

Status Trust::Configure(const std::vector<std::string>& key_files, std::string min_converter_version) {
  image_format::TrustPolicy policy;
  policy.min_converter_version = std::move(min_converter_version);
  for (const std::string& path : key_files) {
    BANYAN_ASSIGN(const std::string pem, ReadFile(path, 64 * kKiB));
    auto key = image_format::PublicKey::FromPem(pem);
    if (!key) return Fail(key.error().WithContext("trusted key " + path));
    policy.keys.push_back(*key);
  }
  const std::lock_guard lock(mutex_);
  policy_ = std::move(policy);
  return {};
}

Status Trust::Check(const image_format::Artifact& artifact) {
  Status verified;
  {
    const std::lock_guard lock(mutex_);
    verified = image_format::VerifyArtifact(artifact, policy_);
  }
  if (!verified) ++refused_;
  if (verified && on_trusted) on_trusted(artifact);
  return verified;
}

}  // namespace banyan::peer_agent
