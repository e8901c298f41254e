// Bodies of preheatings asked for by HTTP.
#include <cstdint>
#include <cstdlib>

#include "tree-manager/preheat_api.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto request = banyan::tree_manager::ParsePreheat(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!request) return 0;
  if (request->reference().empty() || request->nodes_size() > 10'000) std::abort();
  std::string wire;
  if (!request->SerializeToString(&wire)) std::abort();
  return 0;
}
