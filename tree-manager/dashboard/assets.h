// The dashboard's files, which are part of the program (embed.cmake).
#pragma once

#include <span>
#include <string_view>

namespace banyan::tree_manager {

struct Asset {
  std::string_view path;  // "index.html"
  std::string_view type;  // of its contents
  std::string_view tag;   // of its bytes: another for others
  std::string_view bytes;
};

// Static storage.
std::span<const Asset> Assets();

}  // namespace banyan::tree_manager
