#include "sim/scenario.h"

#include <charconv>
#include <cmath>
#include <functional>
#include <map>

#include <fmt/format.h>

namespace banyan::sim {
namespace {

constexpr size_t kMaxRuns = 64;
constexpr uint32_t kMaxNodes = 200'000;

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) text.remove_suffix(1);
  return text;
}

std::vector<std::string_view> Words(std::string_view text) {
  std::vector<std::string_view> words;
  for (text = Trim(text); !text.empty(); text = Trim(text)) {
    const size_t end = std::min(text.find_first_of(" \t"), text.size());
    words.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return words;
}

std::vector<std::string_view> Split(std::string_view text, char by) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t end = text.find(by);
    parts.push_back(Trim(text.substr(0, end)));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

// ---- Values ----

struct Quantity {
  double value = 0;
  std::string_view unit;
};

Result<Quantity> ParseQuantity(std::string_view text) {
  Quantity quantity;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), quantity.value);
  if (error != std::errc() || !std::isfinite(quantity.value) || quantity.value < 0) {
    return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is not a number", text));
  }
  quantity.unit = Trim(text.substr(static_cast<size_t>(end - text.data())));
  return quantity;
}

using Units = std::map<std::string_view, double>;

Result<double> ParseWithUnit(std::string_view text, const Units& units, std::string_view what) {
  BANYAN_ASSIGN(const Quantity quantity, ParseQuantity(text));
  const auto unit = units.find(quantity.unit);
  if (unit == units.end()) return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is not {}", text, what));
  return quantity.value * unit->second;
}

Result<double> ParseRate(std::string_view text) {
  static const Units kUnits = {{"kbit", 125}, {"mbit", 125e3}, {"gbit", 125e6}};
  BANYAN_ASSIGN(const double rate, ParseWithUnit(text, kUnits, "a rate (100mbit, 2.5gbit)"));
  if (rate < 1 || rate > 1e12) return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is no rate of a link", text));
  return rate;
}

Result<uint64_t> ParseBytes(std::string_view text) {
  static const Units kUnits = {{"", 1},     {"B", 1},        {"kB", 1e3},     {"MB", 1e6},
                               {"GB", 1e9}, {"KiB", 1024.0}, {"MiB", 0x1p20}, {"GiB", 0x1p30}};
  BANYAN_ASSIGN(const double bytes, ParseWithUnit(text, kUnits, "a number of bytes (256MB, 64KiB)"));
  if (bytes > 1e13) return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is too much", text));
  return static_cast<uint64_t>(bytes);
}

Result<Nanos> ParseTime(std::string_view text) {
  static const Units kUnits = {{"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"min", 60e9}, {"h", 3600e9}};
  BANYAN_ASSIGN(const double nanos, ParseWithUnit(text, kUnits, "a time (20ms, 1.5s, 15min)"));
  if (nanos > 1e15) return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is too long", text));
  return static_cast<Nanos>(nanos);
}

Result<double> ParseShare(std::string_view text) {
  static const Units kUnits = {{"%", 0.01}, {"", 1}};
  BANYAN_ASSIGN(const double share, ParseWithUnit(text, kUnits, "a share (10%, 0.1)"));
  if (share > 1) return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is more than all", text));
  return share;
}

Result<double> ParseNumber(std::string_view text, double least, double most) {
  BANYAN_ASSIGN(const double number, ParseWithUnit(text, {{"", 1.0}}, "a number"));
  if (number < least || number > most) {
    return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is not between {} and {}", text, least, most));
  }
  return number;
}

Result<uint32_t> ParseCount(std::string_view text, uint32_t least, uint32_t most) {
  BANYAN_ASSIGN(const double number, ParseNumber(text, least, most));
  if (number != std::floor(number)) return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is not whole", text));
  return static_cast<uint32_t>(number);
}

template <typename T>
Result<T> ParseChoice(std::string_view text, const std::map<std::string_view, T>& choices) {
  const auto found = choices.find(text);
  if (found != choices.end()) return found->second;
  std::string known;
  for (const auto& [name, value] : choices) known += fmt::format("{}{}", known.empty() ? "" : ", ", name);
  return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is none of {}", text, known));
}

Result<bool> ParseBool(std::string_view text) { return ParseChoice<bool>(text, {{"yes", true}, {"no", false}}); }

Result<std::vector<uint32_t>> ParseZones(std::string_view text) {
  std::vector<uint32_t> zones;
  uint64_t sum = 0;
  for (std::string_view part : Split(text, ',')) {
    BANYAN_ASSIGN(const uint32_t size, ParseCount(part, 1, kMaxNodes));
    zones.push_back(size);
    sum += size;
  }
  if (sum > kMaxNodes) return Fail(Code::kInvalidArgument, fmt::format("more than {} nodes", kMaxNodes));
  return zones;
}

// "3: 50mbit, 7: 10mbit"
Result<std::vector<std::pair<uint32_t, double>>> ParseUplinks(std::string_view text) {
  std::vector<std::pair<uint32_t, double>> uplinks;
  for (std::string_view part : Split(text, ',')) {
    const size_t colon = part.find(':');
    if (colon == std::string_view::npos) {
      return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is not NODE: RATE", part));
    }
    BANYAN_ASSIGN(const uint32_t node, ParseCount(Trim(part.substr(0, colon)), 0, kMaxNodes));
    BANYAN_ASSIGN(const double rate, ParseRate(Trim(part.substr(colon + 1))));
    uplinks.emplace_back(node, rate);
  }
  return uplinks;
}

// "0s:1, 10s:100, end 60s"
Status ParseSchedule(std::string_view text, Scenario& scenario) {
  scenario.rate.clear();
  scenario.requests_end = 0;
  Nanos last = -1;
  for (std::string_view part : Split(text, ',')) {
    if (scenario.requests_end != 0) return Fail(Code::kInvalidArgument, "nothing may follow \"end\"");
    const bool ends = part.starts_with("end ");
    const size_t colon = part.find(':');
    if (!ends && colon == std::string_view::npos) {
      return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is neither TIME:RATE nor end TIME", part));
    }
    BANYAN_ASSIGN(const Nanos at, ParseTime(Trim(ends ? part.substr(4) : part.substr(0, colon))));
    if (at <= last)
      return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is not later than what stands before", part));
    last = at;
    if (ends) {
      scenario.requests_end = at;
      continue;
    }
    BANYAN_ASSIGN(const double rate, ParseNumber(Trim(part.substr(colon + 1)), 0, 1e6));
    scenario.rate.emplace_back(at, rate);
  }
  if (scenario.requests_end == 0) return Fail(Code::kInvalidArgument, "the schedule needs an \"end TIME\"");
  return {};
}

// ---- Keys ----

using Setter = std::function<Status(std::string_view, Scenario&)>;

template <typename T, typename Parse>
Setter Set(T Scenario::*member, Parse parse) {
  return [member, parse](std::string_view text, Scenario& scenario) -> Status {
    BANYAN_ASSIGN(scenario.*member, parse(text));
    return {};
  };
}

Setter Count(uint32_t Scenario::*member, uint32_t least, uint32_t most) {
  return Set(member, [least, most](std::string_view text) { return ParseCount(text, least, most); });
}

Status SetLink(std::string_view text, Scenario& scenario) {
  BANYAN_ASSIGN(scenario.up, ParseRate(text));
  scenario.down = scenario.proxy_up = scenario.up;
  scenario.up_most = scenario.proxy_down = 0;
  return {};
}

// One rate, or LEAST..MOST.
Status SetUp(std::string_view text, Scenario& scenario) {
  const size_t dots = text.find("..");
  BANYAN_ASSIGN(scenario.up, ParseRate(Trim(text.substr(0, dots))));
  scenario.up_most = 0;
  if (dots == std::string_view::npos) return {};
  BANYAN_ASSIGN(scenario.up_most, ParseRate(Trim(text.substr(dots + 2))));
  if (scenario.up_most < scenario.up) return Fail(Code::kInvalidArgument, "the larger rate stands last");
  return {};
}

Status SetChurn(std::string_view text, Scenario& scenario) {
  const auto words = Words(text);
  if (words.size() != 3 || words[1] != "until") return Fail(Code::kInvalidArgument, "expected RATE until TIME");
  BANYAN_ASSIGN(scenario.churn, ParseNumber(words[0], 0, 1e5));
  BANYAN_ASSIGN(scenario.churn_end, ParseTime(words[2]));
  return {};
}

Status SetImage(std::string_view text, Scenario& scenario) {
  BANYAN_ASSIGN(scenario.image_bytes, ParseBytes(text));
  if (scenario.image_bytes == 0) return Fail(Code::kInvalidArgument, "an image has bytes");
  return {};
}

Status SetChunk(std::string_view text, Scenario& scenario) {
  BANYAN_ASSIGN(scenario.chunk_bytes, ParseBytes(text));
  if (scenario.chunk_bytes >= 4096 && scenario.chunk_bytes <= 4 << 20) return {};
  return Fail(Code::kInvalidArgument, "a chunk has 4 KiB to 4 MiB");
}

Status SetSlice(std::string_view text, Scenario& scenario) {
  BANYAN_ASSIGN(scenario.slice_bytes, ParseBytes(text));
  return scenario.slice_bytes >= 1024 ? Status() : Fail(Code::kInvalidArgument, "a slice has 1 KiB at least");
}

Status SetWindow(std::string_view text, Scenario& scenario) {
  BANYAN_ASSIGN(scenario.window_bytes, ParseBytes(text));
  return scenario.window_bytes >= 1024 ? Status() : Fail(Code::kInvalidArgument, "a window has 1 KiB at least");
}

Status SetGoodput(std::string_view text, Scenario& scenario) {
  BANYAN_ASSIGN(scenario.goodput, ParseNumber(text, 0.01, 1));
  return {};
}

const std::map<std::string_view, Setter>& Keys() {
  using S = Scenario;
  const auto text = [](std::string_view value) -> Result<std::string> { return std::string(value); };
  const auto seed = [](std::string_view value) -> Result<uint64_t> { return ParseCount(value, 0, UINT32_MAX); };
  const auto sigma = [](std::string_view value) { return ParseNumber(value, 0, 3); };
  static const std::map<std::string_view, Trees> kTrees = {
      {"forest", Trees::kForest}, {"static", Trees::kStatic}, {"chain", Trees::kChain}, {"star", Trees::kStar}};
  static const std::map<std::string_view, Workload> kWorkloads = {
      {"preheat", Workload::kPreheat}, {"start", Workload::kStart}, {"requests", Workload::kRequests}};
  static const std::map<std::string_view, Setter> kKeys = {
      {"title", Set(&S::title, text)},
      {"seed", Set(&S::seed, seed)},
      {"nodes", Count(&S::nodes, 1, kMaxNodes)},
      {"zones", Set(&S::zones, ParseZones)},
      {"leaf_only", Set(&S::leaf_only, ParseShare)},
      {"functions", Count(&S::functions, 1, 100'000)},
      {"starts", Count(&S::starts, 0, 1'000'000)},
      {"image", SetImage},
      {"chunk", SetChunk},
      {"even_chunks", Set(&S::even_chunks, ParseBool)},
      {"metadata", Set(&S::metadata_bytes, ParseBytes)},
      {"link", SetLink},
      {"up", SetUp},
      {"down", Set(&S::down, ParseRate)},
      {"proxy", Set(&S::proxy_up, ParseRate)},
      {"proxy_down", Set(&S::proxy_down, ParseRate)},
      {"registry", Set(&S::registry_up, ParseRate)},
      {"goodput", SetGoodput},
      {"proxy_warm", Set(&S::proxy_warm, ParseBool)},
      {"latency", Set(&S::latency, ParseTime)},
      {"zone_latency", Set(&S::zone_latency, ParseTime)},
      {"relay_delay", Set(&S::relay_delay, ParseTime)},
      {"unfairness", Set(&S::unfairness, sigma)},
      {"slice", SetSlice},
      {"window", SetWindow},
      {"burst", Set(&S::burst_bytes, ParseBytes)},
      {"backlog", Set(&S::backlog, ParseTime)},
      {"coarse", Set(&S::coarse, ParseBool)},
      {"uplink", Set(&S::uplink_of, ParseUplinks)},
      {"knows_links", Set(&S::knows_links, ParseBool)},
      {"learns_links", Set(&S::learns_links, ParseBool)},
      {"stripes", Count(&S::stripes, 1, 2)},
      {"trees", Set(&S::trees, [](std::string_view value) { return ParseChoice(value, kTrees); })},
      {"queue", Count(&S::queue_chunks, 0, 1'000'000)},
      {"workload", Set(&S::workload, [](std::string_view value) { return ParseChoice(value, kWorkloads); })},
      {"arrival", Set(&S::arrival, ParseTime)},
      {"startup", Set(&S::startup, ParseTime)},
      {"reads", Count(&S::reads, 1, 1'000'000)},
      {"think", Set(&S::think, ParseTime)},
      {"private_reads", Set(&S::private_reads, ParseShare)},
      {"profile", Set(&S::profile, ParseBool)},
      {"rate", ParseSchedule},
      {"service", Set(&S::service, ParseTime)},
      {"reclaim", Set(&S::reclaim, ParseTime)},
      {"churn", SetChurn},
      {"limit", Set(&S::limit, ParseTime)},
  };
  return kKeys;
}

// ---- Lines ----

// "at TIME kill|silence|leave|join|slow WHO [to RATE]"; WHO: node N, root, interior, leaf, SHARE%.
Result<ScriptedEvent> ParseEvent(std::string_view line) {
  using Action = ScriptedEvent::Action;
  using Who = ScriptedEvent::Who;
  auto words = Words(line);
  if (words.size() < 4) return Fail(Code::kInvalidArgument, "expected: at TIME ACTION WHO");
  ScriptedEvent event;
  BANYAN_ASSIGN(event.at, ParseTime(words[1]));
  BANYAN_ASSIGN(event.action, ParseChoice<Action>(words[2], {{"kill", Action::kKill},
                                                             {"silence", Action::kSilence},
                                                             {"leave", Action::kLeave},
                                                             {"join", Action::kJoin},
                                                             {"slow", Action::kSlow}}));
  if (event.action == Action::kSlow) {
    if (words.size() < 6 || words[words.size() - 2] != "to") {
      return Fail(Code::kInvalidArgument, "expected: at TIME slow WHO to RATE");
    }
    BANYAN_ASSIGN(event.bytes_per_second, ParseRate(words.back()));
    words.resize(words.size() - 2);
  }
  if (words[3] == "node" && words.size() == 5) {
    BANYAN_ASSIGN(event.node, ParseCount(words[4], 0, kMaxNodes));
    return event;
  }
  if (words.size() != 4) return Fail(Code::kInvalidArgument, fmt::format("what is \"{}\"?", words[4]));
  if (words[3].ends_with('%')) {
    event.who = Who::kShare;
    BANYAN_ASSIGN(event.share, ParseShare(words[3]));
    return event;
  }
  BANYAN_ASSIGN(event.who,
                ParseChoice<Who>(words[3], {{"root", Who::kRoot}, {"interior", Who::kInterior}, {"leaf", Who::kLeaf}}));
  return event;
}

// "expect METRIC <= [NUMBER *] [RUN.]METRIC" or "expect METRIC <= NUMBER"; a run's name may hold spaces.
Result<Expectation> ParseExpectation(std::string_view line) {
  Expectation expectation;
  expectation.text = std::string(Trim(line.substr(6)));
  const std::string_view text = expectation.text;
  size_t comparison = text.find("<=");
  if (comparison == std::string_view::npos) {
    comparison = text.find(">=");
    expectation.at_least = true;
  }
  if (comparison == std::string_view::npos) return Fail(Code::kInvalidArgument, "expected METRIC <= …, or >=");
  expectation.metric = std::string(Trim(text.substr(0, comparison)));
  std::string_view right = Trim(text.substr(comparison + 2));
  const size_t times = right.find('*');
  const bool is_number = !right.empty() && (right[0] >= '0' && right[0] <= '9');
  if (is_number) {
    BANYAN_ASSIGN(expectation.factor, ParseNumber(Trim(right.substr(0, times)), 0, 1e15));
    if (times == std::string_view::npos) return expectation;
    right = Trim(right.substr(times + 1));
  }
  const size_t dot = right.rfind('.');
  if (dot != std::string_view::npos) expectation.run = std::string(right.substr(0, dot));
  expectation.operand = std::string(dot == std::string_view::npos ? right : right.substr(dot + 1));
  if (expectation.operand.empty() || expectation.metric.empty()) {
    return Fail(Code::kInvalidArgument, "expected METRIC <= [NUMBER *] [RUN.]METRIC");
  }
  return expectation;
}

Status ParseLine(std::string_view line, Scenario& scenario) {
  if (line.starts_with("at ")) {
    BANYAN_ASSIGN(ScriptedEvent event, ParseEvent(line));
    scenario.events.push_back(event);
    return {};
  }
  if (line.starts_with("expect ")) {
    BANYAN_ASSIGN(Expectation expectation, ParseExpectation(line));
    scenario.expectations.push_back(std::move(expectation));
    return {};
  }
  const size_t equals = line.find('=');
  if (equals == std::string_view::npos) {
    return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is neither KEY = VALUE, [RUN], at … nor expect …", line));
  }
  const std::string_view key = Trim(line.substr(0, equals));
  const auto found = Keys().find(key);
  if (found == Keys().end()) return Fail(Code::kInvalidArgument, fmt::format("there is no key \"{}\"", key));
  const Status status = found->second(Trim(line.substr(equals + 1)), scenario);
  if (!status) return Fail(status.error().WithContext(key));
  return {};
}

Status Check(Scenario& scenario) {
  uint64_t zoned = 0;
  for (uint32_t size : scenario.zones) zoned += size;
  if (!scenario.zones.empty()) scenario.nodes = static_cast<uint32_t>(zoned);
  if (scenario.image_bytes / scenario.chunk_bytes > 1'000'000) {
    return Fail(Code::kInvalidArgument, "an image has a million chunks at most");
  }
  for (const auto& [node, rate] : scenario.uplink_of) {
    if (node < scenario.nodes) continue;
    return Fail(Code::kInvalidArgument, fmt::format("there is no node {} among {}", node, scenario.nodes));
  }
  for (const ScriptedEvent& event : scenario.events) {
    if (event.who == ScriptedEvent::Who::kNode && event.node >= scenario.nodes) {
      return Fail(Code::kInvalidArgument, fmt::format("there is no node {} among {}", event.node, scenario.nodes));
    }
  }
  if (scenario.workload == Workload::kRequests && scenario.rate.empty()) {
    return Fail(Code::kInvalidArgument, "workload = requests needs rate = …");
  }
  if (scenario.starts > uint64_t{scenario.nodes} * scenario.functions) {
    return Fail(Code::kInvalidArgument, "more starts than pairs of node and function");
  }
  return {};
}

}  // namespace

Result<std::vector<Scenario>> ParseScenarios(std::string_view text, std::string_view name) {
  Scenario base;
  base.file = std::string(name);
  std::vector<Scenario> runs;
  uint32_t line_number = 0;
  for (std::string_view line : Split(text, '\n')) {
    ++line_number;
    line = Trim(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const std::string where = fmt::format("{}:{}", name, line_number);
    if (line.front() == '[') {
      const std::string_view run = line.back() == ']' ? Trim(line.substr(1, line.size() - 2)) : std::string_view();
      if (run.empty()) return Fail(Code::kInvalidArgument, where + ": expected [NAME]");
      for (const Scenario& other : runs) {
        if (other.run == run) return Fail(Code::kInvalidArgument, fmt::format("{}: a second [{}]", where, run));
      }
      if (runs.size() == kMaxRuns) return Fail(Code::kInvalidArgument, where + ": too many runs");
      runs.push_back(base);
      runs.back().run = std::string(run);
      continue;
    }
    const Status status = ParseLine(line, runs.empty() ? base : runs.back());
    if (!status) return Fail(status.error().WithContext(where));
  }
  if (runs.empty()) {
    base.run = "run";
    runs.push_back(base);
  }
  for (Scenario& run : runs) {
    const Status status = Check(run);
    if (!status) return Fail(status.error().WithContext(fmt::format("{}: [{}]", name, run.run)));
  }
  return runs;
}

}  // namespace banyan::sim
