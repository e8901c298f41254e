#include "tree-manager/dashboard/proxy_watch.h"

#include <utility>

#include <grpcpp/create_channel.h>
#include <nlohmann/json.hpp>

#include "tree-manager/dashboard/proxy_view.h"
#include "tree-manager/dashboard/view_json.h"

namespace banyan::tree_manager {

using nlohmann::json;
using proto::proxy::ConversionsReply;

ProxyWatch::ProxyWatch(Options options) : options_(std::move(options)) {
  for (const std::string& address : options_.addresses) {
    proxies_.push_back(std::make_unique<Proxy>());
    proxies_.back()->address = address;
  }
  for (const auto& proxy : proxies_) proxy->thread = std::thread([this, &proxy = *proxy] { Run(proxy); });
}

ProxyWatch::~ProxyWatch() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    for (const auto& proxy : proxies_) {
      if (proxy->call != nullptr) proxy->call->TryCancel();
    }
  }
  wake_.notify_all();
  for (const auto& proxy : proxies_) proxy->thread.join();
}

std::shared_ptr<const ConversionsView> ProxyWatch::Look() {
  MutexLock lock(mutex_);
  const bool slept = !Watched();
  attention_ends_ = Clock::now() + options_.attention;
  if (slept) wake_.notify_all();
  if (view_ && view_->version == version_) return view_;
  auto view = std::make_shared<ConversionsView>();
  view->version = version_;
  json proxies = json::array();
  for (const auto& proxy : proxies_) {
    proxies.push_back(
        {{"proxy", proxy->address}, {"state", proxy->state}, {"error", proxy->error}, {"leftOut", proxy->left_out}});
    view->conversions.insert(proxy->conversions.begin(), proxy->conversions.end());
  }
  view->proxies = Dump(proxies);
  view_ = view;
  return view;
}

bool ProxyWatch::Watched() const { return Clock::now() < attention_ends_; }

// The channel lives as long as the attention: nobody looks, nothing is connected.
void ProxyWatch::Run(Proxy& proxy) {
  std::unique_ptr<Stub> stub;
  MutexLock lock(mutex_);
  while (!stopping_) {
    if (!Watched()) {
      stub.reset();
      Forget(proxy);
      lock.Wait(wake_);
      continue;
    }
    lock.Unlock();
    if (!stub) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
      arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
      arguments.SetMaxReceiveMessageSize(options_.max_answer_bytes);
      stub = proto::proxy::RegistryProxy::NewStub(
          grpc::CreateCustomChannel(proxy.address, grpc::InsecureChannelCredentials(), arguments));
    }
    Take(proxy, Ask(proxy, *stub));
    lock.Lock();
    const auto next = Clock::now() + options_.interval;
    while (!stopping_ && Clock::now() < next) lock.WaitUntil(wake_, next);
  }
}

// The first message of the answer; a proxy that sends more is not listened to.
Result<ConversionsReply> ProxyWatch::Ask(Proxy& proxy, Stub& stub) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + options_.deadline);
  {
    MutexLock lock(mutex_);
    if (stopping_) return Fail(Code::kCancelled, "stopping");
    proxy.call = &context;
  }
  proto::proxy::ConversionsRequest request;
  request.set_limit(kMaxConversions);
  const auto reader = stub.Conversions(&context, request);
  ConversionsReply reply;
  const bool answered = reader->Read(&reply);
  if (answered) context.TryCancel();
  const grpc::Status status = reader->Finish();
  MutexLock lock(mutex_);
  proxy.call = nullptr;
  if (answered) return reply;
  if (status.ok()) return Fail(Code::kDataLoss, "an answer without a message");
  return Fail(static_cast<Code>(status.error_code()), status.error_message());
}

void ProxyWatch::Take(Proxy& proxy, const Result<ConversionsReply>& answer) {
  std::map<std::string, std::string> conversions;
  if (answer) conversions = ViewOf(*answer, proxy.address);
  MutexLock lock(mutex_);
  proxy.state = answer ? "up" : "down";
  proxy.error = answer ? "" : answer.error().message.substr(0, kMaxConversionText);
  proxy.left_out = answer ? answer->left_out() : 0;
  if (conversions != proxy.conversions) proxy.conversions = std::move(conversions);
  ++version_;
}

void ProxyWatch::Forget(Proxy& proxy) {
  if (proxy.state == "asking") return;
  proxy.state = "asking";
  proxy.error.clear();
  proxy.left_out = 0;
  proxy.conversions.clear();
  ++version_;
}

}  // namespace banyan::tree_manager
