// Agents for the dashboard's tests, without images: each holds a session with a tree-manager, beats, and says that
// bytes come. What happens is told on standard input, a line an order; each is answered by a line, "ok" or "error: …":
//
//   add COUNT FUNCTION ZONES [PREFIX]   COUNT agents PREFIX1…, dealt out to that many zones (1: none); waits for their
//                                       places. More than 2,500 share connections, as one process cannot serve so many
//   name NAME FUNCTION ZONE             one agent of that name (percent-encoded; so is ZONE)
//   kill NAME                           its connection is cut, as when the process dies
//   hold PERMILLE                       all hold so much; not all of it: bytes flow
//   flow DEMAND PREFETCH FILL           each stripe of those that hold not all brings so many bytes a second, at first
//                                       changing ones
//   start NAME FUNCTION                 it reports a cold start
//   touch NAME COUNT                    it reports so many first touches
//   wait                                until all agents have a place
//   bring THIRDS                        all bring so much of an image that is preheated, a third a beat; at first: 3
//   refuse NAME ERROR                   it brings a third, and then fails so (both percent-encoded)
//   proxy ADDRESS                       a registry proxy's status address; once more: it is gone
//   conversion JSON                     that proxy converts: the JSON form of proto/proxy.proto's Conversion, by its
//   digest
//
//   dashboard_fleet MANAGER-HOST:PORT [TOKEN-FILE]
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <thread>

#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include "common/mutex.h"
#include "proto/proxy.grpc.pb.h"
#include "proto/tree.grpc.pb.h"

namespace banyan {
namespace {

using namespace std::chrono_literals;
using namespace proto::tree;

constexpr uint32_t kSomePort = 7000;
constexpr uint32_t kConnectionsOfTheirOwn = 2'500;
constexpr uint32_t kSharers = 20;
constexpr uint64_t kBlobBytes = 412'000'000;
constexpr uint64_t kGiga = 1'000'000'000;

// Bytes per second by class.
struct Flow {
  uint64_t demand = 0;
  uint64_t prefetch = 0;
  uint64_t fill = 0;
};

std::string Decode(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      out += static_cast<char>(std::stoi(text.substr(i + 1, 2), nullptr, 16));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection each, as nodes have
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// One agent's session, on gRPC's callback API.
class Agent final : public grpc::ClientBidiReactor<NodeMessage, ManagerMessage> {
 public:
  Agent(const std::shared_ptr<grpc::Channel>& channel, const std::string& token, std::string name, std::string zone,
        std::string function, uint32_t number)
      : name_(std::move(name)), function_(std::move(function)), number_(number), stub_(TreeManager::NewStub(channel)) {
    if (!token.empty()) context_.AddMetadata("authorization", "Bearer " + token);
    Hello& hello = *outgoing_.mutable_hello();
    hello.set_node(name_);
    hello.set_zone(std::move(zone));
    hello.set_address(fmt::format("10.{}.{}.{}", number / 62500, number / 250 % 250, number % 250 + 1));
    hello.set_port(kSomePort);
    hello.set_version(number % 9 == 0 ? "0.0.9" : "0.1.0");
    hello.set_protocol(1);
    Join& join = *hello.add_functions();
    join.set_function(function_);
    join.set_reference("docker://registry.example/" + function_.substr(0, 32) + ":2.14");
    stub_->async()->Session(&context_, this);
    AddHold();
    StartRead(&incoming_);
    StartWrite(&outgoing_);
    StartCall();
  }
  ~Agent() override {
    context_.TryCancel();
    RemoveHold();
    MutexLock lock(mutex_);
    while (!done_) lock.Wait(changed_);
  }

  bool assigned() const { return assigned_; }
  void Refuse(std::string error) {
    MutexLock lock(mutex_);
    refusal_ = std::move(error);
  }
  const std::string& name() const { return name_; }

  void Beat(uint32_t permille, uint64_t thirds, uint64_t round, const std::optional<Flow>& flow) {
    if (writing_.exchange(true)) return;
    outgoing_.Clear();
    thirds_due_ = thirds;
    Heartbeat& beat = *outgoing_.mutable_heartbeat();
    // Those further down are behind; some are always complete.
    const uint32_t held = number_ % 5 == 0 ? 1000 : permille * (20 - number_ % 11) / 20;
    beat.set_store_bytes((4 + number_ * 7 % 89) * kGiga);
    beat.set_store_budget_bytes(100 * kGiga);
    Holding& holding = *beat.add_holdings();
    holding.set_function(function_);
    holding.set_present_permille(held);
    holding.set_ready(number_ % 7 != 3 || held == 1000);
    holding.set_blob_bytes(kBlobBytes);
    if (held < 1000) AddFeeds(beat, round, flow);
    StartWrite(&outgoing_);
  }
  void Start(const StartReport& report) {
    *NextMessage().mutable_start() = report;
    StartWrite(&outgoing_);
  }
  void Touch(uint32_t count) {
    Touches& touches = *NextMessage().mutable_touches();
    touches.set_function(function_);
    touches.mutable_chunks()->add_blobs(function_);
    for (uint32_t chunk = 0; chunk < count; ++chunk) {
      touches.mutable_chunks()->add_blob(0);
      touches.mutable_chunks()->add_chunk(chunk);
    }
    StartWrite(&outgoing_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    for (const Assignment& assignment : incoming_.assignments().assignments()) {
      for (int i = 0; i < assignment.stripes_size() && i < 2; ++i) {
        fed_by_peer_[i] = assignment.stripes(i).has_parent();
      }
      assigned_ = true;
    }
    if (incoming_.has_preheat()) {
      MutexLock lock(mutex_);
      preheats_.push_back(incoming_.preheat().id());
    }
    StartRead(&incoming_);
  }
  void OnWriteDone(bool ok) override {
    if (ok && SetPreheatReport(thirds_due_.exchange(0))) return StartWrite(&outgoing_);
    writing_ = !ok;
  }
  void OnDone(const grpc::Status& /*status*/) override {
    MutexLock lock(mutex_);
    done_ = true;
    changed_.notify_all();
  }

 private:
  // Until nothing is being written; then the message is the caller's.
  NodeMessage& NextMessage() {
    while (writing_.exchange(true)) std::this_thread::sleep_for(1ms);
    outgoing_.Clear();
    return outgoing_;
  }

  void AddFeeds(Heartbeat& beat, uint64_t round, const std::optional<Flow>& flow) {
    uint64_t total = 0;
    for (uint32_t stripe = 0; stripe < 2; ++stripe) {
      const uint64_t mood = (number_ * 2654435761U + stripe * 40503U + round / 4 * 7919U) >> 3;
      Feed& feed = *beat.add_feeds();
      feed.set_function(function_);
      feed.set_stripe(stripe);
      feed.set_from(fed_by_peer_[stripe] ? Feed::PARENT : Feed::ORIGIN);
      const Flow now = flow.value_or(Flow{.demand = mood % 5 == 0 ? 3'000'000 + mood % 999'983 : 0,
                                          .prefetch = mood % 3 != 0 ? 2'000'000 + mood % 9'999'991 : 0,
                                          .fill = mood % 4 == 1 ? 20'000'000 + mood % 999'983 : 0});
      feed.set_demand(now.demand);
      feed.set_prefetch(now.prefetch);
      feed.set_fill(now.fill);
      total += feed.demand() + feed.prefetch() + feed.fill();
    }
    beat.set_downlink_bytes_per_second(total);
    beat.set_uplink_bytes_per_second(number_ % 2 == 0 ? total * 2 : 0);
  }

  // The next third of the first of them; false: there is none, or it has `due` of them.
  bool SetPreheatReport(uint64_t due) {
    MutexLock lock(mutex_);
    if (preheats_.empty() || thirds_ >= due) return false;
    outgoing_.Clear();
    PreheatReport& report = *outgoing_.mutable_preheat();
    report.set_id(preheats_.front());
    report.set_total_bytes(kBlobBytes);
    report.set_present_bytes(kBlobBytes * ++thirds_ / 3);
    report.set_ended(thirds_ == 3 || !refusal_.empty());
    report.set_error(refusal_);
    if (report.ended()) {
      preheats_.pop_front();
      thirds_ = 0;
    }
    return true;
  }

  const std::string name_;
  const std::string function_;
  const uint32_t number_;
  const std::unique_ptr<TreeManager::Stub> stub_;
  grpc::ClientContext context_;
  NodeMessage outgoing_;
  ManagerMessage incoming_;
  std::atomic<bool> writing_{true};
  std::atomic<bool> assigned_{false};
  std::atomic<bool> fed_by_peer_[2] = {};
  std::atomic<uint64_t> thirds_due_{0};
  Mutex mutex_;
  std::deque<uint64_t> preheats_ BANYAN_GUARDED_BY(mutex_);
  uint64_t thirds_ BANYAN_GUARDED_BY(mutex_) = 0;  // of the first of them
  std::string refusal_ BANYAN_GUARDED_BY(mutex_);
  std::condition_variable changed_;
  bool done_ = false;
};

// A registry proxy that says what it is told to say.
class FakeProxy final : public proto::proxy::RegistryProxy::Service {
 public:
  bool Toggle(const std::string& address) {
    if (server_) {
      server_->Shutdown(std::chrono::system_clock::now());
      server_.reset();
      return true;
    }
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    return server_ != nullptr;
  }
  bool Set(const std::string& json) {
    proto::proxy::Conversion conversion;
    if (!google::protobuf::util::JsonStringToMessage(json, &conversion).ok()) return false;
    MutexLock lock(mutex_);
    conversions_[conversion.digest()] = conversion;
    return true;
  }
  grpc::Status Conversions(grpc::ServerContext* /*context*/, const proto::proxy::ConversionsRequest* /*request*/,
                           grpc::ServerWriter<proto::proxy::ConversionsReply>* writer) override {
    proto::proxy::ConversionsReply reply;
    {
      MutexLock lock(mutex_);
      for (const auto& [digest, conversion] : conversions_) *reply.add_conversions() = conversion;
    }
    writer->Write(reply);
    return grpc::Status::OK;
  }

 private:
  Mutex mutex_;
  std::map<std::string, proto::proxy::Conversion> conversions_ BANYAN_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Server> server_;
};

class Fleet {
 public:
  Fleet(std::string manager, std::string token) : manager_(std::move(manager)), token_(std::move(token)) {
    beater_ = std::thread([this] { Beat(); });
  }
  ~Fleet() {
    stopping_ = true;
    beater_.join();
  }

  std::string Do(const std::string& line) {
    std::istringstream words(line);
    std::string verb;
    words >> verb;
    if (verb == "add") return Add(words);
    if (verb == "wait") return Wait();
    std::string rest;
    if (verb == "proxy" && words >> rest) return proxy_.Toggle(rest) ? "ok" : "error: cannot listen there";
    if (verb == "conversion" && std::getline(words, rest)) return proxy_.Set(rest) ? "ok" : "error: no conversion";
    MutexLock lock(mutex_);
    std::string name;
    std::string function;
    std::string zone;
    if (verb == "hold" && words >> permille_) return "ok";
    if (verb == "bring" && words >> thirds_) return "ok";
    if (Flow flow; verb == "flow" && words >> flow.demand >> flow.prefetch >> flow.fill) return flow_ = flow, "ok";
    if (verb == "name" && words >> name >> function) {
      words >> zone;
      AddOne(ChannelTo(manager_), Decode(name), Decode(zone), function);
      return "ok";
    }
    words >> name >> function;
    const auto found = agents_.find(Decode(name));
    if (found == agents_.end()) return "error: no such agent";
    if (verb == "kill") return agents_.erase(found), "ok";
    if (verb == "refuse") return found->second->Refuse(Decode(function)), "ok";
    if (verb == "start") return found->second->Start(StartOf(function)), "ok";
    if (verb == "touch") return found->second->Touch(static_cast<uint32_t>(std::stoul(function))), "ok";
    return "error: which order?";
  }

 private:
  std::string Add(std::istringstream& words) {
    uint32_t count = 0;
    uint32_t zones = 0;
    std::string function;
    std::string prefix = "node-";
    if (!(words >> count >> function >> zones)) return "error: add COUNT FUNCTION ZONES";
    words >> prefix;
    std::shared_ptr<grpc::Channel> channel;
    for (uint32_t i = 0; i < count; ++i) {
      if (count <= kConnectionsOfTheirOwn || i % kSharers == 0) channel = ChannelTo(manager_);
      MutexLock lock(mutex_);
      const std::string zone = zones < 2 ? "" : fmt::format("eu-{}", static_cast<char>('a' + i % zones));
      AddOne(channel, fmt::format("{}{}", prefix, i + 1), zone, function);
      lock.Unlock();
      if (i % 50 == 49) std::this_thread::sleep_for(5ms);
    }
    return Wait();
  }

  void AddOne(const std::shared_ptr<grpc::Channel>& channel, const std::string& name, const std::string& zone,
              const std::string& function) BANYAN_REQUIRES(mutex_) {
    agents_[name] = std::make_unique<Agent>(channel, token_, name, zone, function, ++numbers_);
  }

  std::string Wait() {
    const auto end = std::chrono::steady_clock::now() + 60s;
    while (std::chrono::steady_clock::now() < end) {
      MutexLock lock(mutex_);
      bool all = true;
      for (const auto& [name, agent] : agents_) all = all && agent->assigned();
      lock.Unlock();
      if (all) return "ok";
      std::this_thread::sleep_for(10ms);
    }
    return "error: not all have a place after 60 s";
  }

  StartReport StartOf(const std::string& function) {
    StartReport report;
    report.set_function(function);
    report.set_reference("docker://registry.example/" + function.substr(0, 32) + ":2.14");
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    report.set_began_unix_micros(
        static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(now).count()));
    uint64_t at = 0;
    uint64_t seed = ++starts_ * 2654435761U;
    constexpr std::pair<const char*, uint64_t> kStages[] = {
        {"resolve", 30'000},    {"map", 20'000},       {"metadata", 60'000},         {"mount", 9'000},
        {"container", 190'000}, {"first read", 8'000}, {"last cold read", 1'900'000}};
    for (const auto& [name, usual] : kStages) {
      seed = seed * 6364136223846793005U + 1442695040888963407U;
      StartReport::Stage& stage = *report.add_stages();
      stage.set_name(name);
      stage.set_begin(at);
      at += usual / 3 + (seed >> 33) % usual;
      stage.set_end(at);
    }
    for (const auto& [name, chunks] : {std::pair{"parent", 120U}, std::pair{"proxy", 9U}}) {
      StartReport::Source& source = *report.add_sources();
      source.set_name(name);
      source.set_chunks(chunks);
      source.set_compressed_bytes(chunks * 241'000ULL);
    }
    report.set_quiet(starts_ % 6 != 0);
    return report;
  }

  // A beat a second each, spread over the second.
  void Beat() {
    for (uint64_t round = 0; !stopping_; ++round) {
      for (uint32_t slice = 0; slice < 10 && !stopping_; ++slice) {
        {
          MutexLock lock(mutex_);
          uint32_t at = 0;
          for (const auto& [name, agent] : agents_) {
            if (at++ % 10 == slice) agent->Beat(permille_, thirds_, round, flow_);
          }
        }
        std::this_thread::sleep_for(100ms);
      }
    }
  }

  const std::string manager_;
  const std::string token_;
  Mutex mutex_;
  std::map<std::string, std::unique_ptr<Agent>> agents_ BANYAN_GUARDED_BY(mutex_);
  uint32_t permille_ BANYAN_GUARDED_BY(mutex_) = 600;
  uint64_t thirds_ BANYAN_GUARDED_BY(mutex_) = 3;
  std::optional<Flow> flow_ BANYAN_GUARDED_BY(mutex_);
  uint32_t numbers_ BANYAN_GUARDED_BY(mutex_) = 0;
  uint64_t starts_ = 0;
  std::atomic<bool> stopping_{false};
  FakeProxy proxy_;
  std::thread beater_;
};

int Run(const std::string& manager, const std::string& token_file) {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  std::string token;
  if (!token_file.empty()) std::getline(std::ifstream(token_file) >> std::ws, token);
  Fleet fleet(manager, token);
  for (std::string line; std::getline(std::cin, line);) {
    fmt::print("{}\n", fleet.Do(line));
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace banyan

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: dashboard_fleet MANAGER [TOKEN-FILE]\n");
    return 2;
  }
  return banyan::Run(argv[1], argc > 2 ? argv[2] : "");
}
