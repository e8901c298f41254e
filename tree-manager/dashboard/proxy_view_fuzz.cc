// Answers of registry proxies.
#include <cstdint>
#include <cstdlib>

#include "tree-manager/dashboard/proxy_view.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace banyan::tree_manager;
  banyan::proto::proxy::ConversionsReply reply;
  if (size > (size_t{4} << 20) || !reply.ParseFromArray(data, static_cast<int>(size))) return 0;
  const auto view = ViewOf(reply, "proxy:5051");
  if (view.size() > static_cast<size_t>(kMaxConversions)) std::abort();
  for (const auto& [key, text] : view) {
    const auto conversion = nlohmann::json::parse(text, nullptr, false);
    if (!conversion.is_object() || text.find('\n') != std::string::npos) std::abort();
    // A byte that is no UTF-8 becomes three.
    for (const auto& [name, value] : conversion.items()) {
      if (value.is_string() && value.get_ref<const std::string&>().size() > 3 * kMaxConversionText) std::abort();
    }
  }
  return 0;
}
