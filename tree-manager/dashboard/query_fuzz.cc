// Request targets of the dashboard.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "net/url.h"
#include "tree-manager/dashboard/query.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace banyan::tree_manager;
  const auto query = ParseQuery(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!query) return 0;
  if (NumberOf(*query, "limit", 7, 100) > 100) std::abort();
  // Written out again, it is the same.
  std::string again = "/?";
  for (const auto& [name, value] : *query) {
    again += banyan::net::PercentEncode(name) + "=" + banyan::net::PercentEncode(value) + "&";
  }
  const auto second = ParseQuery(again);
  if (!second || *second != *query) std::abort();
  return 0;
}
