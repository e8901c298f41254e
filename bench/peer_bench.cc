// What serving peers costs a node, in CPU seconds of its own process, over loopback without TLS: chunks out of the
// store, and chunks that come from another node meanwhile (received, checked, stored, sent on).
//
//   peer_bench [GiB to serve] [connections]
//
// Three processes: a seed, a relay whose parent the seed is, and this one, which asks and throws away. The first two
// tell their CPU time when they are asked.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>

#include <fmt/format.h>

#include "bench/process.h"
#include "common/executor.h"
#include "common/file_io.h"
#include "common/log.h"
#include "fetch/peer_client.h"
#include "fetch/scheduler.h"
#include "fetch/tree_source.h"
#include "net/http_client.h"
#include "net/range_header.h"
#include "peer-agent/peer_server.h"

namespace banyan {
namespace {

using bench::CpuSeconds;
using bench::Must;
using fetch::Clock;
using peer_agent::PeerServer;

constexpr uint32_t kChunkBytes = 256 * kKiB;
constexpr uint32_t kChunks = 2048;
constexpr uint32_t kAskChunks = 4;
const std::string kFunction = "bench";

// A blob of random bytes as a file, and its chunk table.
std::shared_ptr<const image_format::Device> MakeBlob(const std::string& path) {
  auto device = std::make_shared<image_format::Device>();
  const UniqueFd file = Must(OpenFile(path, O_WRONLY | O_CREAT));
  std::mt19937_64 random(1);
  std::vector<uint64_t> chunk(kChunkBytes / sizeof(uint64_t));
  for (uint32_t i = 0; i < kChunks; ++i) {
    for (uint64_t& word : chunk) word = random();
    const auto bytes = std::as_bytes(std::span(chunk));
    if (::write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) std::abort();
    if (!device->chunks.Append(kChunkBytes, 128, Digest::Of(bytes), Digest())) std::abort();
  }
  device->blob_digest = Digest::Of("bench");
  device->blob_bytes = device->chunks.blob_bytes();
  device->blocks = static_cast<uint32_t>(device->chunks.device_blocks());
  return device;
}

// Everything is here, in one file.
class FileLayer final : public fetch::RelayLayer {
 public:
  FileLayer(std::shared_ptr<const image_format::Device> device, const std::string& path)
      : device_(std::move(device)), file_(Must(OpenFile(path, O_RDONLY))) {}
  const image_format::Device& device() const override { return *device_; }
  fetch::ChunkState StateOf(ChunkIndex) const override { return fetch::ChunkState::kHere; }
  fetch::ReadId ReadCompressed(ChunkIndex chunk, fetch::Priority, fetch::OnCompressed done) override {
    const image_format::Chunk& entry = device_->chunks[chunk];
    fetch::CompressedView view;
    view.fd = file_.get();
    view.offset = entry.compressed_offset;
    view.length = entry.compressed_bytes;
    done(std::move(view));
    return 0;
  }
  void Forget(fetch::ReadId) override {}

 private:
  const std::shared_ptr<const image_format::Device> device_;
  const UniqueFd file_;
};

class OneLayer final : public peer_agent::PeerCatalog {
 public:
  explicit OneLayer(std::shared_ptr<fetch::RelayLayer> layer) : layer_(std::move(layer)) {}
  bool IsJoined(const std::string&) override { return true; }
  Found Find(const std::string&, const Digest&) override { return {Found::Kind::kLayer, layer_}; }
  void DropChunk(const std::string&, const Digest&, ChunkIndex) override {}

 private:
  const std::shared_ptr<fetch::RelayLayer> layer_;
};

class NoOrigins final : public fetch::ChunkSource {
 public:
  void Fetch(fetch::ChunkRequest request, fetch::OnChunk on_chunk) override {
    for (ChunkIndex chunk = request.chunks.begin; chunk < request.chunks.end; ++chunk) {
      on_chunk(chunk, Fail(Code::kNotFound, "no origins here"));
    }
  }
  std::string_view name() const override { return "none"; }
};

// A process that serves and tells its CPU time for each byte it is sent.
class Server {
 public:
  // `run` serves in the new process: it calls its argument with the port and returns when that returns.
  explicit Server(const std::function<void(const std::function<void(uint16_t)>&)>& run) {
    int ask[2];
    int tell[2];
    if (::pipe(ask) != 0 || ::pipe(tell) != 0) std::abort();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(ask[1]);
      ::close(tell[0]);
      run([&](uint16_t port) {
        if (::write(tell[1], &port, sizeof(port)) != sizeof(port)) return;
        char byte = 0;
        while (::read(ask[0], &byte, 1) == 1) {
          const double seconds = CpuSeconds();
          if (::write(tell[1], &seconds, sizeof(seconds)) != sizeof(seconds)) return;
        }
      });
      std::_Exit(0);
    }
    ::close(ask[0]);
    ::close(tell[1]);
    ask_ = UniqueFd(ask[1]);
    tell_ = UniqueFd(tell[0]);
    if (::read(tell_.get(), &port_, sizeof(port_)) != sizeof(port_)) std::exit(1);
  }
  ~Server() {
    ask_.reset();
    ::waitpid(pid_, nullptr, 0);
  }
  uint16_t port() const { return port_; }
  double cpu_seconds() const {
    double seconds = 0;
    if (::write(ask_.get(), "c", 1) != 1 || ::read(tell_.get(), &seconds, sizeof(seconds)) != sizeof(seconds)) {
      std::exit(1);
    }
    return seconds;
  }

 private:
  pid_t pid_ = 0;
  uint16_t port_ = 0;
  UniqueFd ask_;
  UniqueFd tell_;
};

// Asks for the blob from its beginning to its end, `rounds` times, over several connections.
class Leech {
 public:
  Leech(const image_format::Device& device, uint16_t port, int urgency, uint32_t connections)
      : device_(device), port_(port), urgency_(urgency), connections_(connections) {}

  // Seconds it took.
  double Take(uint64_t rounds) {
    left_ = rounds * kChunks;
    const auto begun = Clock::now();
    for (uint32_t i = 0; i < connections_; ++i) Next();
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [&] { return running_ == 0; });
    return std::chrono::duration<double>(Clock::now() - begun).count();
  }
  uint64_t bytes() const { return bytes_; }

 private:
  void Next() {
    ChunkRange chunks;
    {
      const std::lock_guard lock(mutex_);
      if (left_ == 0) return;
      left_ -= kAskChunks;
      chunks = {next_, next_ + kAskChunks};
      next_ = chunks.end % kChunks;
      ++running_;
    }
    Ask(chunks);
  }
  void Ask(ChunkRange chunks) {
    net::HttpClientRequest request;
    request.address = "127.0.0.1";
    request.port = port_;
    request.target = "/v2/bench/blobs/" + device_.blob_digest.ToString();
    request.headers = {{"Authorization", "Bearer bench"},
                       {"Banyan-Node", "leech"},
                       {"Banyan-Function", kFunction},
                       {"Priority", fmt::format("u={}", urgency_)},
                       {"Range", net::FormatRange({device_.chunks[chunks.begin].compressed_offset,
                                                   device_.chunks[chunks.end - 1].blob_range().end})}};
    const auto got = std::make_shared<uint64_t>(0);
    client_.Start(std::move(request),
                  {.on_head = [](int status, const net::HeaderList&) -> Status {
                     if (status == 206) return {};
                     return Fail(Code::kInternal, fmt::format("answered {}", status));
                   },
                   .on_data = [got](std::span<const std::byte> data) -> Status {
                     *got += data.size();
                     return {};
                   },
                   .on_done = [this, got, chunks](const Status& status) { Done(chunks, *got, status); }});
  }
  void Done(ChunkRange chunks, uint64_t got, const Status& status) {
    if (!status) {
      fmt::print(stderr, "peer_bench: {}\n", status.error().message);
      std::_Exit(1);
    }
    bytes_ += got;
    chunks.begin += static_cast<ChunkIndex>(got / kChunkBytes);
    if (!chunks.empty()) return Ask(chunks);
    Next();
    const std::lock_guard lock(mutex_);
    if (--running_ == 0) idle_.notify_all();
  }

  const image_format::Device& device_;
  const uint16_t port_;
  const int urgency_;
  const uint32_t connections_;
  std::mutex mutex_;
  std::condition_variable idle_;
  uint64_t left_ = 0;     // guarded by mutex_
  ChunkIndex next_ = 0;   // guarded by mutex_
  uint32_t running_ = 0;  // guarded by mutex_
  std::atomic<uint64_t> bytes_{0};
  net::HttpClient client_{{.max_idle_per_peer = 64}};  // last: its thread uses what is above
};

peer_agent::PeerServerOptions Options() {
  peer_agent::PeerServerOptions options;
  options.address = "127.0.0.1";
  options.token = "bench";
  options.threads = 1;
  return options;
}

void Seed(const std::shared_ptr<const image_format::Device>& device, const std::string& path,
          const std::function<void(uint16_t)>& serve) {
  OneLayer catalog(std::make_shared<FileLayer>(device, path));
  fetch::ThreadTimer timer;
  InlineExecutor executor;
  const auto server = Must(PeerServer::Start(Options(), catalog, timer, executor));
  serve(server->port());
}

void Relay(const std::shared_ptr<const image_format::Device>& device, const std::string& root, uint16_t parent,
           const std::function<void(uint16_t)>& serve) {
  auto routes = std::make_shared<fetch::Routes>();
  routes->function = kFunction;
  routes->stripes.resize(1);
  routes->stripes[0].parent = fetch::PeerAddress{"seed", "127.0.0.1", parent};
  const auto store = Must(store::NodeStore::Open({.root = root}));
  fetch::ThreadTimer timer;
  fetch::WaitTable waits;
  ThreadPool executor(1);
  fetch::PeerClient::Options peers;
  auto http = std::make_unique<net::HttpClient>();
  peers.http = http.get();
  peers.timer = &timer;
  peers.waits = &waits;
  peers.node = "relay";
  peers.token = "bench";
  fetch::PeerClient client(peers);
  auto source = std::make_shared<fetch::TreeSource>(
      client, [routes] { return routes; }, std::make_shared<NoOrigins>());
  fetch::Scheduler scheduler({.executor = executor, .timer = &timer, .keep_compressed = true});
  auto layer = scheduler.AddLayer(Must(store->OpenLayer(*device)), std::move(source));
  OneLayer catalog(fetch::Scheduler::RelayOf(layer));
  auto options = Options();
  options.chunk_waits = &waits;
  auto server = Must(PeerServer::Start(options, catalog, timer, executor));
  serve(server->port());
  std::_Exit(0);  // the store goes with its directory
}

void Print(const char* what, uint64_t bytes, double cpu, double wall) {
  const double gib = static_cast<double>(bytes) / static_cast<double>(kGiB);
  fmt::print("{}: {:.2f} GiB per CPU second ({:.3f} CPU s/GiB), {:.2f} GiB/s\n", what, gib / cpu, cpu / gib,
             gib / wall);
}

void Run(uint64_t gib, uint32_t connections) {
  std::string root = std::filesystem::temp_directory_path() / "peer_bench.XXXXXX";
  if (::mkdtemp(root.data()) == nullptr) std::abort();
  const std::string path = root + "/blob";
  const auto device = MakeBlob(path);
  {
    const Server seed([&](const auto& serve) { Seed(device, path, serve); });
    for (const int urgency : {1, 3}) {
      Leech leech(*device, seed.port(), urgency, connections);
      const double before = seed.cpu_seconds();
      const double wall = leech.Take(gib * kGiB / device->blob_bytes);
      Print(urgency == 1 ? "serve, demand" : "serve, bulk", leech.bytes(), seed.cpu_seconds() - before, wall);
    }
    const Server relay([&](const auto& serve) { Relay(device, root + "/store", seed.port(), serve); });
    Leech leech(*device, relay.port(), 3, connections);
    const double before = relay.cpu_seconds();
    const double wall = leech.Take(1);
    Print("relay", leech.bytes(), relay.cpu_seconds() - before, wall);
  }
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace banyan

int main(int argc, char** argv) {
  banyan::InitLogging("peer_bench", spdlog::level::warn);
  banyan::Run(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 8,
              argc > 2 ? static_cast<uint32_t>(std::strtoul(argv[2], nullptr, 10)) : 4);
}
