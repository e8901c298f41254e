#include "tree-manager/start_book.h"

#include <algorithm>

namespace banyan::tree_manager {
namespace {

using proto::tree::StartReport;

bool IsShort(const std::string& text) { return text.size() <= StartBook::kMaxTextBytes; }

bool IsGood(const StartReport& report) {
  if (report.function().empty() || !IsShort(report.function()) || !IsShort(report.reference())) return false;
  if (report.stages_size() > StartBook::kMaxParts || report.sources_size() > StartBook::kMaxParts) return false;
  for (const auto& stage : report.stages()) {
    if (!IsShort(stage.name()) || stage.begin() > stage.end()) return false;
  }
  return std::all_of(report.sources().begin(), report.sources().end(),
                     [](const StartReport::Source& source) { return IsShort(source.name()); });
}

}  // namespace

const StartReport* StartBook::Add(const std::string& node, const StartReport& report) {
  if (!IsGood(report)) return nullptr;
  const auto found = std::find_if(starts_.begin(), starts_.end(), [&](const StartReport& known) {
    return known.began_unix_micros() == report.began_unix_micros() && known.node() == node &&
           known.function() == report.function();
  });
  const bool is_new = found == starts_.end();
  if (is_new && starts_.size() >= kKept) starts_.pop_front();
  StartReport& kept = is_new ? starts_.emplace_back() : *found;
  kept = report;
  kept.set_node(node);
  return &kept;
}

}  // namespace banyan::tree_manager
