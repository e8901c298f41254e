// Any query is refused, or gives values within their bounds.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "tree-manager/tracker/query.h"

using namespace banyan;                // NOLINT
using namespace banyan::tree_manager;  // NOLINT

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto announce = ParseAnnounce(text)) {
    if (announce->info_hash.size() != 20 || announce->peer_id.size() != 20 || announce->port == 0) std::abort();
    if (announce->zone.size() > 64) std::abort();
  }
  if (const auto scrape = ParseScrape(text)) {
    if (scrape->empty() || scrape->size() > kMaxScraped) std::abort();
  }
  return 0;
}
