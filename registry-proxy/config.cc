#include "registry-proxy/config.h"

#include <fmt/format.h>

#include "common/log.h"
#include "common/settings.h"
#include "mirror/route.h"
#include "net/url.h"

namespace banyan::registry_proxy {
namespace {

void DeclareUpstream(UpstreamConfig& upstream, ConfigSchema& table) {
  table.Add("endpoints",
            "Where it is asked, in this order: itself or mirrors of it. \"https://host\", \"http://host:port\".\n"
            "None: https, at the name of the upstream. (Loopback hosts fall back to plain HTTP by themselves.)",
            &upstream.endpoints);
  table.Add(
      "auth",
      "own: the proxy asks with its own credentials, or anonymously, and whoever reaches the proxy may read what\n"
      "it may read. client: the proxy challenges its clients and asks the upstream, repository by repository,\n"
      "with the credentials that they send.",
      &upstream.auth);
  table.Add("ca_file", "Certificate authorities of the endpoints, as PEM. Empty: the system's.", &upstream.ca_file);
  table.Add("credentials_file",
            "docker-style config.json with the proxy's own credentials, read again when it changes.",
            &upstream.credentials_file);
  table.Add(
      "credentials_for",
      "The repositories for which the proxy's own credentials are used, as globs: \"team/*\". Everyone who reaches\n"
      "the proxy can read these. Others are asked for anonymously, or with the client's credentials.",
      &upstream.credentials_for);
  table.Add("push_artifacts", "Push what is converted to the upstream as well, with the proxy's own credentials.",
            &upstream.push_artifacts);
  table.Add("connect_timeout", "Until an endpoint counts as down.", &upstream.connect_timeout);
  table.Add("stall_timeout", "A transfer that moves no byte for so long is broken off and resumed.",
            &upstream.stall_timeout);
  table.Add("attempts", "Of each call, at each endpoint, with backoff.", &upstream.attempts);
  table.Add("max_fills", "Blobs on their way from this upstream at once; more wait.", &upstream.max_fills);
}

void Declare(Config& config, ConfigSchema& schema) {
  schema.Add("listen", "host:port of the registry API, /metrics, /healthz and /readyz. Plain HTTP.", &config.listen);
  schema.Add(
      "status",
      "Where `banyan conversions` asks: host:port, or unix: a socket at <data_root>/status.sock for this machine's\n"
      "root alone. Empty: off.",
      &config.status);
  schema.Add("data_root", "Directory for all that the proxy stores.", &config.data_root);
  schema.Add("log_level", "trace, debug, info, warn, error or off.", &config.log_level);
  schema.Add("threads", "Threads that serve connections.", &config.threads);
  schema.Add("store.budget",
             "Disk space for copies of upstream content; the least useful goes first. What was pushed here and the\n"
             "artifacts do not count and are not evicted.",
             &config.store_budget);
  schema.Add("mirror.default_upstream", "The upstream that is meant when a request names none.",
             &config.default_upstream);
  schema.Add("mirror.tag_lifetime", "A tag is looked up again after this time.", &config.tag_lifetime);
  schema.Add("mirror.referrers_lifetime", "An upstream's list of referrers is asked for again after this time.",
             &config.referrers_lifetime);
  schema.Add(
      "mirror.stale_after",
      "An upstream that has not answered after this time is not waited for if what it said last is known: a tag,\n"
      "a list of referrers.",
      &config.stale_after);
  schema.Add("mirror.referrers_budget",
             "How long the artifacts made here wait for the upstream's own referrers, which are listed with them.",
             &config.referrers_budget);
  schema.Add("registry.push", "Take pushes: images of names without a registry are kept here.", &config.push);
  schema.Add("registry.delete", "Allow to delete what was pushed.", &config.remove);
  schema.Add("registry.password_file",
             "Lines \"user:password\" of those who may push. Empty: whoever reaches the proxy.", &config.password_file);
  schema.Add("convert.enabled", "Convert what is pulled and has no artifact.", &config.convert);
  schema.Add("convert.images", "Globs over \"<registry>/<repository>\": which images.", &config.images);
  schema.Add("convert.never", "Globs that take precedence.", &config.never);
  schema.Add("convert.min_size", "Leave images alone whose compressed layers are smaller than this.", &config.min_size);
  schema.Add("convert.max_storage", "Begin no conversion while artifacts and pushed images take more. 0: no limit.",
             &config.max_storage);
  schema.Add("convert.workers", "Images at once.", &config.convert_workers);
  schema.Add("convert.threads", "Threads of all conversions together. 0: one a CPU.", &config.convert_threads);
  schema.Add("convert.level", "zstd's, 1 to 19.", &config.level);
  schema.Add("sign.key_file",
             "Sign artifacts with this private key (`banyan keys generate`). Empty: they are not signed.",
             &config.key_file);
  schema.Add("sign.trusted_keys",
             "Public keys (files) of other converters whose artifacts at an upstream are good enough. The proxy's own\n"
             "key is trusted.",
             &config.trusted_keys);
  schema.Add("sign.min_converter_version", "\"banyan 0.1.0\": older artifacts at an upstream are made anew.",
             &config.min_converter_version);
  schema.Add("swarm.tracker",
             "The cluster's tracker, which stands in the torrents that /v2/<name>/blobs/<digest>.torrent gives: the\n"
             "tree-manager's HTTP port, \"http://host:4651\". Empty: torrents without a tracker.",
             &config.tracker);
  schema.Add(
      "swarm.token_file",
      "File with the cluster's token, if the tree-manager has one: the tracker's path follows from it. Whoever may\n"
      "read an image gets that path with its torrents, but not the token.",
      &config.tracker_token_file);
  schema.AddTables(
      "upstreams", "One registry; the host as it stands in image names.", "registry.example",
      [&config](const std::string& name, ConfigSchema& table) { DeclareUpstream(config.upstreams[name], table); });
}

Status CheckUpstream(const std::string& name, const UpstreamConfig& upstream) {
  const std::string key = fmt::format("upstreams.\"{}\"", name);
  if (!mirror::IsValidHost(name)) return BadSetting(key, "is no registry's host");
  if (upstream.auth != "own" && upstream.auth != "client") {
    return BadSetting(key + ".auth", "is neither own nor client");
  }
  for (const std::string& endpoint : upstream.endpoints) {
    const auto url = net::Url::Parse(endpoint);
    if (!url) return BadSetting(key + ".endpoints", url.error().message);
  }
  if (!upstream.credentials_for.empty() && upstream.credentials_file.empty()) {
    return BadSetting(key + ".credentials_for", "there is no credentials_file");
  }
  BANYAN_TRY(CheckRange(key + ".attempts", upstream.attempts, 1, 100));
  return CheckRange(key + ".max_fills", upstream.max_fills, 1, 1000);
}

}  // namespace

Status CheckConfig(const Config& config) {
  BANYAN_TRY(CheckAbsolute("data_root", config.data_root));
  if (const auto level = ParseLogLevel(config.log_level); !level) return BadSetting("log_level", level.error().message);
  if (const auto listen = ParseHostPort(config.listen); !listen) return BadSetting("listen", listen.error().message);
  if (!config.status.empty() && config.status != "unix") {
    if (const auto status = ParseHostPort(config.status); !status) return BadSetting("status", status.error().message);
  }
  if (!config.default_upstream.empty() && !config.upstreams.contains(config.default_upstream)) {
    return BadSetting("mirror.default_upstream",
                      fmt::format("there is no [upstreams.\"{}\"]", config.default_upstream));
  }
  if (!config.tracker.empty()) {
    if (const auto url = net::Url::Parse(config.tracker); !url) return BadSetting("swarm.tracker", url.error().message);
  }
  BANYAN_TRY(CheckRange("threads", config.threads, 1, 256));
  BANYAN_TRY(CheckRange("convert.workers", config.convert_workers, 1, 64));
  BANYAN_TRY(CheckRange("convert.threads", config.convert_threads, 0, 1024));
  BANYAN_TRY(CheckRange("convert.level", config.level, 1, 19));
  for (const auto& [name, upstream] : config.upstreams) BANYAN_TRY(CheckUpstream(name, upstream));
  return {};
}

Result<Config> LoadConfig(const std::string& path) { return LoadConfigFile<Config>(path, Declare, CheckConfig); }

std::string ConfigReference() { return ReferenceOf<Config>(Declare); }

}  // namespace banyan::registry_proxy
