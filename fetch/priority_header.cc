#include "fetch/priority_header.h"

#include <algorithm>

namespace banyan::fetch {

std::string_view FormatPriority(Priority priority) {
  switch (priority) {
    case Priority::kDemand:
      return "u=1";
    case Priority::kPrefetch:
      return "u=3";
    case Priority::kFill:
      break;
  }
  return "u=6";
}

Priority ParsePriority(std::string_view header) {
  while (!header.empty()) {
    std::string_view item = header.substr(0, header.find(','));
    header.remove_prefix(std::min(header.size(), item.size() + 1));
    while (!item.empty() && (item.front() == ' ' || item.front() == '\t')) item.remove_prefix(1);
    if (item.size() < 3 || !item.starts_with("u=") || item[2] < '0' || item[2] > '7') continue;
    if (item.size() > 3 && item[3] != ' ' && item[3] != ';') continue;
    if (item[2] < '3') return Priority::kDemand;
    return item[2] > '4' ? Priority::kFill : Priority::kPrefetch;
  }
  return Priority::kPrefetch;
}

}  // namespace banyan::fetch
