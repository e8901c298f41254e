// What a chain of layers means, case by case; and that a chain cut in two parts, stacked by the kernel's overlayfs,
// shows what the whole chain shows.
#include "image-format/merge.h"

#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "image-format/testing/layer_builder.h"

namespace banyan::image_format {
namespace {

using testing::LayerBuilder;

// A layer in words, one entry a string:
//   "d path mode"  "f path contents"  "l path target"  "h path path-in-layer"  "H path lower-path"  "w path"  "o path"
//   "c path major minor"
using Words = std::vector<std::string>;

LayerIndex Layer(const Words& words, std::vector<std::string>& devices) {
  LayerBuilder builder(fmt::format("layer {}", devices.size()));
  for (const std::string& line : words) {
    std::istringstream in(line);
    std::string what, path, value, more;
    in >> what >> path >> value >> more;
    if (path == ".") path.clear();
    switch (what[0]) {
      case 'd':
        builder.Directory(path, static_cast<uint16_t>(std::stoul(value, nullptr, 8)));
        break;
      case 'f':
        builder.File(path, value);
        break;
      case 'l':
        builder.Symlink(path, value);
        break;
      case 'h':
        builder.Link(path, value);
        break;
      case 'H':
        builder.LinkToLower(path, value);
        break;
      case 'w':
        builder.Whiteout(path);
        break;
      case 'o':
        builder.Opaque(path);
        break;
      default:
        builder.Device(path, EntryKind::kCharacterDevice, static_cast<uint32_t>(std::stoul(value)),
                       static_cast<uint32_t>(std::stoul(more)));
    }
  }
  LayerIndex index = builder.Build();
  devices.push_back(builder.device());
  return index;
}

// The tree in words: "d path mode links", "f path contents", "l path target"; a second name of an inode is "= path
// first-name"; overlay's marks are "w path" and "o" behind a directory's line.
void Render(const MergedTree& tree, uint32_t directory, const std::string& prefix,
            const std::vector<std::string>& devices, std::map<uint32_t, std::string>& seen, Words& out) {
  for (const MergedTree::Name& name : tree.children(directory)) {
    const std::string path = prefix + std::string(tree.name(name));
    const MergedTree::Inode& inode = tree.inode(name.inode);
    if (const auto [first, added] = seen.emplace(name.inode, path); !added) {
      out.push_back("= " + path + " " + first->second);
      continue;
    }
    if (inode.whiteout) {
      out.push_back("w " + path);
      continue;
    }
    const Entry& entry = tree.entry(name.inode);
    switch (entry.kind) {
      case EntryKind::kDirectory:
        out.push_back(fmt::format("d {} {:o} {}{}", path, entry.mode, inode.link_count, inode.opaque ? " o" : ""));
        Render(tree, name.inode, path + "/", devices, seen, out);
        break;
      case EntryKind::kRegular:
        out.push_back(fmt::format("f {} {}{}", path,
                                  devices[inode.layer].substr(entry.first_block * kBlockBytes, entry.size),
                                  inode.link_count > 1 ? fmt::format(" {}", inode.link_count) : ""));
        break;
      case EntryKind::kSymlink:
        out.push_back("l " + path + " " + entry.target);
        break;
      default:
        out.push_back(fmt::format("c {} {} {}", path, entry.device_major, entry.device_minor));
    }
  }
}

struct Case {
  std::string name;
  std::vector<Words> layers;
  Words expected;
  uint32_t lower_layers = 0;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class MergeCase : public ::testing::TestWithParam<Case> {};

TEST_P(MergeCase, GivesTheTree) {
  std::vector<std::string> devices;
  std::vector<LayerIndex> layers;
  for (const Words& words : GetParam().layers) layers.push_back(Layer(words, devices));
  std::vector<const LayerIndex*> pointers;
  for (const LayerIndex& layer : layers) pointers.push_back(&layer);
  const auto tree = MergeLayers(pointers, {.lower_layers = GetParam().lower_layers});
  ASSERT_TRUE(tree.has_value()) << tree.error().message;
  Words found;
  std::map<uint32_t, std::string> seen;
  Render(*tree, MergedTree::kRoot, "", devices, seen, found);
  EXPECT_EQ(found, GetParam().expected);
}

INSTANTIATE_TEST_SUITE_P(
    Whole, MergeCase,
    ::testing::Values(
        Case{"union", {{"f a 1"}, {"f b 2"}}, {"f a 1", "f b 2"}},
        Case{"upper_file_wins", {{"f a 1"}, {"f a 2"}}, {"f a 2"}},
        Case{"whiteout", {{"f a 1", "f b 2"}, {"w a"}}, {"f b 2"}},
        Case{"whiteout_of_nothing", {{"f b 2"}, {"w a", "w c/d"}}, {"f b 2", "d c 755 2"}},
        Case{"whiteout_then_again", {{"f a 1"}, {"w a"}, {"f a 3"}}, {"f a 3"}},
        Case{"whiteout_of_directory", {{"f d/x 1"}, {"w d"}, {"d d 700"}}, {"d d 700 2"}},
        Case{"opaque_hides_lower_only",
             {{"f d/x 1", "f d/s/y 2"}, {"o d", "f d/z 3"}, {"f d/w 4"}},
             {"d d 755 2", "f d/w 4", "f d/z 3"}},
        Case{"opaque_keeps_attributes_of_lower", {{"d d 711", "f d/x 1"}, {"o d"}}, {"d d 711 2"}},
        Case{"opaque_root", {{"f a 1"}, {"o .", "f b 2"}}, {"f b 2"}},
        Case{"opaque_below_opaque", {{"f d/e/x 1"}, {"o d/e", "f d/e/y 2"}}, {"d d 755 3", "d d/e 755 2", "f d/e/y 2"}},
        Case{"directory_by_file", {{"f d/x 1"}, {"f d 2"}}, {"f d 2"}},
        Case{"file_by_directory", {{"f d 1"}, {"d d 750", "f d/x 2"}}, {"d d 750 2", "f d/x 2"}},
        Case{"file_by_implied_directory", {{"f d 1"}, {"f d/x 2"}}, {"d d 755 2", "f d/x 2"}},
        Case{"symlink_in_the_way",
             {{"f usr/lib/y 1", "l lib usr/lib"}, {"f lib/x 2"}},
             {"d lib 755 2", "f lib/x 2", "d usr 755 3", "d usr/lib 755 2", "f usr/lib/y 1"}},
        Case{"implied_keeps_lower", {{"d d 1777"}, {"f d/x 1"}}, {"d d 1777 2", "f d/x 1"}},
        Case{"implied_then_named", {{"f d/x 1"}, {"d d 700"}}, {"d d 700 2", "f d/x 1"}},
        Case{"named_again_keeps_children", {{"d d 700", "f d/x 1"}, {"d d 711"}}, {"d d 711 2", "f d/x 1"}},
        Case{"links_in_layer", {{"f a 1", "h d/b a", "h c a"}}, {"f a 1 3", "= c a", "d d 755 2", "= d/b a"}},
        Case{"replacing_one_link_keeps_the_other", {{"f a 1", "h b a"}, {"f a 2"}}, {"f a 2", "f b 1"}},
        Case{"removing_one_link", {{"f a 1", "h b a"}, {"w a"}}, {"f b 1"}},
        Case{"link_to_lower", {{"f a 1"}, {"H b a"}}, {"f a 1 2", "= b a"}},
        Case{"link_to_lower_that_is_removed", {{"f d/a 1"}, {"H b d/a", "w d"}}, {"f b 1"}},
        Case{"link_to_lower_under_opaque", {{"f d/a 1"}, {"o d", "H d/b d/a"}}, {"d d 755 2", "f d/b 1"}},
        Case{"link_to_lower_replaced_here", {{"f a 1"}, {"H b a", "f a 2"}}, {"f a 2", "f b 1"}},
        Case{"link_to_lower_link", {{"f a 1", "h c a"}, {"H b c"}, {"H e b"}}, {"f a 1 4", "= b a", "= c a", "= e a"}},
        Case{"link_to_lower_symlink_itself", {{"l a there"}, {"H b a"}}, {"l a there", "= b a"}},
        Case{"link_to_lower_through_symlink",
             {{"f usr/lib/y 1", "l lib usr/lib", "l abs /lib"}, {"H b lib/y", "H c abs/y"}},
             {"l abs /lib", "f b 1 3", "= c b", "l lib usr/lib", "d usr 755 3", "d usr/lib 755 2", "= usr/lib/y b"}},
        Case{"names_in_order_of_bytes",
             {{"f a 1", "f \xc3\xa9 2", "f A 3", "f ! 4"}},
             {"f ! 4", "f A 3", "f a 1", "f \xc3\xa9 2"}},
        Case{"subdirectories_counted",
             {{"d d 755", "d d/a 755"}, {"d d/b 755", "w d/a"}},
             {"d d 755 3", "d d/b 755 2"}}),
    [](const auto& param_info) { return param_info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Part, MergeCase,
    ::testing::Values(
        Case{"only_what_changed", {{"f a 1", "f d/x 1"}, {"f b 2"}}, {"f b 2"}, 1},
        Case{"whiteout_stays", {{"f a 1"}, {"w a", "f b 2"}}, {"w a", "f b 2"}, 1},
        Case{"whiteout_of_own_file_is_gone", {{"f a 1"}, {"f b 2"}, {"w b"}}, {}, 1},
        Case{"opaque_mark", {{"f d/a 1", "f k 1"}, {"o d", "f d/b 2"}}, {"d d 755 2 o", "f d/b 2"}, 1},
        Case{"replaced_directory_is_opaque", {{"f d/a 1"}, {"w d"}, {"d d 700"}}, {"d d 700 2 o"}, 1},
        Case{"implied_takes_lower_attributes", {{"d d 1777", "f d/k 1"}, {"f d/x 2"}}, {"d d 1777 2", "f d/x 2"}, 1},
        Case{"some_survive", {{"f d/a 1", "f d/k 1"}, {"w d/a"}}, {"d d 755 2", "w d/a"}, 1},
        Case{"file_over_directory", {{"f d/a 1", "f k 1"}, {"f d 2"}}, {"f d 2"}, 1},
        Case{"link_to_lower_is_a_file_of_its_own", {{"f a 1"}, {"H b a"}}, {"f b 1"}, 1}),
    [](const auto& param_info) { return param_info.param.name; });

std::string ErrorOf(const std::vector<Words>& chain) {
  std::vector<std::string> devices;
  std::vector<LayerIndex> layers;
  for (const Words& words : chain) layers.push_back(Layer(words, devices));
  std::vector<const LayerIndex*> pointers;
  for (const LayerIndex& layer : layers) pointers.push_back(&layer);
  const auto tree = MergeLayers(pointers);
  if (tree) return "no error";
  EXPECT_EQ(tree.error().code, Code::kInvalidArgument);
  return tree.error().message;
}

TEST(Merge, RefusesLinksToNothing) {
  const std::string message = ErrorOf({{"f a 1"}, {"H d/b no/such"}});
  EXPECT_NE(message.find("layer 1"), std::string::npos) << message;
  EXPECT_NE(message.find("/d/b"), std::string::npos) << message;
  EXPECT_NE(message.find("/no/such"), std::string::npos) << message;
  EXPECT_NE(ErrorOf({{"H b a"}}), "no error");
  EXPECT_NE(ErrorOf({{"d a 755"}, {"H b a"}}), "no error");
  EXPECT_NE(ErrorOf({{"f a 1"}, {"w a"}, {"H b a"}}), "no error");
  EXPECT_NE(ErrorOf({{"l a b", "l b a"}, {"H c a/x"}}), "no error");
  EXPECT_NE(ErrorOf({{"f a 1"}, {"H c a/x"}}), "no error");
}

TEST(Merge, RefusesIndexesOutOfOrder) {
  std::vector<std::string> devices;
  const LayerIndex good = Layer({"f a 1", "f b 2", "h c a"}, devices);
  const auto merged = [](const LayerIndex& index) {
    const LayerIndex* pointer = &index;
    return MergeLayers(std::span(&pointer, 1)).has_value();
  };
  EXPECT_TRUE(merged(good));
  LayerIndex bad = good;
  std::swap(bad.entries[1].name, bad.entries[2].name);
  EXPECT_FALSE(merged(bad));
  bad = good;
  bad.entries[2].name = "a";
  EXPECT_FALSE(merged(bad));
  bad = good;
  bad.entries[2].parent = 1;
  EXPECT_FALSE(merged(bad));
  bad = good;
  bad.entries[1].parent = 3;
  EXPECT_FALSE(merged(bad));
  for (const char* name : {"", ".", "..", "a/b"}) {
    bad = good;
    bad.entries[1].name = name;
    EXPECT_FALSE(merged(bad));
  }
  for (const uint32_t link : {0U, 3U, 99U}) {
    bad = good;
    bad.entries[3].link_entry = link;
    EXPECT_FALSE(merged(bad));
  }
  bad = good;
  bad.entries.clear();
  EXPECT_FALSE(merged(bad));
  EXPECT_FALSE(MergeLayers({}).has_value());
}

TEST(Merge, ShowsOnlyAttributesThatLinuxKeeps) {
  LayerBuilder builder;
  const std::vector<Xattr> all{{"user.a", "1"},
                               {"trusted.b", "2"},
                               {"trusted.overlay.opaque", "y"},
                               {"user.overlay.whiteout", "y"},
                               {"security.c", "3"},
                               {"system.posix_acl_access", "4"},
                               {"system.posix_acl_default", "5"},
                               {"com.apple.provenance", "6"}};
  builder.File("file", "").xattrs = all;
  builder.Directory("directory").xattrs = all;
  builder.Symlink("symlink", "x").xattrs = all;
  const LayerIndex index = builder.Build();
  const LayerIndex* pointer = &index;
  const auto tree = MergeLayers(std::span(&pointer, 1));
  ASSERT_TRUE(tree.has_value());
  std::map<std::string, std::string> names;
  for (const auto& child : tree->children(MergedTree::kRoot)) {
    for (const Xattr& xattr : tree->Xattrs(child.inode)) names[std::string(tree->name(child))] += xattr.name + " ";
  }
  EXPECT_EQ(names["file"], "security.c system.posix_acl_access trusted.b user.a ");
  EXPECT_EQ(names["directory"], "security.c system.posix_acl_access system.posix_acl_default trusted.b user.a ");
  EXPECT_EQ(names["symlink"], "security.c trusted.b ");
}

TEST(Merge, DeepTreesNeedNoStack) {
  LayerIndex index;
  index.entries.emplace_back();
  for (uint32_t i = 0; i < 200'000; ++i) {
    Entry& entry = index.entries.emplace_back();
    entry.parent = i;
    entry.name = "d";
  }
  const LayerIndex* layers[] = {&index, &index};
  const auto tree = MergeLayers(layers);
  ASSERT_TRUE(tree.has_value());
  EXPECT_EQ(tree->inode_count(), 200'001U);
}

}  // namespace
}  // namespace banyan::image_format
