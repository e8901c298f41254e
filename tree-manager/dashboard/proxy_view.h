// What a registry proxy says about its conversions, as JSON for the pages. Bytes from outside: a proxy may be anybody
// who got hold of its address. Texts are cut, entries are counted, what is no known state is called unknown.
#pragma once

#include <map>
#include <string>

#include <nlohmann/json.hpp>

#include "proto/proxy.pb.h"

namespace banyan::tree_manager {

inline constexpr int kMaxConversions = 500;        // of one proxy
inline constexpr size_t kMaxConversionText = 512;  // bytes of one of its texts

// One conversion; `proxy` is the address that told of it.
nlohmann::json ToJson(const proto::proxy::Conversion& conversion, const std::string& proxy);

// By what each is known by (proxy, image, digest), on one line each. Beyond kMaxConversions they are left out.
std::map<std::string, std::string> ViewOf(const proto::proxy::ConversionsReply& reply, const std::string& proxy);

}  // namespace banyan::tree_manager
