#include "cli/tree_drawing.h"

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include <fmt/format.h>

#include "cli/text.h"

namespace banyan::cli {
namespace {

using proto::tree::TreeNode;
using proto::tree::TreeReply;

struct Lines {
  const char* child;
  const char* last_child;
  const char* below;
  const char* below_last;
};
constexpr Lines kUnicode{"├─ ", "└─ ", "│  ", "   "};
constexpr Lines kAscii{"|- ", "`- ", "|  ", "   "};

// One stripe.
class Drawer {
 public:
  Drawer(const TreeReply& reply, int stripe, const TreeDrawing& drawing)
      : lines_(drawing.plain ? kAscii : kUnicode), cut_(!drawing.all && reply.nodes_size() > TreeDrawing::kLargeTree) {
    std::set<std::string> names;
    for (const TreeNode& node : reply.nodes()) names.insert(node.node());
    for (const TreeNode& node : reply.nodes()) {
      const std::string parent = stripe < node.parents_size() ? node.parents(stripe) : std::string();
      const bool known = !parent.empty() && names.contains(parent);
      children_[known ? "\n" + parent : "\r" + node.zone()].push_back(&node);
    }
    for (auto& [parent, nodes] : children_) {
      std::sort(nodes.begin(), nodes.end(), [](const auto* a, const auto* b) { return a->node() < b->node(); });
    }
  }

  std::string Draw(const std::vector<std::string>& zones) {
    std::string out;
    for (const std::string& zone : zones) {
      const bool named = zones.size() > 1 || !zone.empty();
      out += named ? fmt::format("proxy, for {}\n", zone.empty() ? "nodes of no zone" : "zone " + Printable(zone))
                   : "proxy\n";
      DrawChildren("\r" + zone, "", 1, out);
    }
    return out;
  }

 private:
  void DrawChildren(const std::string& key, const std::string& indent, uint32_t depth, std::string& out) {
    const auto found = children_.find(key);
    if (found == children_.end() || !drawn_.insert(key).second) return;
    for (const TreeNode* node : found->second) {
      const bool last = node == found->second.back();
      const std::string below = "\n" + node->node();
      const bool hidden = cut_ && depth >= TreeDrawing::kShownDepth;
      out += indent + (last ? lines_.last_child : lines_.child) + Describe(*node);
      if (const size_t count = hidden ? CountBelow(below) : 0; count > 0) out += fmt::format("  (and {} below)", count);
      out += "\n";
      if (!hidden) DrawChildren(below, indent + (last ? lines_.below_last : lines_.below), depth + 1, out);
    }
  }

  size_t CountBelow(const std::string& key) {
    size_t count = 0;
    std::vector<std::string> left{key};
    while (!left.empty()) {
      const auto found = children_.find(left.back());
      left.pop_back();
      if (found == children_.end() || !drawn_.insert(found->first).second) continue;
      count += found->second.size();
      for (const TreeNode* node : found->second) left.push_back("\n" + node->node());
    }
    return count;
  }

  static std::string Describe(const TreeNode& node) {
    std::string text = fmt::format("{}  {}", Printable(node.node()), Percent(node.present_permille(), 1000));
    if (node.ready() && node.present_permille() < 1000) text += "  ready";
    if (node.state() != proto::tree::LIVE) text += "  " + NodeStateName(node.state());
    return text;
  }

  const Lines& lines_;
  const bool cut_;
  // LF and the parent's name, or CR and the zone whose roots these are: no name has either.
  std::map<std::string, std::vector<const TreeNode*>> children_;
  std::set<std::string> drawn_;
};

}  // namespace

std::string NodeStateName(proto::tree::NodeState state) {
  switch (state) {
    case proto::tree::LIVE:
      return "live";
    case proto::tree::SUSPECT:
      return "suspect";
    case proto::tree::DRAINING:
      return "draining";
    case proto::tree::AWAY:
      return "away";
    default:
      return "unknown";
  }
}

std::string DrawTrees(const TreeReply& reply, const TreeDrawing& drawing) {
  const auto& function = reply.function();
  std::string out = Printable(function.function());
  if (!function.reference().empty()) out += "  " + Printable(function.reference());
  out += fmt::format("\n{} nodes, height {}, {} re-parentings", function.nodes(), function.height(),
                     function.reparentings());
  if (function.profile_chunks() > 0) out += fmt::format(", profile of {} chunks", function.profile_chunks());
  out += "\n";
  std::set<std::string> zones;
  int stripes = 0;
  for (const TreeNode& node : reply.nodes()) {
    zones.insert(node.zone());
    stripes = std::max(stripes, std::min(node.parents_size(), 2));
  }
  for (int stripe = 0; stripe < stripes; ++stripe) {
    if (drawing.stripe != 0 && static_cast<int>(drawing.stripe) != stripe + 1) continue;
    out += fmt::format("\nstripe {}\n", stripe + 1);
    out += Drawer(reply, stripe, drawing).Draw({zones.begin(), zones.end()});
  }
  return out;
}

}  // namespace banyan::cli
