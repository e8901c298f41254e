// The registry proxy: a mirror of other registries that converts what is pulled through it, and a registry of its own.
//
// One HTTP server. A request is taken by the first that knows it: health and metrics; the own registry (names without a
// registry); artifacts in the content store; the mirror.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "common/result.h"
#include "fetch/timer.h"
#include "fetch/uplink_gate.h"
#include "image-format/signature.h"
#include "mirror/mirror.h"
#include "mirror/workers.h"
#include "net/http_server.h"
#include "registry-proxy/authoriser.h"
#include "registry-proxy/config.h"
#include "registry-proxy/content_store.h"
#include "registry-proxy/conversions.h"
#include "registry-proxy/own_registry.h"
#include "registry-proxy/status_service.h"
#include "registry-proxy/torrents.h"
#include "store/node_store.h"

namespace banyan::registry_proxy {

// Internally synchronised.
class Proxy {
 public:
  // Serves when it returns. `version` is for metrics.
  static Result<std::unique_ptr<Proxy>> Start(Config config, std::string version);
  // Stops serving, then converting; what was under way goes on at the next start.
  ~Proxy();

  uint16_t port() const { return server_->port(); }
  // Removes content that nothing names any more. Blocks.
  void CollectGarbage();

 private:
  Proxy(Config config, std::string version);

  Status LoadKeys();
  Status OpenStores();
  Status StartMirror();
  Status StartTorrents();
  Status StartConversions();
  Status Serve();

  // `reply`, or one before it that shares the uplink by turns: bytes of blobs that leave this machine.
  std::shared_ptr<net::HttpReply> ByTurns(const net::HttpRequest& request, std::shared_ptr<net::HttpReply> reply);
  bool AnswerFirst(net::HttpRequest& request, std::shared_ptr<net::HttpReply>& reply);
  bool AnswerArtifact(net::HttpRequest& request, const mirror::Route& route, std::shared_ptr<net::HttpReply>& reply);
  bool AnswerTorrent(net::HttpRequest& request, std::shared_ptr<net::HttpReply>& reply);
  Result<std::unique_ptr<ByteSource>> OpenBlob(const std::string& upstream, const std::string& repository,
                                               const Digest& digest) const;
  net::HttpResponse ArtifactAnswer(const net::HttpRequest& request, const mirror::Route& route,
                                   const std::string& repository) const;
  std::string UpstreamOf(const mirror::Route& route) const;
  net::HttpResponse Metrics() const;
  Status CheckAccess(const std::string& upstream, const std::string& repository,
                     const mirror::Identity& identity) const;
  Result<std::unique_ptr<net::Repository>> OpenRepository(const std::string& upstream, const std::string& repository,
                                                          bool push) const;

  const Config config_;
  const std::string version_;
  std::optional<image_format::SigningKey> key_;
  image_format::TrustPolicy trust_;
  std::unique_ptr<store::NodeStore> store_;
  std::unique_ptr<ContentStore> content_;
  std::unique_ptr<mirror::Workers> disk_workers_;
  std::unique_ptr<mirror::Workers> check_workers_;
  std::unique_ptr<Authoriser> authoriser_;
  std::unique_ptr<OwnRegistry> own_;
  std::unique_ptr<Conversions> conversions_;
  std::unique_ptr<Torrents> torrents_;
  std::unique_ptr<mirror::Mirror> mirror_;
  fetch::ThreadTimer timer_;
  fetch::UplinkGate uplink_{{}, timer_};
  std::unique_ptr<net::HttpServer> server_;
  std::unique_ptr<StatusService> status_;
};

}  // namespace banyan::registry_proxy
