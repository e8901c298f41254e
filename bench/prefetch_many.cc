// Has many agents of this machine fetch one image at the same moment: what `banyan prefetch` on each of them asks for,
// without as many programs to begin, which would share the processors with the agents that are measured.
//
//   prefetch_many REFERENCE DATA_ROOT…
//
// Prints {data root: seconds until the whole image was there}, from the moment at which all were asked, of those that
// could fetch it; exit status 1 if one could not. Plain HTTP.
#include <barrier>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "cli/agent_client.h"

namespace banyan::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Node {
  std::string data_root;
  Status status;
  double seconds = 0;
};

int Run(const std::string& reference, std::vector<Node> nodes) {
  std::vector<cli::AgentClient> agents;
  for (const Node& node : nodes) {
    auto agent = cli::AgentClient::Connect(node.data_root);
    if (!agent) {
      fmt::print(stderr, "prefetch_many: {}: {}\n", node.data_root, agent.error().message);
      return 1;
    }
    agents.push_back(std::move(*agent));
  }
  proto::agent::PrefetchRequest request;
  request.set_reference(reference);
  request.set_plain_http(true);

  Clock::time_point begun;
  std::barrier ready(static_cast<std::ptrdiff_t>(nodes.size()), [&begun]() noexcept { begun = Clock::now(); });
  std::vector<std::jthread> threads;
  for (size_t i = 0; i < nodes.size(); ++i) {
    threads.emplace_back([&, i] {
      ready.arrive_and_wait();
      nodes[i].status = agents[i].Prefetch(request, [](const proto::agent::PrefetchProgress&) {});
      nodes[i].seconds = std::chrono::duration<double>(Clock::now() - begun).count();
    });
  }
  threads.clear();

  bool all = true;
  nlohmann::json seconds = nlohmann::json::object();
  for (const Node& node : nodes) {
    if (node.status) {
      seconds[node.data_root] = node.seconds;
      continue;
    }
    fmt::print(stderr, "prefetch_many: {}: {}\n", node.data_root, node.status.error().message);
    all = false;
  }
  fmt::print("{}\n", seconds.dump());
  return all ? 0 : 1;
}

}  // namespace
}  // namespace banyan::bench

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fputs("usage: prefetch_many REFERENCE DATA_ROOT...\n", stderr);
    return 2;
  }
  std::vector<banyan::bench::Node> nodes;
  for (int i = 2; i < argc; ++i) nodes.push_back({argv[i], {}, 0});
  return banyan::bench::Run(argv[1], std::move(nodes));
}
