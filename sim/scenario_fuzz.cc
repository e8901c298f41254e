// Any text: parsed, or refused with a line.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "sim/scenario.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto parsed = banyan::sim::ParseScenarios(text, "x");
  if (!parsed && !parsed.error().message.starts_with("x:")) std::abort();
  return 0;
}
