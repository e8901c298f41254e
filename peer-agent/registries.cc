#include "peer-agent/registries.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "net/auth.h"
#include "net/url.h"

namespace banyan::peer_agent {

Result<std::shared_ptr<net::Repository>> Registries::OpenOne(const net::ImageReference& reference,
                                                             const net::RepositoryOptions& options) {
  const std::string key = fmt::format("{}\n{}\n{}\n{}\n{}\n{}\n{}", static_cast<int>(reference.transport),
                                      reference.host, reference.repository, options.plain_http,
                                      options.credentials_file, options.ca_file, options.mirrored_registry);
  std::shared_ptr<net::Repository> dropped;  // its end may take a while: not under the lock
  const std::lock_guard lock(mutex_);
  if (shut_down_) return Fail(Code::kCancelled, "the agent is ending");
  std::erase_if(open_, [](const auto& entry) { return entry.second.expired(); });
  std::shared_ptr<net::Repository> repository = open_[key].lock();
  if (!repository) {
    BANYAN_ASSIGN(repository, net::OpenRepository(reference, options));
    open_[key] = repository;
  }
  if (const auto found = std::find(kept_.begin(), kept_.end(), repository); found != kept_.end()) kept_.erase(found);
  kept_.push_front(repository);
  if (kept_.size() > kKept) {
    dropped = std::move(kept_.back());
    kept_.pop_back();
  }
  return repository;
}

Result<std::vector<Registries::Way>> Registries::WaysTo(const net::ImageReference& reference, const Access& access) {
  RegistryConfig config;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = config_.find(reference.host); found != config_.end()) config = found->second;
  }
  net::RepositoryOptions options;
  options.plain_http = access.plain_http || config.plain_http;
  options.credentials_file = access.credentials_file.empty() ? config.credentials_file : access.credentials_file;
  options.ca_file = access.ca_file.empty() ? config.ca_file : access.ca_file;
  std::vector<Way> ways;
  for (const std::string& mirror : config.mirrors) {
    BANYAN_ASSIGN(const net::Url url, net::Url::Parse(mirror));
    net::ImageReference at_mirror = reference;
    at_mirror.host = fmt::format("{}:{}", url.host(), url.port());
    net::RepositoryOptions mirror_options = options;
    mirror_options.plain_http = !url.secure();
    mirror_options.mirrored_registry = reference.host;
    ways.emplace_back(std::move(at_mirror), std::move(mirror_options));
  }
  ways.emplace_back(reference, std::move(options));
  return ways;
}

Result<Origins> Registries::Open(const net::ImageReference& reference, const Access& access) {
  BANYAN_ASSIGN(const std::vector<Way> ways, WaysTo(reference, access));
  Origins origins;
  for (const auto& [at, options] : ways) {
    BANYAN_ASSIGN(auto repository, OpenOne(at, options));
    origins.push_back(std::move(repository));
  }
  return origins;
}

bool Registries::HasCredentials(const net::ImageReference& reference, const Access& access) {
  const auto ways = WaysTo(reference, access);
  if (!ways) return true;
  for (const auto& [at, options] : *ways) {
    const auto credentials = net::CredentialsFile(options.credentials_file).Find(at.host, at.repository);
    if (!credentials || !credentials->empty()) return true;
  }
  return false;
}

Status Registries::CheckAnonymous(const net::ImageReference& reference, const Access& access) {
  BANYAN_ASSIGN(std::vector<Way> ways, WaysTo(reference, access));
  Status last = Fail(Code::kNotFound, "no origin");
  for (auto& [at, options] : ways) {
    options.anonymous = true;
    options.attempts = 1;
    BANYAN_ASSIGN(const auto repository, net::OpenRepository(at, options));
    const auto head = repository->HeadManifest(reference.digest ? reference.digest->ToString() : reference.tag);
    if (head) return {};
    last = Fail(head.error());
  }
  return last;
}

void Registries::Configure(std::map<std::string, RegistryConfig> config) {
  const std::lock_guard lock(mutex_);
  config_ = std::move(config);
}

void Registries::Shutdown() {
  const std::lock_guard lock(mutex_);
  shut_down_ = true;
  for (const auto& [key, weak] : open_) {
    if (const auto repository = weak.lock()) repository->Shutdown();
  }
}

}  // namespace banyan::peer_agent
