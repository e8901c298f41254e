// Registry proxies, asked for their conversions while somebody looks.
//
// The problem is to show what another daemon does without depending on it. Idea: a thread a proxy, which asks only
// while a page that shows conversions is open, one bounded question at a time, and keeps the last answer. Looking never
// waits: it takes what is there. A proxy that is away is said to be away, with the reason, and what it said is not
// shown on.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/client_context.h>

#include "common/mutex.h"
#include "common/result.h"
#include "proto/proxy.grpc.pb.h"

namespace banyan::tree_manager {

// What is known at one time. Immutable.
struct ConversionsView {
  uint64_t version = 0;                            // another for another view
  std::string proxies;                             // a JSON array of {proxy, state, error, leftOut}
  std::map<std::string, std::string> conversions;  // as ViewOf() of proxy_view.h
};

// Internally synchronised.
class ProxyWatch {
 public:
  struct Options {
    std::vector<std::string> addresses;          // status addresses: "host:port", "unix:/path"
    std::chrono::milliseconds interval{1'000};   // from an answer to the next question
    std::chrono::milliseconds deadline{3'000};   // of an answer
    std::chrono::milliseconds attention{5'000};  // how long a look keeps the asking going
    int max_answer_bytes = 4 << 20;
  };

  explicit ProxyWatch(Options options);
  // Breaks off what is under way.
  ~ProxyWatch();
  ProxyWatch(const ProxyWatch&) = delete;
  ProxyWatch& operator=(const ProxyWatch&) = delete;

  // What is known now; never null. Does not block. A proxy that has not been asked lately is "asking".
  std::shared_ptr<const ConversionsView> Look();

 private:
  using Clock = std::chrono::steady_clock;
  using Stub = proto::proxy::RegistryProxy::Stub;
  // All but the address and the thread under mutex_.
  struct Proxy {
    std::string address;
    std::string state = "asking";  // "up", "down"
    std::string error;
    uint64_t left_out = 0;
    std::map<std::string, std::string> conversions;
    grpc::ClientContext* call = nullptr;  // under way
    std::thread thread;
  };

  void Run(Proxy& proxy);
  Result<proto::proxy::ConversionsReply> Ask(Proxy& proxy, Stub& stub);
  void Take(Proxy& proxy, const Result<proto::proxy::ConversionsReply>& answer);
  void Forget(Proxy& proxy) BANYAN_REQUIRES(mutex_);
  bool Watched() const BANYAN_REQUIRES(mutex_);

  const Options options_;
  std::vector<std::unique_ptr<Proxy>> proxies_;  // the list never changes
  Mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ BANYAN_GUARDED_BY(mutex_) = false;
  Clock::time_point attention_ends_ BANYAN_GUARDED_BY(mutex_);
  uint64_t version_ BANYAN_GUARDED_BY(mutex_) = 1;
  std::shared_ptr<const ConversionsView> view_ BANYAN_GUARDED_BY(mutex_);  // of version_, or older
};

}  // namespace banyan::tree_manager
