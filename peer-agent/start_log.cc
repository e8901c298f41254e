#include "peer-agent/start_log.h"

#include <algorithm>
#include <map>
#include <utility>

namespace banyan::peer_agent {

namespace {

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::steady_clock;

uint64_t Micros(steady_clock::duration duration) {
  return static_cast<uint64_t>(std::max<int64_t>(0, duration_cast<microseconds>(duration).count()));
}

}  // namespace

void StartLog::Mounted(proto::agent::Start start, SteadyTime began, std::vector<std::shared_ptr<LiveLayer>> layers) {
  Entry entry{std::move(start), began, {}};
  entry.layers.assign(layers.begin(), layers.end());
  const std::lock_guard lock(mutex_);
  entries_.push_front(std::move(entry));
  if (entries_.size() > kKept) entries_.pop_back();
}

void StartLog::Prepared(const std::string& directory) {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& entry) { return entry.start.directory() == directory; });
  if (found == entries_.end() || found->start.has_prepared()) return;
  found->start.set_prepared(Micros(steady_clock::now() - found->began));
}

void StartLog::Unmounted(const std::string& directory) {
  const std::lock_guard lock(mutex_);
  for (Entry& entry : entries_) {
    if (entry.start.directory() != directory) continue;
    Refresh(entry);
    entry.layers.clear();
  }
}

void StartLog::Refresh(Entry& entry) {
  std::map<std::string, proto::agent::SourceStats> sources;
  SteadyTime first = SteadyTime::max();
  SteadyTime last = SteadyTime::min();
  uint64_t chunks = 0;
  uint64_t bytes = 0;
  bool any = false;
  for (const auto& weak : entry.layers) {
    const auto layer = weak.lock();
    if (!layer) continue;
    any = true;
    for (const auto& touch : scheduler_.FirstTouches(*layer->lazy)) {
      if (touch.when < entry.began) continue;
      first = std::min(first, touch.when);
      last = std::max(last, touch.when);
      ++chunks;
      bytes += layer->stored->device().chunks[touch.chunk].compressed_bytes;
    }
    for (const auto& [name, counters] : scheduler_.StatsOf(*layer->lazy).sources) {
      proto::agent::SourceStats& source = sources[name];
      source.set_source(name);
      source.set_requests(source.requests() + counters.requests);
      source.set_chunks(source.chunks() + counters.chunks);
      source.set_compressed_bytes(source.compressed_bytes() + counters.compressed_bytes);
    }
  }
  if (!any) return;
  proto::agent::Start& start = entry.start;
  start.clear_sources();
  for (auto& [name, source] : sources) *start.add_sources() = std::move(source);
  if (chunks == 0) return;
  start.set_first_read(Micros(first - entry.began));
  start.set_last_cold_read(Micros(last - entry.began));
  start.set_quiet(steady_clock::now() - last >= kQuietAfter);
  start.set_touched_chunks(chunks);
  start.set_touched_compressed_bytes(bytes);
}

std::vector<proto::agent::Start> StartLog::Latest(size_t limit) {
  std::vector<proto::agent::Start> starts;
  const std::lock_guard lock(mutex_);
  for (Entry& entry : entries_) {
    if (starts.size() >= limit) break;
    Refresh(entry);
    starts.push_back(entry.start);
  }
  return starts;
}

}  // namespace banyan::peer_agent
