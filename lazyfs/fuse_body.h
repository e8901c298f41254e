// What both file systems do with the bodies of requests.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <string_view>

#include "common/units.h"
#include "fetch/lazy_layer.h"
#include "lazyfs/fuse_session.h"

namespace banyan::lazyfs {

// A kernel older than our headers sends shorter structures: the rest is zero.
template <typename T>
T ParseBody(std::span<const std::byte> body) {
  T value{};
  std::memcpy(&value, body.data(), std::min(sizeof(T), body.size()));
  return value;
}

// The name at the start of `body`, without its NUL.
inline std::string_view NameIn(std::span<const std::byte> body) {
  const auto* text = reinterpret_cast<const char*>(body.data());
  return {text, strnlen(text, body.size())};
}

// Answers a READ with bytes `range` of the layer, when they come. Not empty, at most kMaxReadBytes, within the layer.
void AnswerFromLayer(FuseRequest request, fetch::LazyLayer& layer, ByteRange range);

}  // namespace banyan::lazyfs
