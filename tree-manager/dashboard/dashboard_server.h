// The operators' view of the trees, for browsers: files, JSON and live events, under the manager's HTTP port.
//
//   /                      the pages (web/), embedded into the program
//   /api/v1/status         what this manager is, and counts
//   /api/v1/functions      every function that nodes run
//   /api/v1/tree           ?function=  its nodes, with their parents in each stripe; as `banyan tree --json`
//   /api/v1/nodes          ?node=  the cluster's nodes, or one; as `banyan nodes --json`
//   /api/v1/starts         ?limit=  the latest cold starts, the newest first
//   /api/v1/conversions    what the registry proxies convert, and how each of them is
//   /api/v1/events         ?function=&nodes=1&starts=1&conversions=1  the same, live (event_stream.h)
//
// It only reads: nothing here can change the cluster. All addresses in the pages are relative, so a reverse proxy may
// put them below a prefix. docs/dashboard.md.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/metrics.h"
#include "common/mutex.h"
#include "net/http_server.h"
#include "tree-manager/dashboard/event_stream.h"
#include "tree-manager/dashboard/proxy_watch.h"
#include "tree-manager/dashboard/query.h"
#include "tree-manager/manager.h"

namespace banyan::tree_manager {

// Internally synchronised.
class DashboardServer {
 public:
  struct Options {
    std::string version;
    bool local_only = false;                     // who asks from another machine is refused
    bool preheats = false;                       // whether the preheating API takes any; pages are told
    std::chrono::milliseconds batch{250};        // between two writes to a browser
    std::chrono::milliseconds functions{1'000};  // between two looks at the list of functions
    size_t max_streams = 48;                     // of the 64 that may watch the manager
    ProxyWatch::Options proxies;
  };

  // The manager must outlive it.
  DashboardServer(Manager& manager, Options options);
  // EndStreams()s. After the HTTP server.
  ~DashboardServer();
  DashboardServer(const DashboardServer&) = delete;
  DashboardServer& operator=(const DashboardServer&) = delete;

  // Answers whatever is asked of it, now or in events.
  void Handle(const net::HttpRequest& request, const std::shared_ptr<net::HttpReply>& reply);
  // Ends the live views, and takes no more: before the HTTP server is stopped.
  void EndStreams();
  void AddMetrics(MetricsPage& page) const;

 private:
  net::HttpResponse Answer(const net::HttpRequest& request);
  net::HttpResponse AnswerApi(std::string_view path, const Query& query);
  void OpenStream(const Query& query, const std::shared_ptr<net::HttpReply>& reply);
  std::string StatusText();
  void Tick();
  void OfferConversions() BANYAN_REQUIRES(mutex_);
  void LookAtFunctions() BANYAN_REQUIRES(mutex_);

  Manager& manager_;
  const Options options_;
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();

  ProxyWatch proxies_;

  mutable Mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ BANYAN_GUARDED_BY(mutex_) = false;
  std::vector<std::shared_ptr<EventStream>> streams_ BANYAN_GUARDED_BY(mutex_);
  uint64_t streams_opened_ BANYAN_GUARDED_BY(mutex_) = 0;
  uint64_t streams_refused_ BANYAN_GUARDED_BY(mutex_) = 0;
  std::map<std::string, std::string> functions_ BANYAN_GUARDED_BY(mutex_);  // as JSON, at the last look
  EventStream::Clock::time_point looked_ BANYAN_GUARDED_BY(mutex_);

  std::thread ticker_;
};

}  // namespace banyan::tree_manager
