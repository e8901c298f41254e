#include "peer-agent/node_http.h"

#include <utility>

#include <fmt/format.h>

#include "common/settings.h"
#include "mirror/metrics.h"
#include "net/url.h"

namespace banyan::peer_agent {

namespace {

mirror::UpstreamOptions UpstreamOf(const std::string& name, const RegistryConfig& registry) {
  mirror::UpstreamOptions upstream;
  upstream.name = name;
  upstream.credentials_file = registry.credentials_file;
  for (const std::string& text : registry.mirrors) {
    if (const auto url = net::Url::Parse(text)) {  // checked when the configuration was read
      upstream.endpoints.push_back({.host = fmt::format("{}:{}", url->host(), url->port()),
                                    .plain_http = !url->secure(),
                                    .ca_file = registry.ca_file});
    }
  }
  upstream.endpoints.push_back({.host = name, .plain_http = registry.plain_http, .ca_file = registry.ca_file});
  return upstream;
}

void SendText(net::HttpReply& reply, int status, const char* content_type, std::string text) {
  reply.Send({.status = status, .headers = {{"Content-Type", content_type}}, .body = std::move(text)});
}

}  // namespace

Result<std::unique_ptr<mirror::Mirror>> OpenMirror(const std::map<std::string, RegistryConfig>& registries,
                                                   bool any_registry, store::NodeStore& store, mirror::Hooks hooks) {
  mirror::MirrorOptions options;
  for (const auto& [name, registry] : registries) options.upstreams.push_back(UpstreamOf(name, registry));
  options.any_upstream = any_registry;
  return mirror::Mirror::Create(std::move(options), store, std::move(hooks));
}

Result<std::unique_ptr<NodeHttp>> NodeHttp::Listen(Options options, mirror::Mirror& mirror) {
  BANYAN_ASSIGN(const HostPort listen, ParseHostPort(options.address));
  net::HttpServerOptions server;
  server.address = listen.host;
  server.port = listen.port;
  std::unique_ptr<NodeHttp> http(new NodeHttp(std::move(options), mirror));
  BANYAN_ASSIGN(http->server_, net::HttpServer::Start(server, [self = http.get()](auto request, auto reply) {
                  self->Handle(std::move(request), reply);
                }));
  http->address_ = HostPort{server.address, http->server_->port()}.ToString();
  return http;
}

NodeHttp::~NodeHttp() {
  if (server_) server_->Stop();
}

void NodeHttp::Handle(net::HttpRequest request, const std::shared_ptr<net::HttpReply>& reply) {
  const std::string path(request.path());
  // It answers at all, and it listens only once everything is open: alive and ready are the same here.
  if (path == "/healthz" || path == "/readyz") return SendText(*reply, 200, "text/plain", "ok\n");
  if (path == "/metrics") {
    MetricsPage page;
    options_.add_metrics(page);
    mirror::AddMetrics(mirror_.stats(), page);
    return SendText(*reply, 200, MetricsPage::kContentType, page.Text());
  }
  if (options_.metrics_only) return SendText(*reply, 404, "text/plain", "only metrics are here\n");
  mirror_.Handle(std::move(request), reply);
}

}  // namespace banyan::peer_agent
