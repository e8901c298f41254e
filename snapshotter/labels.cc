#include "snapshotter/labels.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace banyan::snapshotter {

namespace {

constexpr size_t kMaxNameBytes = 16 << 10;
constexpr size_t kMaxLabelBytes = 256 << 10;  // of all together; containerd's limit is 4 KiB each

constexpr char kCriImage[] = "containerd.io/snapshot/cri.image-ref";
constexpr char kCriManifest[] = "containerd.io/snapshot/cri.manifest-digest";
constexpr char kStargzImage[] = "containerd.io/snapshot/remote/stargz.reference";

// The length of the character that begins `text`; 0 when none does.
size_t CharacterBytes(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const size_t length = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  if (length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const bool overlong = (lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xF0 && byte(1) < 0x90);
  const bool beyond = (lead == 0xED && byte(1) > 0x9F) || (lead == 0xF4 && byte(1) > 0x8F);
  return overlong || beyond ? 0 : length;
}

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = CharacterBytes(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

bool IsControl(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }

const std::string* Find(const Labels& labels, const std::string& key) {
  const auto label = labels.find(key);
  return label == labels.end() || label->second.empty() ? nullptr : &label->second;
}

}  // namespace

Status CheckName(const std::string& what, const std::string& name) {
  if (name.empty()) return Fail(Code::kInvalidArgument, what + " is empty");
  if (name.size() > kMaxNameBytes) {
    return Fail(Code::kInvalidArgument, fmt::format("{} is longer than {} bytes", what, kMaxNameBytes));
  }
  if (!IsUtf8(name) || std::any_of(name.begin(), name.end(), IsControl)) {
    return Fail(Code::kInvalidArgument, what + " is not printable UTF-8");
  }
  return {};
}

Status CheckLabels(const Labels& labels) {
  size_t bytes = 0;
  for (const auto& [key, value] : labels) {
    bytes += key.size() + value.size();
    if (bytes > kMaxLabelBytes) {
      return Fail(Code::kInvalidArgument, fmt::format("labels are larger than {} bytes", kMaxLabelBytes));
    }
    if (!IsUtf8(key) || !IsUtf8(value)) return Fail(Code::kInvalidArgument, "a label is not UTF-8");
  }
  return {};
}

Labels WithoutEmpty(Labels labels) {
  std::erase_if(labels, [](const auto& label) { return label.second.empty(); });
  return labels;
}

std::optional<LayerRequest> ParseLayerRequest(const Labels& labels) {
  const std::string* const chain = Find(labels, std::string(kReferenceLabel));
  const std::string* const cri = Find(labels, kCriImage);
  const std::string* const image = cri != nullptr ? cri : Find(labels, kStargzImage);
  if (chain == nullptr || image == nullptr) return std::nullopt;
  const auto chain_id = Digest::Parse(*chain);
  if (!chain_id) return std::nullopt;

  LayerRequest request{.image_reference = *image, .chain_id = *chain_id};
  if (const std::string* const manifest = Find(labels, kCriManifest); cri != nullptr && manifest != nullptr) {
    const auto digest = Digest::Parse(*manifest);
    if (!digest) return std::nullopt;
    request.manifest_digest = *digest;
  }
  return request;
}

}  // namespace banyan::snapshotter
