// The node's session with the tree-manager: one bidirectional gRPC stream, made anew for as long as it takes.
//
// While no manager answers nothing is lost but time: agents keep the parents they have. A new session begins with all
// memberships, so what could not be sent before is not kept.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "proto/tree.grpc.pb.h"

namespace banyan::peer_agent {

// Internally synchronised.
class TreeClient {
 public:
  struct Options {
    std::string manager;  // "host:port"
    std::string token;    // may be empty
    std::function<proto::tree::Hello()> hello;
    std::function<proto::tree::Heartbeat()> heartbeat;
    // On the session's thread, in order; must not block for long.
    std::function<void(const proto::tree::ManagerMessage&)> on_message;
    // On the sending thread, session or not: at first, and then when it is due by its own last word or by Wake(), but
    // not more often than every `tick`. Returns when it is due next; time_point::max(): only by Wake().
    std::function<std::chrono::steady_clock::time_point()> on_tick;
    std::chrono::milliseconds tick{100};
  };

  explicit TreeClient(Options options);
  // Stop()s.
  ~TreeClient();
  TreeClient(const TreeClient&) = delete;
  TreeClient& operator=(const TreeClient&) = delete;

  // Ends the session; what is sent from now on is dropped. Not from a callback.
  void Stop();
  // Begins. Messages may be sent before.
  void Start();
  // Queues; dropped when there is no session, or too much is queued.
  void Send(proto::tree::NodeMessage message);
  bool connected() const;
  // on_tick has something to do. Any thread, cheap; may be called under locks that on_tick takes.
  void Wake();

 private:
  using Stream = grpc::ClientReaderWriterInterface<proto::tree::NodeMessage, proto::tree::ManagerMessage>;

  void RunSessions();
  void RunSession();
  void RunSender();
  bool SleepFor(std::chrono::milliseconds time);

  const Options options_;
  std::unique_ptr<proto::tree::TreeManager::Stub> stub_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;                      // guarded by mutex_, as is all that follows
  bool connected_ = false;                     // the manager has said welcome
  std::shared_ptr<Stream> stream_;             // null: no session
  std::shared_ptr<grpc::ClientContext> call_;  // of stream_
  std::deque<proto::tree::NodeMessage> queue_;
  std::chrono::milliseconds beat_{1000};
  bool woken_ = false;  // since the last tick began

  std::thread sender_;   // writes, and beats
  std::thread session_;  // makes sessions, and reads
};

}  // namespace banyan::peer_agent
