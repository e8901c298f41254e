#include "peer-agent/read_metrics.h"

#include <array>
#include <map>
#include <string>

namespace banyan::peer_agent {
namespace {

constexpr std::array<const char*, 6> kSources = {"store", "reuse", "parent", "spare", "mirror", "registry"};
constexpr std::array<const char*, 3> kClasses = {"demand", "prefetch", "fill"};

double Seconds(std::chrono::microseconds time) { return std::chrono::duration<double>(time).count(); }

void AddSource(const std::string& source, const fetch::SourceCounters& counters, MetricsPage& page) {
  const MetricsPage::Labels from = {{"source", source}};
  page.Counter("banyan_fetch_requests_total", "Requests for chunks.", from, static_cast<double>(counters.requests));
  page.Counter("banyan_fetch_failed_chunks_total", "Chunks answered with an error.", from,
               static_cast<double>(counters.failed_chunks));
  page.Counter("banyan_fetch_bad_chunks_total", "Chunks whose bytes were wrong.", from,
               static_cast<double>(counters.bad_chunks));
  for (size_t i = 0; i < kClasses.size(); ++i) {
    const MetricsPage::Labels labels = {{"source", source}, {"class", kClasses[i]}};
    page.Counter("banyan_fetch_chunks_total", "Good chunks received.", labels,
                 static_cast<double>(counters.chunks_by_class[i]));
    page.Counter("banyan_fetch_bytes_total", "Compressed bytes of good chunks.", labels,
                 static_cast<double>(counters.compressed_bytes_by_class[i]));
    page.Counter("banyan_fetch_wait_seconds_total", "Time from the requests to each good chunk of them, summed up.",
                 labels, Seconds(counters.waited_by_class[i]));
  }
}

}  // namespace

void AddReadMetrics(uint64_t reads, uint64_t bytes, const fetch::Scheduler::Stats& stats, MetricsPage& page) {
  const auto counter = [&](const char* name, const char* help, uint64_t value) {
    page.Counter(name, help, static_cast<double>(value));
  };
  counter("banyan_reads_total", "Reads of image contents that reached the node's file system.", reads);
  counter("banyan_read_bytes_total", "Bytes of these reads.", bytes);
  counter("banyan_reads_at_once_total", "Reads answered from the store without waiting.", stats.reads_at_once);
  counter("banyan_reads_from_memory_total", "Reads answered from memory, because the disk had no room.",
          stats.reads_from_memory);
  counter("banyan_reads_failed_total", "Reads that failed after every source had.", stats.reads_failed);
  counter("banyan_reads_hung_total", "Reads that waited longer than 10 s.", stats.hung_reads);
  page.Counter("banyan_read_wait_seconds_total", "Time that reads which were not answered at once waited, summed up.",
               Seconds(stats.waited));
  page.Gauge("banyan_reads_waiting", "Reads that wait for data now.", static_cast<double>(stats.waiting_reads));
  page.Gauge("banyan_read_longest_seconds", "The longest read so far.", Seconds(stats.longest_read));
}

void AddFetchMetrics(const fetch::Scheduler::Stats& stats, MetricsPage& page) {
  page.Counter("banyan_fetch_retries_total", "Chunk requests that were tried again.",
               static_cast<double>(stats.retries));
  std::map<std::string, fetch::SourceCounters> sources = stats.sources;
  for (const char* source : kSources) sources.try_emplace(source);
  for (const auto& [source, counters] : sources) AddSource(source, counters, page);
}

void AddKeeperMetrics(const lazyfs::SessionKeeper* keeper, MetricsPage& page) {
  page.Gauge("banyan_keeper_connected", "1: a keeper is there; mounts would survive this process.",
             keeper != nullptr && keeper->connected() ? 1 : 0);
  page.Gauge("banyan_keeper_sessions", "Sessions of the kernel that the keeper holds.",
             keeper != nullptr ? static_cast<double>(keeper->sessions()) : 0);
}

}  // namespace banyan::peer_agent
