// Sessions over real gRPC on loopback, the manager restarted in between.
#include "tree-manager/service.h"

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include <fmt/format.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include "common/file_io.h"
#include "common/mutex.h"
#include "proto/tree.grpc.pb.h"

namespace banyan::tree_manager {
namespace {

using namespace std::chrono_literals;
using namespace proto::tree;

std::unique_ptr<TreeManager::Stub> StubFor(uint16_t port) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return TreeManager::NewStub(
      grpc::CreateCustomChannel(fmt::format("127.0.0.1:{}", port), grpc::InsecureChannelCredentials(), arguments));
}

// An agent as the manager sees it: says hello, beats, keeps the newest assignments.
class Client {
 public:
  Client(uint16_t port, Hello hello, const std::string& token = "") : stub_(StubFor(port)) {
    if (!token.empty()) context_.AddMetadata("authorization", "Bearer " + token);
    stream_ = stub_->Session(&context_);
    NodeMessage message;
    *message.mutable_hello() = std::move(hello);
    Send(message);
    reader_ = std::thread([this] { Read(); });
    beater_ = std::thread([this] { Beat(); });
  }
  ~Client() {
    context_.TryCancel();
    Join();
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void Send(const NodeMessage& message) {
    MutexLock lock(write_);
    stream_->Write(message);
  }
  // False after 10 s.
  template <typename Condition>
  bool Await(const Condition& condition) {
    MutexLock lock(mutex_);
    const auto end = std::chrono::steady_clock::now() + 10s;
    while (!condition() && std::chrono::steady_clock::now() < end) lock.WaitUntil(changed_, end);
    return condition();
  }
  bool AwaitAssignment(const std::string& function) {
    return Await([&] { return assignments_.contains(function); });
  }
  Assignment assignment(const std::string& function) {
    MutexLock lock(mutex_);
    return assignments_[function];
  }
  std::optional<Welcome> welcome_;
  std::optional<bool> peer_to_peer_;
  std::map<std::string, Profile> profiles_;
  std::optional<grpc::Status> status_;
  std::optional<SwarmPeers> swarm_peers_;  // the latest

 private:
  void Read() {
    for (ManagerMessage message; stream_->Read(&message);) {
      MutexLock lock(mutex_);
      if (message.has_welcome()) welcome_ = message.welcome();
      if (message.has_settings()) peer_to_peer_ = message.settings().peer_to_peer();
      if (message.has_swarm_peers()) swarm_peers_ = message.swarm_peers();
      if (message.has_profile()) profiles_[message.profile().function()] = message.profile();
      for (const Assignment& assignment : message.assignments().assignments()) {
        Assignment& newest = assignments_[assignment.function()];
        if (std::pair(newest.epoch(), newest.version()) < std::pair(assignment.epoch(), assignment.version())) {
          newest = assignment;
        }
      }
      changed_.notify_all();
    }
    const grpc::Status status = stream_->Finish();
    MutexLock lock(mutex_);
    status_ = status;
    changed_.notify_all();
  }
  void Beat() {
    MutexLock lock(mutex_);
    while (!status_) {
      lock.WaitUntil(changed_, std::chrono::steady_clock::now() + 200ms);
      lock.Unlock();
      NodeMessage message;
      message.mutable_heartbeat();
      Send(message);
      lock.Lock();
    }
  }
  void Join() {
    reader_.join();
    beater_.join();
  }

  std::unique_ptr<TreeManager::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<NodeMessage, ManagerMessage>> stream_;
  Mutex write_;
  Mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Assignment> assignments_;
  std::thread reader_;
  std::thread beater_;
};

Hello HelloOf(const std::string& node, const std::vector<std::string>& functions = {}) {
  Hello hello;
  hello.set_node(node);
  hello.set_port(7000);
  hello.set_protocol(1);
  for (const std::string& function : functions) hello.add_functions()->set_function(function);
  return hello;
}

NodeMessage JoinOf(const std::string& function) {
  NodeMessage message;
  message.mutable_join()->set_function(function);
  return message;
}

class ServiceTest : public testing::Test {
 protected:
  void Start(const std::string& token = "") {
    Manager::Options options;
    options.state_path = directory_.path() + "/state";
    options.announce = [](const SwarmAnnounce& announce, const std::string& zone, const std::string& address) {
      SwarmPeers peers;
      auto* peer = peers.add_swarms()->add_peers();
      peer->set_address(fmt::format("{} {}", zone, address));
      peer->set_port(announce.port());
      return peers;
    };
    auto manager = Manager::Start(std::move(options));
    ASSERT_TRUE(manager) << manager.error().message;
    manager_ = std::move(*manager);
    auto service = Service::Listen(*manager_, "127.0.0.1:0", token);
    ASSERT_TRUE(service) << service.error().message;
    service_ = std::move(*service);
  }
  void Stop() {
    service_.reset();
    manager_.reset();
  }
  uint16_t port() const { return service_->port(); }
  void ExpectAll(NodeState state) {
    const NodesReply reply = manager_->Nodes();
    for (const NodeInfo& node : reply.nodes()) EXPECT_EQ(node.state(), state) << node.node();
  }
  std::string Shape(const std::string& function) {
    std::map<std::string, std::string> parents;
    const auto tree = manager_->Tree(function);
    if (!tree) return {};
    for (const TreeNode& node : tree->nodes()) {
      for (const std::string& parent : node.parents()) parents[node.node()] += parent + ",";
    }
    std::string text;
    for (const auto& [node, list] : parents) text += node + ":" + list + ";";
    return text;
  }

  TempDir directory_ = TempDir::Make("tree-manager").value();
  std::unique_ptr<Manager> manager_;
  std::unique_ptr<Service> service_;
};

TEST_F(ServiceTest, NodesJoinAndAreTold) {
  Start();
  Client a(port(), HelloOf("a", {"f"}));
  Client b(port(), HelloOf("b"));
  b.Send(JoinOf("f"));
  ASSERT_TRUE(a.AwaitAssignment("f"));
  ASSERT_TRUE(b.AwaitAssignment("f"));
  ASSERT_TRUE(a.Await([&] { return a.welcome_.has_value(); }));
  EXPECT_EQ(a.welcome_->heartbeat_millis(), 1000U);
  EXPECT_TRUE(a.welcome_->settings().peer_to_peer());
  const Assignment assignment = b.assignment("f");
  EXPECT_EQ(assignment.epoch(), a.welcome_->epoch());
  ASSERT_EQ(assignment.stripes_size(), 2);
  int fed = 0;
  for (const StripeParents& stripe : assignment.stripes()) {
    if (!stripe.has_parent()) continue;
    ++fed;
    EXPECT_EQ(stripe.parent().node(), "a");
    EXPECT_EQ(stripe.parent().address(), "127.0.0.1");  // where the session comes from
    EXPECT_EQ(stripe.parent().port(), 7000U);
  }
  EXPECT_GE(fed, 1);
}

TEST_F(ServiceTest, NobodyMovesOverARestart) {
  Start();
  constexpr int kNodes = 7;
  std::vector<std::unique_ptr<Client>> clients;
  const auto connect = [&](bool fresh) {
    for (int i = 0; i < kNodes; ++i) {
      clients.push_back(std::make_unique<Client>(port(), HelloOf(fmt::format("n{}", i), {"f"})));
      if (fresh) {
        ASSERT_TRUE(clients.back()->AwaitAssignment("f"));
      }
    }
  };
  connect(true);
  const std::string before = Shape("f");
  const uint64_t epoch = clients[0]->welcome_->epoch();
  const uint64_t version = clients[0]->assignment("f").version();
  Stop();
  clients.clear();
  Start();
  EXPECT_EQ(Shape("f"), before);
  ExpectAll(AWAY);
  connect(false);
  for (const auto& client : clients) ASSERT_TRUE(client->AwaitAssignment("f"));
  EXPECT_EQ(Shape("f"), before);
  EXPECT_EQ(clients[0]->welcome_->epoch(), epoch);
  EXPECT_GT(clients[0]->assignment("f").version(), version);
  ExpectAll(LIVE);
}

TEST_F(ServiceTest, LostStateIsMadeAnewOfWhatAgentsSay) {
  Start();
  uint64_t epoch = 0;
  {
    Client a(port(), HelloOf("a", {"f"}));
    ASSERT_TRUE(a.AwaitAssignment("f"));
    epoch = a.assignment("f").epoch();
  }
  Stop();
  for (const auto& entry : std::filesystem::directory_iterator(directory_.path() + "/state")) {
    if (entry.path().filename().string().starts_with("CURRENT")) std::ofstream(entry.path()) << "rubbish";
  }
  Start();
  EXPECT_TRUE(std::filesystem::exists(directory_.path() + "/state.damaged-1"));
  Hello hello = HelloOf("a", {"f"});
  hello.mutable_functions(0)->mutable_known()->set_epoch(epoch);
  hello.mutable_functions(0)->mutable_known()->set_version(uint64_t{9} << 32);
  Client a(port(), hello);
  ASSERT_TRUE(a.AwaitAssignment("f"));
  EXPECT_GT(a.assignment("f").epoch(), epoch);
}

TEST_F(ServiceTest, TheTokenIsAskedFor) {
  Start("secret");
  Client stranger(port(), HelloOf("a"), "guess");
  ASSERT_TRUE(stranger.Await([&] { return stranger.status_.has_value(); }));
  EXPECT_EQ(stranger.status_->error_code(), grpc::StatusCode::UNAUTHENTICATED);
  Client friendly(port(), HelloOf("b"), "secret");
  EXPECT_TRUE(friendly.Await([&] { return friendly.welcome_.has_value(); }));
  grpc::ClientContext context;
  NodesReply reply;
  EXPECT_EQ(StubFor(port())->Nodes(&context, {}, &reply).error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(ServiceTest, ANewerSessionEndsTheOlder) {
  Start();
  Client first(port(), HelloOf("a", {"f"}));
  ASSERT_TRUE(first.AwaitAssignment("f"));
  Client second(port(), HelloOf("a", {"f"}));
  ASSERT_TRUE(first.Await([&] { return first.status_.has_value(); }));
  EXPECT_FALSE(first.status_->ok());
  EXPECT_TRUE(second.AwaitAssignment("f"));
}

TEST_F(ServiceTest, WhoDoesNotSayHelloIsRefused) {
  Start();
  const auto stub = StubFor(port());
  grpc::ClientContext context;
  const auto stream = stub->Session(&context);
  stream->Write(JoinOf("f"));
  ManagerMessage message;
  EXPECT_FALSE(stream->Read(&message));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(ServiceTest, TheSwitchReachesEverySession) {
  Start();
  Client a(port(), HelloOf("a"));
  ASSERT_TRUE(a.Await([&] { return a.welcome_.has_value(); }));
  grpc::ClientContext context;
  SetPeerToPeerRequest request;
  request.set_off(true);
  SetPeerToPeerReply reply;
  ASSERT_TRUE(StubFor(port())->SetPeerToPeer(&context, request, &reply).ok());
  EXPECT_TRUE(a.Await([&] { return a.peer_to_peer_ == false; }));
}

TEST_F(ServiceTest, AWatcherSeesTheStateAndThenChanges) {
  Start();
  Client a(port(), HelloOf("a", {"f"}));
  ASSERT_TRUE(a.AwaitAssignment("f"));
  const auto stub = StubFor(port());
  grpc::ClientContext context;
  const auto reader = stub->Watch(&context, {});
  bool saw_node = false;
  bool saw_tree = false;
  WatchEvent event;
  while (reader->Read(&event) && !event.synced()) {
    saw_node |= event.node().node() == "a";
    saw_tree |= event.tree().function().function() == "f";
  }
  EXPECT_TRUE(event.synced());
  EXPECT_TRUE(saw_node);
  EXPECT_TRUE(saw_tree);
  Client b(port(), HelloOf("b", {"f"}));
  bool saw_b = false;
  while (!saw_b && reader->Read(&event)) {
    for (const TreeNode& node : event.tree().nodes()) saw_b |= node.node() == "b";
  }
  EXPECT_TRUE(saw_b);
  EXPECT_GT(event.unix_micros(), 0U);
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(ServiceTest, FirstTouchesReachLaterJoiners) {
  Start();
  Client a(port(), HelloOf("a", {"f"}));
  ASSERT_TRUE(a.AwaitAssignment("f"));
  NodeMessage message;
  Touches& touches = *message.mutable_touches();
  touches.set_function("f");
  touches.mutable_chunks()->add_blobs("sha256:" + std::string(64, 'a'));
  for (const uint32_t chunk : {7U, 3U}) {
    touches.mutable_chunks()->add_blob(0);
    touches.mutable_chunks()->add_chunk(chunk);
  }
  a.Send(message);
  ASSERT_TRUE(a.Await([&] { return a.profiles_.contains("f"); }));
  Client b(port(), HelloOf("b", {"f"}));
  ASSERT_TRUE(b.Await([&] { return b.profiles_.contains("f"); }));
  const Profile& profile = b.profiles_["f"];
  EXPECT_TRUE(profile.provisional());
  ASSERT_EQ(profile.chunks().chunk_size(), 2);
  EXPECT_EQ(profile.chunks().chunk(0), 7U);
  EXPECT_EQ(profile.chunks().chunk(1), 3U);
}

TEST(IpOfPeerTest, IsFoundInEveryForm) {
  EXPECT_EQ(IpOfPeer("ipv4:10.0.0.7:4711"), "10.0.0.7");
  EXPECT_EQ(IpOfPeer("ipv6:[::1]:4711"), "::1");
  EXPECT_EQ(IpOfPeer("ipv6:%5Bfd00::7%5D:4711"), "fd00::7");
  EXPECT_EQ(IpOfPeer("ipv6:[::ffff:10.0.0.7]:1"), "10.0.0.7");
  for (const char* text : {"", "ipv4:", "ipv6:", "ipv6:[]:1", "unix:/x", "ipv6:[:", "ipv4:1.2.3.4"}) {
    EXPECT_TRUE(IpOfPeer(text).empty() || std::string(text) == "ipv4:1.2.3.4") << text;
  }
}

TEST_F(ServiceTest, AnnouncesOfSwarmsAreAnsweredInTheSession) {
  Start();
  Hello hello = HelloOf("a");
  hello.set_zone("z");
  hello.set_address("10.0.0.7");
  Client a(port(), hello);
  Client b(port(), HelloOf("b"));
  NodeMessage message;
  message.mutable_swarms()->set_port(4711);
  a.Send(message);
  b.Send(message);
  ASSERT_TRUE(a.Await([&] { return a.swarm_peers_.has_value(); }));
  EXPECT_EQ(a.swarm_peers_->swarms(0).peers(0).address(), "z 10.0.0.7");
  EXPECT_EQ(a.swarm_peers_->swarms(0).peers(0).port(), 4711U);
  ASSERT_TRUE(b.Await([&] { return b.swarm_peers_.has_value(); }));
  EXPECT_EQ(b.swarm_peers_->swarms(0).peers(0).address(), " 127.0.0.1") << "where its session comes from";
}

}  // namespace
}  // namespace banyan::tree_manager
