// How fast blobs come through the mirror: direct from a docker-registry, cold through the mirror, and warm, in one run.
//   mirror_bench [MiB a blob = 256] [rounds = 3]
// Prints MB/s of one client, medians; the store is on the disk under $TMPDIR.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/log.h"
#include "mirror/mirror.h"
#include "mirror/testing/raw_client.h"
#include "net/testing/docker_registry.h"

namespace banyan::mirror {
namespace {

using Clock = std::chrono::steady_clock;

std::string RandomBytes(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string bytes(size, '\0');
  for (size_t i = 0; i + 8 <= size; i += 8) {
    const uint64_t word = random();
    bytes.replace(i, 8, reinterpret_cast<const char*>(&word), 8);
  }
  return bytes;
}

// Seconds until all of `clients` have read `bytes` bytes of the blob.
double Pull(uint16_t port, const Digest& digest, uint64_t bytes, int clients) {
  const auto begin = Clock::now();
  std::vector<std::jthread> threads;
  for (int i = 0; i < clients; ++i) {
    threads.emplace_back([&] {
      testing::Connection connection(port);
      connection.Send("GET", "/v2/app/blobs/" + digest.ToString(), "");
      connection.ReadHead();
      if (connection.SkipBody(bytes) != bytes) std::puts("a body came short");
    });
  }
  threads.clear();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double CpuSeconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

Status Run(uint64_t bytes, int rounds) {
  BANYAN_ASSIGN(const auto registry, net::testing::DockerRegistry::Start());
  BANYAN_ASSIGN(const TempDir dir, TempDir::Make("banyan-mirror-bench"));
  BANYAN_ASSIGN(const auto store, store::NodeStore::Open({.root = dir.path() + "/store"}));
  MirrorOptions options;
  UpstreamOptions upstream;
  upstream.name = registry->host();
  options.upstreams = {upstream};
  options.default_upstream = upstream.name;
  BANYAN_ASSIGN(const auto mirror, Mirror::Create(options, *store));
  BANYAN_ASSIGN(const auto server,
                net::HttpServer::Start({}, [&](net::HttpRequest request, std::shared_ptr<net::HttpReply> reply) {
                  mirror->Handle(std::move(request), std::move(reply));
                }));
  BANYAN_ASSIGN(const auto reference, net::ImageReference::Parse("docker://" + registry->host() + "/app"));
  BANYAN_ASSIGN(const auto repository, net::OpenRepository(reference, {}));
  const auto direct_port = static_cast<uint16_t>(std::stoi(registry->host().substr(10)));
  const double megabytes = static_cast<double>(bytes) / 1e6;
  for (const int clients : {1, 8}) {
    std::vector<double> direct;
    std::vector<double> cold;
    std::vector<double> warm;
    double warm_cpu = 0;
    for (int round = 0; round < rounds; ++round) {
      const std::string blob = RandomBytes(bytes, static_cast<uint64_t>(round * 100 + clients));
      const Digest digest = Digest::Of(blob);
      BANYAN_TRY(repository->PutBlob(digest, blob));
      direct.push_back(megabytes * clients / Pull(direct_port, digest, bytes, clients));
      cold.push_back(megabytes * clients / Pull(server->port(), digest, bytes, clients));
      for (int i = 0; i < 3000 && !store->BlobBytes(digest); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      const double before = CpuSeconds();
      warm.push_back(megabytes * clients / Pull(server->port(), digest, bytes, clients));
      warm_cpu += CpuSeconds() - before;
    }
    fmt::print(
        "{} client(s), {:.0f} MB: direct {:.0f}, cold {:.0f} ({:.2f} x), warm {:.0f} ({:.2f} x) MB/s; "
        "warm, client included: {:.2f} CPU s/GB\n",
        clients, megabytes, Median(direct), Median(cold), Median(cold) / Median(direct), Median(warm),
        Median(warm) / Median(direct), warm_cpu / (rounds * clients * megabytes / 1000));
  }
  server->Stop();
  return {};
}

}  // namespace
}  // namespace banyan::mirror

int main(int argc, char** argv) {
  banyan::InitLogging("mirror_bench", spdlog::level::warn);
  const uint64_t mebibytes = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 256;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 3;
  const banyan::Status status = banyan::mirror::Run(mebibytes * banyan::kMiB, rounds);
  if (status) return 0;
  std::fprintf(stderr, "%s\n", status.error().message.c_str());
  return 1;
}
