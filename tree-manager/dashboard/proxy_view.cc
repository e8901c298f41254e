#include "tree-manager/dashboard/proxy_view.h"

#include <algorithm>

#include <fmt/format.h>

#include "tree-manager/dashboard/view_json.h"

namespace banyan::tree_manager {

using nlohmann::json;
using proto::proxy::Conversion;
using proto::proxy::ConversionsReply;

namespace {

// Between two characters, so that what was UTF-8 is still.
std::string Cut(const std::string& text) {
  size_t size = std::min(text.size(), kMaxConversionText);
  while (size > 0 && size < text.size() && (static_cast<unsigned char>(text[size]) & 0xc0) == 0x80) --size;
  return text.substr(0, size);
}

const char* NameOf(Conversion::State state) {
  switch (state) {
    case Conversion::QUEUED:
      return "queued";
    case Conversion::RUNNING:
      return "running";
    case Conversion::DONE:
      return "done";
    case Conversion::PRESENT:
      return "present";
    case Conversion::FAILED:
      return "failed";
    default:
      return "unknown";
  }
}

}  // namespace

json ToJson(const Conversion& conversion, const std::string& proxy) {
  return {{"proxy", proxy},
          {"registry", Cut(conversion.registry())},
          {"repository", Cut(conversion.repository())},
          {"reference", Cut(conversion.reference())},
          {"digest", Cut(conversion.digest())},
          {"state", NameOf(conversion.state())},
          {"asks", conversion.asks()},
          {"layers", conversion.layers()},
          {"layersDone", conversion.layers_done()},
          {"layersReused", conversion.layers_reused()},
          {"bytes", conversion.bytes()},
          {"bytesDone", conversion.bytes_done()},
          {"blobBytes", conversion.blob_bytes()},
          {"chunks", conversion.chunks()},
          {"sharedChunks", conversion.shared_chunks()},
          {"sharedBytes", conversion.shared_bytes()},
          {"message", Cut(conversion.message())},
          {"artifact", Cut(conversion.artifact())},
          {"queuedUnixMicros", conversion.queued_unix_micros()},
          {"beganUnixMicros", conversion.began_unix_micros()},
          {"endedUnixMicros", conversion.ended_unix_micros()}};
}

std::map<std::string, std::string> ViewOf(const ConversionsReply& reply, const std::string& proxy) {
  std::map<std::string, std::string> view;
  for (int i = 0; i < std::min(reply.conversions_size(), kMaxConversions); ++i) {
    const Conversion& conversion = reply.conversions(i);
    const std::string key = fmt::format("{}\n{}\n{}\n{}", proxy, Cut(conversion.registry()),
                                        Cut(conversion.repository()), Cut(conversion.digest()));
    view[key] = Dump(ToJson(conversion, proxy));
  }
  return view;
}

}  // namespace banyan::tree_manager
