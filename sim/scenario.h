// A scenario: which nodes, which links, what they do, what happens to them, and what is expected of the result. A text
// file; docs/simulator.md has every key.
//
//   title = 64 nodes, one image
//   nodes = 64
//   link = 100mbit
//   [two stripes]          a run: the lines above, and its own
//   expect last <= 1.15 * bound
//   [star]
//   trees = star
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/result.h"
#include "sim/event_queue.h"

namespace banyan::sim {

enum class Trees : uint8_t {
  kForest,  // the tree-manager's
  kStatic,  // a binary heap in order of arrival, below the proxy as its root; never changed
  kChain,   // each node feeds the next
  kStar,    // the proxy feeds everybody
};
enum class Workload : uint8_t {
  kPreheat,   // the whole image
  kStart,     // a start's reads, one after another
  kRequests,  // starts as users' requests ask for them
};

struct ScriptedEvent {
  enum class Action : uint8_t { kKill, kSilence, kLeave, kJoin, kSlow };
  enum class Who : uint8_t { kNode, kRoot, kInterior, kLeaf, kShare };
  Nanos at = 0;
  Action action = Action::kKill;
  Who who = Who::kNode;
  uint32_t node = 0;            // kNode
  double share = 0;             // kShare: of all nodes, at random
  double bytes_per_second = 0;  // kSlow: the uplink from now on
};

// metric <= factor × (bound, or a metric of a run, or 1)
struct Expectation {
  std::string metric;
  bool at_least = false;
  double factor = 1;
  std::string run;      // empty: this one
  std::string operand;  // empty: 1
  std::string text;
};

struct Scenario {
  std::string file;
  std::string title;
  std::string run;  // its name within the file
  uint64_t seed = 1;

  uint32_t nodes = 8;
  std::vector<uint32_t> zones;  // sizes; empty: one
  double leaf_only = 0;         // share of nodes
  uint32_t functions = 1;
  uint32_t starts = 0;  // pairs of node and function; 0: every node starts every function

  uint64_t image_bytes = 256'000'000;
  uint64_t chunk_bytes = 256 * 1024;  // the average of image_format::Chunking
  bool even_chunks = false;           // all of the same size
  uint64_t metadata_bytes = 0;        // map and metadata: what every node fetches first

  // Bytes per second on the wire.
  double up = 12.5e6, down = 12.5e6;
  double up_most = 0;                                  // uplinks spread between `up` and this, evenly by logarithm
  std::vector<std::pair<uint32_t, double>> uplink_of;  // of single nodes, instead
  double proxy_up = 12.5e6, proxy_down = 0;            // 0: as its uplink
  double registry_up = 125e6;
  double goodput = 0.95;
  bool proxy_warm = true;
  Nanos latency = 100 * kMicrosecond;
  Nanos zone_latency = 0;
  Nanos relay_delay = 2 * kMillisecond;
  double unfairness = 0;
  uint64_t slice_bytes = 64 * 1024;
  uint64_t window_bytes = 256 * 1024;
  uint64_t burst_bytes = 0;
  Nanos backlog = 0;
  bool coarse = false;
  bool knows_links = true;   // weights are the uplinks'
  bool learns_links = true;  // by heartbeats; not with `coarse`

  uint32_t stripes = 2;
  Trees trees = Trees::kForest;
  uint32_t queue_chunks = 0;  // of prefetch in the scheduler at most; 0: all

  Workload workload = Workload::kPreheat;
  Nanos arrival = 0;  // nodes start within so long
  Nanos startup = 0;  // of a start, before it joins: a command, the manifest
  uint32_t reads = 400;
  Nanos think = kMillisecond;
  double private_reads = 0;
  bool profile = true;

  std::vector<std::pair<Nanos, double>> rate;  // of requests: from when, how many a second
  Nanos requests_end = 0;
  Nanos service = kSecond;
  Nanos reclaim = 15 * 60 * kSecond;

  double churn = 0;  // leaves and joins a second, each; a third of the leaves are deaths
  Nanos churn_end = 0;
  std::vector<ScriptedEvent> events;
  Nanos limit = 3600 * kSecond;

  std::vector<Expectation> expectations;
};

// The runs of a file, in order; one, named "run", if it names none. kInvalidArgument: "<name>:<line>: …".
Result<std::vector<Scenario>> ParseScenarios(std::string_view text, std::string_view name);

}  // namespace banyan::sim
