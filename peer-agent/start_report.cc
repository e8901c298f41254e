#include "peer-agent/start_report.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace banyan::peer_agent {

proto::tree::StartReport ReportOf(const proto::agent::Start& start) {
  proto::tree::StartReport report;
  report.set_function(start.manifest_digest());
  report.set_reference(start.reference());
  report.set_began_unix_micros(start.began_unix_micros());
  report.set_quiet(start.quiet());
  uint64_t latest = 0;
  const auto add = [&](const char* name, bool reached, uint64_t end) {
    if (!reached) return;
    proto::tree::StartReport::Stage& stage = *report.add_stages();
    stage.set_name(name);
    stage.set_begin(std::min(latest, end));
    stage.set_end(end);
    latest = std::max(latest, end);
  };
  add("resolve", start.has_resolved(), start.resolved());
  add("map", start.has_map(), start.map());
  add("metadata", start.has_metadata(), start.metadata());
  add("mount", start.has_mounted(), start.mounted());
  add("container", start.has_prepared(), start.prepared());
  add("first read", start.has_first_read(), start.first_read());
  add("last cold read", start.has_last_cold_read(), start.last_cold_read());
  for (const proto::agent::SourceStats& stats : start.sources()) {
    if (stats.chunks() == 0) continue;
    proto::tree::StartReport::Source& source = *report.add_sources();
    source.set_name(stats.source());
    source.set_chunks(stats.chunks());
    source.set_compressed_bytes(stats.compressed_bytes());
  }
  return report;
}

std::vector<proto::tree::StartReport> StartReports::Take(const std::vector<proto::agent::Start>& latest) {
  std::vector<proto::tree::StartReport> reports;
  std::map<std::string, std::string> told;
  for (const proto::agent::Start& start : latest) {
    proto::tree::StartReport report = ReportOf(start);
    std::string key = fmt::format("{} {}", start.began_unix_micros(), start.manifest_digest());
    std::string text = report.SerializeAsString();
    const auto known = told_.find(key);
    if (known == told_.end() || known->second != text) reports.push_back(std::move(report));
    told[std::move(key)] = std::move(text);
  }
  told_ = std::move(told);
  return reports;
}

}  // namespace banyan::peer_agent
