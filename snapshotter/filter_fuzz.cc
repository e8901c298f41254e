// Filters as a client sends them, one a line, evaluated over a snapshot.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "snapshotter/filter.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> filters;
  while (!rest.empty()) {
    const size_t end = rest.find('\n');
    filters.emplace_back(rest.substr(0, end));
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
  }
  const auto filter = banyan::snapshotter::Filter::Parse(filters);
  if (filter) {
    (void)filter->Matches({.name = "k8s.io/2/sha256:ab", .parent = "base", .labels = {{"a.b/c", "aaaaaaaaaaaaaaaa"}}});
  }
  return 0;
}
