#include "tree-manager/dashboard/dashboard_server.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "net/url.h"
#include "tree-manager/dashboard/assets.h"
#include "tree-manager/dashboard/view_json.h"

namespace banyan::tree_manager {
namespace {

using Clock = EventStream::Clock;
using Headers = std::vector<std::pair<std::string, std::string>>;
using net::HttpResponse;
using nlohmann::json;

constexpr std::string_view kApi = "/api/v1/";
constexpr size_t kUsualStarts = 100;

// Everything comes from here, nothing is evaluated, no markup is made out of text, nobody frames it.
constexpr const char* kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

Headers HeadersFor(std::string_view type, const char* caching) {
  return {{"Content-Type", std::string(type)},
          {"Cache-Control", caching},
          {"Content-Security-Policy", kPolicy},
          {"X-Content-Type-Options", "nosniff"},
          {"X-Frame-Options", "DENY"},
          {"Referrer-Policy", "no-referrer"},
          {"Cross-Origin-Opener-Policy", "same-origin"},
          {"Cross-Origin-Resource-Policy", "same-origin"}};
}

HttpResponse JsonAnswer(const json& document) {
  return {200, HeadersFor("application/json", "no-store"), Dump(document)};
}

int StatusOf(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
      return 400;
    case Code::kNotFound:
      return 404;
    case Code::kResourceExhausted:
      return 503;
    default:
      return 500;
  }
}

HttpResponse ErrorAnswer(int status, const std::string& message) {
  return {status, HeadersFor("application/json", "no-store"), Dump({{"error", message}})};
}
HttpResponse ErrorAnswer(const Error& error) { return ErrorAnswer(StatusOf(error.code), error.message); }

HttpResponse AssetAnswer(const Asset& asset, const net::HttpRequest& request) {
  Headers headers = HeadersFor(asset.type, "no-cache");
  const std::string tag = fmt::format("\"{}\"", asset.tag);
  headers.emplace_back("ETag", tag);
  const std::string* known = request.headers.Find("if-none-match");
  if (known != nullptr && known->find(tag) != std::string::npos) return {304, std::move(headers), std::string()};
  return {200, std::move(headers), std::string(asset.bytes)};
}

const Asset* FindAsset(std::string_view path) {
  path.remove_prefix(std::min<size_t>(path.size(), 1));
  if (path.empty()) path = "index.html";
  const auto assets = Assets();
  const auto found = std::find_if(assets.begin(), assets.end(), [&](const Asset& asset) { return asset.path == path; });
  return found == assets.end() ? nullptr : &*found;
}

template <typename List>
json ToArray(const List& list) {
  json array = json::array();
  for (const auto& element : list) array.push_back(ToJson(element));
  return array;
}

}  // namespace

DashboardServer::DashboardServer(Manager& manager, Options options)
    : manager_(manager), options_(std::move(options)), proxies_(options_.proxies), ticker_([this] { Tick(); }) {}

DashboardServer::~DashboardServer() {
  EndStreams();
  ticker_.join();
}

void DashboardServer::Handle(const net::HttpRequest& request, const std::shared_ptr<net::HttpReply>& reply) {
  if (options_.local_only && !net::IsLoopbackHost(request.client)) {
    return reply->Send(ErrorAnswer(
        403,
        "the dashboard is for this machine only; dashboard = \"all\" in the manager's configuration changes that"));
  }
  if (request.path() != "/api/v1/events") return reply->Send(Answer(request));
  const auto query = ParseQuery(request.target);
  if (request.method != "GET") return reply->Send(ErrorAnswer(405, "only GET"));
  if (!query) return reply->Send(ErrorAnswer(query.error()));
  OpenStream(*query, reply);
}

HttpResponse DashboardServer::Answer(const net::HttpRequest& request) {
  if (request.method != "GET" && request.method != "HEAD") return ErrorAnswer(405, "only GET and HEAD");
  if (!request.path().starts_with(kApi)) {
    const Asset* const asset = FindAsset(request.path());
    return asset != nullptr ? AssetAnswer(*asset, request) : ErrorAnswer(404, "there is no such page");
  }
  const auto query = ParseQuery(request.target);
  if (!query) return ErrorAnswer(query.error());
  return AnswerApi(request.path().substr(kApi.size()), *query);
}

HttpResponse DashboardServer::AnswerApi(std::string_view path, const Query& query) {
  if (path == "status") return {200, HeadersFor("application/json", "no-store"), StatusText()};
  if (path == "functions") {
    const auto reply = manager_.Functions();
    return JsonAnswer({{"functions", ToArray(reply.functions())}});
  }
  if (path == "nodes") {
    const auto reply = manager_.Nodes();
    const std::string name = TextOf(query, "node");
    json nodes = json::array();
    for (const auto& node : reply.nodes()) {
      if (name.empty() || node.node() == name) nodes.push_back(ToJson(node));
    }
    return JsonAnswer({{"peerToPeer", reply.peer_to_peer()}, {"nodes", std::move(nodes)}});
  }
  if (path == "tree") {
    const auto reply = manager_.Tree(TextOf(query, "function"));
    if (!reply) return ErrorAnswer(reply.error());
    return JsonAnswer({{"function", ToJson(reply->function())}, {"nodes", ToArray(reply->nodes())}});
  }
  if (path == "starts") {
    auto starts = manager_.Starts();
    std::reverse(starts.begin(), starts.end());
    starts.resize(std::min(starts.size(), NumberOf(query, "limit", kUsualStarts, StartBook::kKept)));
    return JsonAnswer({{"starts", ToArray(starts)}});
  }
  if (path == "conversions") {
    const auto view = proxies_.Look();
    std::string list;
    for (const auto& [key, text] : view->conversions) list += (list.empty() ? "" : ",") + text;
    return {200, HeadersFor("application/json", "no-store"),
            fmt::format(R"({{"proxies":{},"conversions":[{}]}})", view->proxies, list)};
  }
  return ErrorAnswer(404, "the API has no such part");
}

std::string DashboardServer::StatusText() {
  const Manager::Summary summary = manager_.Summarise();
  const auto up = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - began_);
  return Dump({{"version", options_.version},
               {"epoch", summary.epoch},
               {"upSeconds", up.count()},
               {"peerToPeer", summary.peer_to_peer},
               {"preheats", options_.preheats},
               {"doubting", summary.gauges.doubting},
               {"nodes", summary.gauges.nodes},
               {"functions", summary.gauges.functions},
               {"members", summary.gauges.members},
               {"height", summary.gauges.height}});
}

void DashboardServer::OpenStream(const Query& query, const std::shared_ptr<net::HttpReply>& reply) {
  EventStream::Options options;
  options.function = TextOf(query, "function");
  options.nodes = TextOf(query, "nodes") == "1";
  options.starts = TextOf(query, "starts") == "1";
  options.conversions = TextOf(query, "conversions") == "1";
  const auto stream = std::make_shared<EventStream>(std::move(options), reply);
  MutexLock lock(mutex_);
  Status begun = stopping_ || streams_.size() >= options_.max_streams
                     ? Fail(Code::kResourceExhausted, "too many live views are open")
                     : stream->Begin(manager_);
  if (!begun) {
    ++streams_refused_;
    lock.Unlock();
    return reply->Send(ErrorAnswer(begun.error()));
  }
  ++streams_opened_;
  Headers headers = HeadersFor("text/event-stream", "no-store");
  headers.emplace_back("X-Accel-Buffering", "no");  // nginx is to pass events on at once
  reply->SendHead(200, std::move(headers), std::nullopt);
  reply->OnGone([weak = std::weak_ptr(stream)] {
    if (const auto gone = weak.lock()) gone->Lost();
  });
  if (Clock::now() - looked_ >= options_.functions) LookAtFunctions();
  stream->OfferFunctions(functions_, {});
  if (stream->wants_conversions()) stream->OfferConversions(proxies_.Look());
  streams_.push_back(stream);
  wake_.notify_all();
  lock.Unlock();
  stream->Flush(Clock::now());  // the state waits for no batch
}

// The proxies are asked only while somebody wants to know.
void DashboardServer::OfferConversions() {
  std::shared_ptr<const ConversionsView> view;
  for (const auto& stream : streams_) {
    if (!stream->wants_conversions()) continue;
    if (!view) view = proxies_.Look();
    stream->OfferConversions(view);
  }
}

void DashboardServer::LookAtFunctions() {
  looked_ = Clock::now();
  std::map<std::string, std::string> now;
  std::map<std::string, std::string> changed;
  const auto reply = manager_.Functions();
  for (const auto& function : reply.functions()) {
    std::string text = Dump(ToJson(function));
    const auto known = functions_.find(function.function());
    if (known == functions_.end() || known->second != text) changed[function.function()] = text;
    now[function.function()] = std::move(text);
  }
  std::vector<std::string> gone;
  for (const auto& [name, text] : functions_) {
    if (!now.contains(name)) gone.push_back(name);
  }
  functions_ = std::move(now);
  for (const auto& stream : streams_) stream->OfferFunctions(changed, gone);
}

void DashboardServer::Tick() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    if (streams_.empty()) {
      lock.Wait(wake_);
      continue;
    }
    const auto now = Clock::now();
    if (now - looked_ >= options_.functions) LookAtFunctions();
    for (const auto& stream : streams_) {
      if (stream->gone()) manager_.Unwatch(stream.get());
    }
    std::erase_if(streams_, [](const auto& stream) { return stream->gone(); });
    OfferConversions();
    const auto streams = streams_;
    lock.Unlock();
    for (const auto& stream : streams) stream->Flush(now);
    lock.Lock();
    const auto next = now + options_.batch;
    while (!stopping_ && Clock::now() < next) lock.WaitUntil(wake_, next);
  }
}

void DashboardServer::EndStreams() {
  std::vector<std::shared_ptr<EventStream>> streams;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    streams.swap(streams_);
  }
  wake_.notify_all();
  for (const auto& stream : streams) {
    manager_.Unwatch(stream.get());
    stream->End();
  }
}

void DashboardServer::AddMetrics(MetricsPage& page) const {
  MutexLock lock(mutex_);
  page.Gauge("banyan_tree_dashboard_streams", "Live views of the dashboard.", static_cast<double>(streams_.size()));
  page.Counter("banyan_tree_dashboard_streams_total", "Live views that were opened.",
               static_cast<double>(streams_opened_));
  page.Counter("banyan_tree_dashboard_refused_total", "Live views that were too many.",
               static_cast<double>(streams_refused_));
}

}  // namespace banyan::tree_manager
