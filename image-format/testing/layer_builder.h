// Layer indexes made by hand for tests, with their data devices: what a converter would make of a tar with these
// entries.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zstd.h>

#include "common/digest.h"
#include "common/units.h"
#include "image-format/layer_index.h"

namespace banyan::image_format::testing {

class LayerBuilder {
 public:
  // `seed` makes the layer's diff ID.
  explicit LayerBuilder(std::string_view seed = "layer") : seed_(seed) { root_.entry.mode = 0755; }

  // Each adds (or replaces) a path and returns its entry for further settings. Missing directories become implied ones.
  Entry& Directory(std::string_view path, uint16_t mode = 0755) {
    Node& node = At(path);
    node.entry.kind = EntryKind::kDirectory;
    node.entry.implied = false;
    node.entry.mode = mode;
    return node.entry;
  }
  Entry& Opaque(std::string_view path) {
    Node& node = At(path);
    node.entry.kind = EntryKind::kDirectory;
    node.entry.opaque = true;
    return node.entry;
  }
  Entry& File(std::string_view path, std::string contents, uint16_t mode = 0644) {
    Node& node = At(path);
    node.contents = std::move(contents);
    node.entry.size = node.contents.size();
    return Set(node, EntryKind::kRegular, mode);
  }
  Entry& Symlink(std::string_view path, std::string target) {
    Node& node = At(path);
    node.entry.target = std::move(target);
    return Set(node, EntryKind::kSymlink, 0777);
  }
  Entry& Device(std::string_view path, EntryKind kind, uint32_t major, uint32_t minor) {
    Node& node = At(path);
    node.entry.device_major = major;
    node.entry.device_minor = minor;
    return Set(node, kind, 0600);
  }
  Entry& Fifo(std::string_view path) { return Set(At(path), EntryKind::kFifo, 0600); }
  Entry& Link(std::string_view path, std::string_view to) {
    Node& node = At(path);
    node.link_path = to;
    return Set(node, EntryKind::kLinkToEntry, 0);
  }
  Entry& LinkToLower(std::string_view path, std::string target) {
    Node& node = At(path);
    node.entry.target = std::move(target);
    return Set(node, EntryKind::kLinkToLower, 0);
  }
  Entry& Whiteout(std::string_view path) { return Set(At(path), EntryKind::kWhiteout, 0); }

  LayerIndex Build() {
    LayerIndex index;
    index.converter_version = "test";
    index.source_digest = Digest::Of("source of " + seed_);
    index.diff_id = Digest::Of(seed_);
    device_.clear();
    std::vector<std::pair<uint32_t, std::string>> links;
    std::map<std::string, uint32_t> entries;
    Flatten(root_, "", 0, index, links, entries);
    for (const auto& [entry, path] : links) index.entries[entry].link_entry = entries.at(path);
    Cut(index);
    return index;
  }
  // The layer's device, after Build().
  const std::string& device() const { return device_; }
  // The data blob.
  const std::string& blob() const { return blob_; }

 private:
  struct Node {
    Entry entry;
    std::string contents;
    std::string link_path;
    std::map<std::string, Node> children;
  };

  static Entry& Set(Node& node, EntryKind kind, uint16_t mode) {
    node.entry.kind = kind;
    node.entry.mode = mode;
    node.entry.implied = false;
    return node.entry;
  }

  Node& At(std::string_view path) {
    Node* node = &root_;
    while (!path.empty()) {
      const size_t slash = path.find('/');
      const std::string part(path.substr(0, slash));
      path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
      const auto [it, added] = node->children.try_emplace(part);
      node = &it->second;
      if (!added) continue;
      node->entry.name = part;
      node->entry.mode = 0755;
      node->entry.implied = true;
    }
    return *node;
  }

  void Flatten(const Node& node, const std::string& path, uint32_t parent, LayerIndex& index,
               std::vector<std::pair<uint32_t, std::string>>& links, std::map<std::string, uint32_t>& entries) {
    const auto number = static_cast<uint32_t>(index.entries.size());
    entries[path] = number;
    Entry& entry = index.entries.emplace_back(node.entry);
    entry.parent = parent;
    std::sort(entry.xattrs.begin(), entry.xattrs.end());
    if (entry.kind == EntryKind::kLinkToEntry) links.emplace_back(number, node.link_path);
    if (!node.contents.empty()) {
      entry.first_block = device_.size() / kBlockBytes;
      device_ += node.contents;
      device_.resize(BlocksFor(device_.size()) * kBlockBytes);
    }
    for (const auto& [name, child] : node.children) {
      Flatten(child, path.empty() ? name : path + "/" + name, number, index, links, entries);
    }
  }

  void Cut(LayerIndex& index) {
    blob_.clear();
    for (size_t at = 0; at < device_.size();) {
      const size_t bytes = std::min<size_t>(device_.size() - at, 64 * kBlockBytes);
      std::string frame(ZSTD_compressBound(bytes), '\0');
      frame.resize(ZSTD_compress(frame.data(), frame.size(), device_.data() + at, bytes, 3));
      (void)index.chunks.Append(static_cast<uint32_t>(frame.size()), static_cast<uint32_t>(bytes / kBlockBytes),
                                Digest::Of(frame), Digest::Of(std::string_view(device_).substr(at, bytes)));
      blob_ += frame;
      at += bytes;
    }
    index.device_blocks = index.chunks.device_blocks();
    index.blob_bytes = blob_.size();
    index.blob_digest = Digest::Of(blob_);
  }

  std::string seed_;
  Node root_;
  std::string device_;
  std::string blob_;
};

}  // namespace banyan::image_format::testing
