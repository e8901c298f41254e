// Metadata that the writer makes, mounted by the kernel and checked by fsck.erofs: everything that was put in comes
// back, and our reader says the same as the kernel. Skipped without root or without EROFS.
#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "common/file_io.h"
#include "image-format/erofs_flatten.h"
#include "image-format/erofs_reader.h"
#include "image-format/erofs_writer.h"
#include "image-format/merge.h"
#include "image-format/testing/layer_builder.h"

namespace banyan::image_format {
namespace {

using testing::LayerBuilder;

// A detached mount, gone when the descriptor is closed. An invalid descriptor if the kernel refuses.
UniqueFd MountErofs(const std::string& source, const std::vector<std::string>& devices, std::string& why) {
  const UniqueFd context(fsopen("erofs", FSOPEN_CLOEXEC));
  const auto fail = [&why, &context](std::string_view step) {
    why = ErrnoError(step, errno).message;
    char log[256];
    while (const ssize_t n = read(context.get(), log, sizeof(log))) {
      if (n < 0) break;
      why += "; " + std::string(log, static_cast<size_t>(n));
    }
    return UniqueFd();
  };
  if (!context.valid()) return fail("fsopen erofs");
  if (fsconfig(context.get(), FSCONFIG_SET_STRING, "source", source.c_str(), 0) != 0) return fail("source");
  if (fsconfig(context.get(), FSCONFIG_SET_FLAG, "ro", nullptr, 0) != 0) return fail("ro");
  for (const std::string& device : devices) {
    if (fsconfig(context.get(), FSCONFIG_SET_STRING, "device", device.c_str(), 0) != 0) return fail("device");
  }
  if (fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return fail("create");
  UniqueFd mount(fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
  return mount.valid() ? std::move(mount) : fail("fsmount");
}

// What this test needs of the machine.
bool CanMount() {
  if (geteuid() != 0) return false;
  const UniqueFd context(fsopen("erofs", FSOPEN_CLOEXEC));
  return context.valid();
}

struct Image {
  std::vector<LayerIndex> layers;
  std::vector<std::string> devices;
  std::vector<const LayerIndex*> pointers;
  MergedTree tree;
  ErofsMetadata metadata;
};

Image Build(std::vector<LayerBuilder>& builders, const MergeOptions& options = {}) {
  Image image;
  for (LayerBuilder& builder : builders) {
    image.layers.push_back(builder.Build());
    image.devices.push_back(builder.device());
  }
  std::vector<ErofsDevice> devices;
  for (const LayerIndex& layer : image.layers) {
    image.pointers.push_back(&layer);
    devices.push_back({layer.diff_id.Hex(), static_cast<uint32_t>(layer.device_blocks)});
  }
  auto tree = MergeLayers(image.pointers, options);
  EXPECT_TRUE(tree.has_value()) << tree.error().message;
  image.tree = std::move(tree).value();
  auto metadata = WriteErofs(image.tree, devices);
  EXPECT_TRUE(metadata.has_value()) << metadata.error().message;
  image.metadata = std::move(metadata).value();
  return image;
}

std::string Text(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::vector<Xattr> KernelXattrs(int directory, const std::string& name) {
  const std::string path = fmt::format("/proc/self/fd/{}/{}", directory, name);
  std::string names(65536, '\0');
  const ssize_t length = llistxattr(path.c_str(), names.data(), names.size());
  std::vector<Xattr> xattrs;
  for (ssize_t at = 0; at < length;) {
    const std::string key(names.c_str() + at);
    std::string value(65536, '\0');
    const ssize_t bytes = lgetxattr(path.c_str(), key.c_str(), value.data(), value.size());
    value.resize(bytes < 0 ? 0 : static_cast<size_t>(bytes));
    xattrs.push_back({key, value});
    at += static_cast<ssize_t>(key.size()) + 1;
  }
  std::sort(xattrs.begin(), xattrs.end());
  return xattrs;
}

// Walks the merged tree, the mount and the reader side by side.
class Comparison {
 public:
  Comparison(const Image& image, int mount, const ErofsReader& reader)
      : image_(image), mount_(mount), reader_(reader) {}

  void Run() {
    CompareInode(MergedTree::kRoot, mount_, ".", reader_.root(), "/");
    CompareDirectory(MergedTree::kRoot, UniqueFd(openat(mount_, ".", O_RDONLY | O_DIRECTORY)), reader_.root(), "/");
    EXPECT_EQ(seen_.size(), image_.tree.inode_count());
  }

 private:
  void CompareDirectory(uint32_t inode, const UniqueFd& fd, ErofsReader::Nid nid, const std::string& path) {
    ASSERT_TRUE(fd.valid()) << path;
    DIR* stream = fdopendir(dup(fd.get()));
    std::vector<std::string> listed;
    while (const dirent* entry = readdir(stream)) listed.emplace_back(entry->d_name);
    closedir(stream);
    std::vector<std::string> expected{".", ".."};
    for (const auto& name : image_.tree.children(inode)) expected.emplace_back(image_.tree.name(name));
    std::sort(expected.begin(), expected.end());
    ASSERT_EQ(listed, expected) << path;
    const auto entries = reader_.ReadDirectory(nid);
    ASSERT_TRUE(entries.has_value()) << entries.error().message;
    ASSERT_EQ(entries->size(), listed.size());

    for (const auto& child : image_.tree.children(inode)) {
      const std::string name(image_.tree.name(child));
      const auto found = reader_.Lookup(nid, name);
      ASSERT_TRUE(found.has_value()) << path << name << ": " << found.error().message;
      CompareInode(child.inode, fd.get(), name, *found, path + name);
      if (image_.tree.is_directory(child.inode)) {
        CompareDirectory(child.inode, UniqueFd(openat(fd.get(), name.c_str(), O_RDONLY | O_DIRECTORY)), *found,
                         path + name + "/");
      }
    }
    EXPECT_FALSE(reader_.Lookup(nid, "no such name").has_value());
  }

  void CompareInode(uint32_t inode, int directory, const std::string& name, ErofsReader::Nid nid,
                    const std::string& path) {
    SCOPED_TRACE(path);
    struct stat st {};
    ASSERT_EQ(fstatat(directory, name.c_str(), &st, AT_SYMLINK_NOFOLLOW), 0);
    const auto stat = reader_.GetStat(nid);
    ASSERT_TRUE(stat.has_value()) << stat.error().message;
    EXPECT_EQ(st.st_mode, stat->mode);
    EXPECT_EQ(st.st_uid, stat->uid);
    EXPECT_EQ(st.st_gid, stat->gid);
    EXPECT_EQ(st.st_nlink, stat->link_count);
    EXPECT_EQ(st.st_mtim.tv_sec, stat->mtime_seconds);
    EXPECT_EQ(st.st_mtim.tv_nsec, stat->mtime_nanoseconds);
    EXPECT_EQ(static_cast<uint64_t>(st.st_size), stat->size);
    EXPECT_EQ(st.st_rdev,
              S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode) ? makedev(stat->device_major, stat->device_minor) : 0);
    const auto [at, first] = seen_.emplace(inode, st.st_ino);
    EXPECT_EQ(at->second, st.st_ino) << "hard links must share an inode";
    EXPECT_EQ(numbers_.insert(st.st_ino).second, first);

    const auto& node = image_.tree.inode(inode);
    EXPECT_EQ(st.st_nlink, node.link_count);
    const auto xattrs = reader_.Xattrs(nid);
    ASSERT_TRUE(xattrs.has_value());
    EXPECT_EQ(*xattrs, image_.tree.Xattrs(inode));
    EXPECT_EQ(KernelXattrs(directory, name), *xattrs);
    if (node.whiteout) {
      EXPECT_TRUE(S_ISCHR(st.st_mode) && st.st_rdev == 0);
      return;
    }
    const Entry& entry = image_.tree.entry(inode);
    EXPECT_EQ(st.st_mode & 07777, entry.mode);
    EXPECT_EQ(st.st_uid, entry.uid);
    EXPECT_EQ(st.st_gid, entry.gid);
    EXPECT_EQ(st.st_mtim.tv_sec, entry.mtime_seconds);
    EXPECT_EQ(st.st_mtim.tv_nsec, entry.mtime_nanoseconds);
    if (entry.kind == EntryKind::kSymlink) CompareTarget(entry, directory, name, nid);
    if (entry.kind == EntryKind::kRegular) CompareContents(node, entry, directory, name, nid);
    if (entry.kind == EntryKind::kCharacterDevice || entry.kind == EntryKind::kBlockDevice) {
      EXPECT_EQ(st.st_rdev, makedev(entry.device_major, entry.device_minor));
    }
  }

  void CompareTarget(const Entry& entry, int directory, const std::string& name, ErofsReader::Nid nid) {
    std::string target(5000, '\0');
    const ssize_t length = readlinkat(directory, name.c_str(), target.data(), target.size());
    ASSERT_GT(length, 0);
    target.resize(static_cast<size_t>(length));
    EXPECT_EQ(target, entry.target);
    EXPECT_EQ(reader_.ReadLink(nid).value_or(""), entry.target);
  }

  void CompareContents(const MergedTree::Inode& node, const Entry& entry, int directory, const std::string& name,
                       ErofsReader::Nid nid) {
    const UniqueFd fd(openat(directory, name.c_str(), O_RDONLY));
    ASSERT_TRUE(fd.valid());
    const std::string expected = image_.devices[node.layer].substr(entry.first_block * kBlockBytes, entry.size);
    std::string bytes(entry.size + 1, '\0');
    size_t got = 0;
    while (got < bytes.size()) {
      const ssize_t n = pread(fd.get(), bytes.data() + got, bytes.size() - got, static_cast<off_t>(got));
      ASSERT_GE(n, 0) << strerror(errno);
      if (n == 0) break;
      got += static_cast<size_t>(n);
    }
    bytes.resize(got);
    EXPECT_TRUE(bytes == expected);
    const auto extent = reader_.FileExtent(nid);
    ASSERT_TRUE(extent.has_value());
    EXPECT_EQ(extent->size, entry.size);
    if (entry.size == 0) return;
    EXPECT_EQ(extent->device, node.layer);
    EXPECT_EQ(extent->first_block, entry.first_block);
  }

  const Image& image_;
  const int mount_;
  const ErofsReader& reader_;
  std::map<uint32_t, ino_t> seen_;
  std::set<ino_t> numbers_;
};

void CheckByFsck(const std::string& metadata_path, const std::vector<std::string>& devices) {
  if (std::system("command -v fsck.erofs >/dev/null") != 0) return;
  std::string command = "fsck.erofs";
  for (const std::string& device : devices) command += " --device=" + device;
  const int status = std::system((command + " " + metadata_path + " >/dev/null").c_str());
  EXPECT_EQ(status, 0) << "fsck.erofs refuses the metadata";
}

// Writes the files, mounts them in both forms and compares everything.
void CheckByMounting(const Image& image) {
  const auto reader = ErofsReader::Open(image.metadata.bytes);
  ASSERT_TRUE(reader.has_value()) << reader.error().message;
  const auto checked = reader->Check();
  ASSERT_TRUE(checked.has_value()) << checked.error().message;
  if (!CanMount()) GTEST_SKIP() << "needs root and EROFS";

  const auto directory = TempDir::Make("banyan-erofs-test-");
  ASSERT_TRUE(directory.has_value());
  const std::string metadata_path = directory->path() + "/metadata";
  ASSERT_TRUE(WriteFileDurably(metadata_path, Text(image.metadata.bytes)).has_value());
  std::vector<std::string> devices;
  for (size_t i = 0; i < image.devices.size(); ++i) {
    devices.push_back(fmt::format("{}/{}", directory->path(), i));
    ASSERT_TRUE(WriteFileDurably(devices.back(), image.devices[i]).has_value());
  }
  CheckByFsck(metadata_path, devices);
  std::string why;
  {
    const UniqueFd mount = MountErofs(metadata_path, devices, why);
    if (!mount.valid() && why.find("Block device required") != std::string::npos) {
      GTEST_SKIP() << "no file-backed EROFS here: " << why;
    }
    ASSERT_TRUE(mount.valid()) << why;
    Comparison(image, mount.get(), *reader).Run();
  }
  const auto flattened = FlattenMetadata(image.metadata.bytes);
  ASSERT_TRUE(flattened.has_value()) << flattened.error().message;
  std::string flat = Text(*flattened);
  for (const std::string& device : image.devices) flat += device;
  const std::string flat_path = directory->path() + "/flat";
  ASSERT_TRUE(WriteFileDurably(flat_path, flat).has_value());
  CheckByFsck(flat_path, {});
  const UniqueFd mount = MountErofs(flat_path, {}, why);
  ASSERT_TRUE(mount.valid()) << why;
  Comparison(image, mount.get(), *reader).Run();
}

std::string Contents(size_t bytes, unsigned seed) {
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>((seed = seed * 1664525 + 1013904223) >> 24);
  return text;
}

// Everything that a layer can hold, for `layer` of `count`.
LayerBuilder RichLayer(unsigned layer) {
  LayerBuilder builder(fmt::format("layer {}", layer));
  const std::string top = fmt::format("top{}", layer);
  Entry& directory = builder.Directory(top, 01777);
  directory.mtime_seconds = -12345;  // before 1970
  directory.mtime_nanoseconds = 999'999'999;
  directory.xattrs = {{"user.colour", "green"}, {"trusted.x", std::string("\0\1", 2)}};
  Entry& file = builder.File(top + "/file", Contents(10'000 + 4096 * layer, layer), 04755);
  file.uid = 4'000'000'000;
  file.gid = 70'000;
  file.mtime_seconds = 1'700'000'000;
  file.mtime_nanoseconds = 123'456'789;
  file.xattrs = {{"security.capability", std::string("\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20)},
                 {"user.empty", ""},
                 {"user.long", Contents(3000, 7)}};
  builder.File(top + "/empty", "");
  builder.File(top + "/block", Contents(4096, layer + 1));
  builder.Link(top + "/link", top + "/file");
  builder.Link(fmt::format("other{}/link", layer), top + "/file");
  builder.Symlink(top + "/short", "file");
  builder.Symlink(top + "/long", std::string(4000, 'x')).mtime_nanoseconds = 5;
  builder.Symlink(top + "/longest", std::string(4095, 'y'));
  builder.Device(top + "/null", EntryKind::kCharacterDevice, 1, 3);
  builder.Device(top + "/disk", EntryKind::kBlockDevice, 4095, 1'048'575);
  builder.Fifo(top + "/fifo");
  builder.File(top + "/" + std::string(255, 'n'), "long name");
  builder.File(top + "/!before the dots", "x");
  builder.File(top + "/\xff\xfe\n", "odd bytes");
  builder.Directory(top + "/deep/er/and/deeper");
  return builder;
}

TEST(ErofsMount, OneLayer) {
  std::vector<LayerBuilder> layers{RichLayer(0)};
  CheckByMounting(Build(layers));
}

TEST(ErofsMount, EmptyImage) {
  std::vector<LayerBuilder> layers(1);
  CheckByMounting(Build(layers));
}

TEST(ErofsMount, ThreeLayersOneWithoutData) {
  std::vector<LayerBuilder> layers{RichLayer(0), LayerBuilder("empty"), RichLayer(2)};
  layers[1].Directory("only/directories");
  CheckByMounting(Build(layers));
}

TEST(ErofsMount, ManyDevices) {
  for (const unsigned count : {23U, 24U, 30U, 130U}) {
    SCOPED_TRACE(count);
    std::vector<LayerBuilder> layers;
    for (unsigned i = 0; i < count; ++i) layers.push_back(RichLayer(i));
    CheckByMounting(Build(layers));
  }
}

TEST(ErofsMount, LargeDirectories) {
  std::vector<LayerBuilder> layers{LayerBuilder("large")};
  for (int i = 0; i < 5000; ++i) layers[0].File(fmt::format("many/name-{}", i), i % 100 == 0 ? Contents(5000, 1) : "");
  for (int i = 0; i < 600; ++i) layers[0].File(fmt::format("long/{:0>250}", i), "");
  for (int i = 0; i < 400; ++i) layers[0].Directory(fmt::format("dirs/{}", i)).xattrs = {{"user.n", std::to_string(i)}};
  CheckByMounting(Build(layers));
}

// Tails and symlinks of every length around the block's end, with and without xattrs before them.
TEST(ErofsMount, TailsAroundABlock) {
  std::vector<LayerBuilder> layers{LayerBuilder("tails")};
  for (size_t length = 3900; length <= 4095; length += 5) {
    layers[0].Symlink(fmt::format("links/{}", length), std::string(length, 'l'));
    layers[0].Symlink(fmt::format("labelled/{}", length), std::string(length, 'l')).xattrs = {
        {"security.selinux", "label"}};
  }
  for (size_t last = 1; last <= 255; last += 3) {  // directories of about one block
    const std::string name = fmt::format("about/{}", last);
    for (int i = 0; i < 15; ++i) layers[0].File(fmt::format("{}/{:0>240}", name, i), "");
    layers[0].File(fmt::format("{}/{}", name, std::string(last, 'z')), "");
  }
  CheckByMounting(Build(layers));
}

TEST(ErofsMount, LargeXattrs) {
  std::vector<LayerBuilder> layers{LayerBuilder("xattrs")};
  for (const size_t bytes : {1U, 3000U, 4096U, 9000U, 60000U}) {
    layers[0].File(fmt::format("file{}", bytes), "contents").xattrs = {{"user.value", Contents(bytes, 3)}};
    layers[0].Directory(fmt::format("directory{}", bytes)).xattrs = {{"user.value", Contents(bytes, 4)}};
    layers[0].Symlink(fmt::format("symlink{}", bytes), "to").xattrs = {{"security.value", Contents(bytes, 5)}};
  }
  CheckByMounting(Build(layers));
}

// Chunk indexes behind inodes whose xattrs end on every multiple of 4 around a block's end, and chunks of all lengths.
TEST(ErofsMount, FilesOfAllSizes) {
  std::vector<LayerBuilder> layers{LayerBuilder("low"), LayerBuilder("high")};
  for (size_t bytes = 3960; bytes <= 4040; ++bytes) {
    layers[1].File(fmt::format("labelled/{}", bytes), "x").xattrs = {{"user.value", Contents(bytes, 3)}};
  }
  for (const size_t blocks : {1U, 2U, 3U, 4U, 5U, 8U, 9U, 64U, 65U, 1000U}) {
    for (const size_t less : {0U, 1U, 4095U}) {
      layers[blocks % 2].File(fmt::format("sizes/{}-{}", blocks, less), Contents(blocks * kBlockBytes - less, 4));
    }
  }
  CheckByMounting(Build(layers));
}

// One layer of one file of `blocks` blocks, whose device need not exist.
ErofsMetadata HugeFile(uint64_t blocks) {
  LayerBuilder builder("huge");
  builder.File("first", "x");
  builder.File("huge", "x");
  LayerIndex index = builder.Build();
  index.entries.back().size = blocks * kBlockBytes - 7;
  const LayerIndex* pointer = &index;
  const auto tree = MergeLayers(std::span(&pointer, 1));
  EXPECT_TRUE(tree.has_value()) << tree.error().message;
  const std::vector<ErofsDevice> devices{{"huge", static_cast<uint32_t>(blocks + 1)}};
  auto metadata = WriteErofs(*tree, devices);
  EXPECT_TRUE(metadata.has_value()) << metadata.error().message;
  return std::move(metadata).value();
}

TEST(ErofsMount, HugeFilesAreOneExtent) {
  for (const uint64_t blocks :
       {uint64_t{5'000'000}, uint64_t{1} << 31, (uint64_t{1} << 31) + 1, uint64_t{4'000'000'000}}) {
    SCOPED_TRACE(blocks);
    const ErofsMetadata metadata = HugeFile(blocks);
    const auto reader = ErofsReader::Open(metadata.bytes);
    ASSERT_TRUE(reader.has_value()) << reader.error().message;
    EXPECT_TRUE(reader->Check().has_value());
    const auto extent = reader->FileExtent(reader->LookupPath("huge").value());
    ASSERT_TRUE(extent.has_value()) << extent.error().message;
    EXPECT_EQ(extent->first_block, 1U);
    EXPECT_EQ(extent->size, blocks * kBlockBytes - 7);
    EXPECT_TRUE(FlattenMetadata(metadata.bytes).has_value());
  }
}

// Marks in a sparse device, read through the kernel: in one chunk of 20 GB, and in two chunks of 8 TiB.
TEST(ErofsMount, HugeFilesAreReadRight) {
  if (!CanMount()) GTEST_SKIP() << "needs root and EROFS";
  const auto directory = TempDir::Make("banyan-erofs-test-");
  ASSERT_TRUE(directory.has_value());
  for (const uint64_t blocks : {uint64_t{5'000'000}, (uint64_t{1} << 31) + 100}) {
    SCOPED_TRACE(blocks);
    const std::string metadata_path = directory->path() + "/metadata";
    ASSERT_TRUE(WriteFileDurably(metadata_path, Text(HugeFile(blocks).bytes)).has_value());
    const std::string device_path = directory->path() + "/device";
    const UniqueFd device(open(device_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (ftruncate(device.get(), static_cast<off_t>((blocks + 1) * kBlockBytes)) != 0) {
      GTEST_SKIP() << "no file of " << blocks << " blocks here";
    }
    std::string why;
    const UniqueFd mount = MountErofs(metadata_path, {device_path}, why);
    ASSERT_TRUE(mount.valid()) << why;
    const UniqueFd file(openat(mount.get(), "huge", O_RDONLY | O_CLOEXEC));
    for (const uint64_t block : {uint64_t{0}, uint64_t{1} << 20, blocks / 2, blocks - 101, blocks - 100, blocks - 2}) {
      const std::string mark = fmt::format("block {:020}", block);
      const auto size = static_cast<ssize_t>(mark.size());
      ASSERT_EQ(pwrite(device.get(), mark.data(), mark.size(), static_cast<off_t>((block + 1) * kBlockBytes)), size);
      std::string seen(mark.size(), '\0');
      EXPECT_EQ(pread(file.get(), seen.data(), seen.size(), static_cast<off_t>(block * kBlockBytes)), size);
      EXPECT_EQ(seen, mark);
    }
  }
}

TEST(ErofsMount, PartOfAChainHasWhiteouts) {
  std::vector<LayerBuilder> layers{LayerBuilder("low"), LayerBuilder("high")};
  layers[0].File("gone", "1");
  layers[0].File("kept", "2");
  layers[0].File("cleared/a", "3");
  layers[1].Whiteout("gone");
  layers[1].Opaque("cleared");
  layers[1].File("cleared/b", "4");
  CheckByMounting(Build(layers, {.lower_layers = 1}));
}

// A mounted tree in words, one name a line: type, mode, ids, mtime, size, target or contents.
std::string ListTree(int directory, const std::string& path) {
  DIR* stream = fdopendir(openat(directory, path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (stream == nullptr) return path + ": " + strerror(errno) + "\n";
  std::set<std::string> names;
  while (const dirent* entry = readdir(stream)) names.insert(entry->d_name);
  closedir(stream);
  std::string list;
  for (const std::string& name : names) {
    if (name == "." || name == "..") continue;
    const std::string child = path + "/" + name;
    struct stat st {};
    EXPECT_EQ(fstatat(directory, child.c_str(), &st, AT_SYMLINK_NOFOLLOW), 0) << child;
    list += fmt::format("{} {:o} {} {} {}.{}", child, st.st_mode, st.st_uid, st.st_gid, st.st_mtim.tv_sec,
                        st.st_mtim.tv_nsec);
    std::string text(5000, '\0');
    if (S_ISLNK(st.st_mode)) {
      list += " " + text.substr(0, static_cast<size_t>(readlinkat(directory, child.c_str(), text.data(), text.size())));
    } else if (S_ISREG(st.st_mode)) {
      const UniqueFd fd(openat(directory, child.c_str(), O_RDONLY | O_CLOEXEC));
      list += " " + text.substr(0, static_cast<size_t>(read(fd.get(), text.data(), text.size())));
    }
    list += "\n";
    if (S_ISDIR(st.st_mode)) list += ListTree(directory, child);
  }
  return list;
}

UniqueFd MountOverlay(const std::vector<int>& lowers) {  // topmost first
  const UniqueFd context(fsopen("overlay", FSOPEN_CLOEXEC));
  std::string option;
  for (const int lower : lowers) option += fmt::format("{}/proc/self/fd/{}", option.empty() ? "" : ":", lower);
  if (fsconfig(context.get(), FSCONFIG_SET_STRING, "lowerdir", option.c_str(), 0) != 0 ||
      fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return UniqueFd();
  }
  return UniqueFd(fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
}

// Wherever a chain is cut, the two parts stacked by overlayfs show what the whole chain shows.
void CheckParts(std::vector<LayerBuilder> chain) {
  const auto directory = TempDir::Make("banyan-erofs-test-");
  ASSERT_TRUE(directory.has_value());
  const auto mount = [&directory](const Image& image, const std::string& name) {
    const std::string path = directory->path() + "/" + name;
    EXPECT_TRUE(WriteFileDurably(path, Text(image.metadata.bytes)).has_value());
    std::vector<std::string> devices;
    for (size_t i = 0; i < image.devices.size(); ++i) {
      devices.push_back(fmt::format("{}-{}", path, i));
      EXPECT_TRUE(WriteFileDurably(devices.back(), image.devices[i]).has_value());
    }
    std::string why;
    UniqueFd fd = MountErofs(path, devices, why);
    EXPECT_TRUE(fd.valid()) << why;
    return fd;
  };
  const UniqueFd whole = mount(Build(chain), "whole");
  const std::string expected = ListTree(whole.get(), ".");
  EXPECT_FALSE(expected.empty());
  for (uint32_t cut = 1; cut < chain.size(); ++cut) {
    std::vector<LayerBuilder> below(chain.begin(), chain.begin() + cut);
    const UniqueFd lower = mount(Build(below), fmt::format("lower{}", cut));
    const UniqueFd upper = mount(Build(chain, {.lower_layers = cut}), fmt::format("upper{}", cut));
    const UniqueFd stacked = MountOverlay({upper.get(), lower.get()});
    ASSERT_TRUE(stacked.valid()) << strerror(errno);
    EXPECT_EQ(ListTree(stacked.get(), "."), expected) << "cut below layer " << cut;
  }
}

TEST(ErofsMount, PartsStackUnderOverlayfs) {
  if (!CanMount()) GTEST_SKIP() << "needs root and EROFS";
  std::vector<LayerBuilder> chain;
  for (int i = 0; i < 4; ++i) chain.emplace_back(fmt::format("chain {}", i));
  chain[0].Directory("d", 0711).mtime_seconds = 1000;
  chain[0].File("d/a", "a0");
  chain[0].File("d/b", "b0");
  chain[0].Directory("wide", 01777);
  chain[0].File("wide/keep", "k0");
  chain[0].File("tree/sub/deep", "t0");
  chain[0].Symlink("lib", "usr/lib");
  chain[0].File("usr/lib/x", "x0");
  chain[0].File("becomes-dir", "f0");
  chain[0].File("becomes-file/in", "i0");
  chain[1].Whiteout("d/a");
  chain[1].File("wide/new", "n1");
  chain[1].Opaque("tree");
  chain[1].File("tree/other", "o1");
  chain[1].Whiteout("becomes-dir");
  chain[1].File("brief", "b1");
  chain[2].File("lib/y", "y2");
  chain[2].File("becomes-dir/in", "d2");
  chain[2].File("becomes-file", "f2");
  chain[2].LinkToLower("linked", "d/b");
  chain[2].Whiteout("brief");
  chain[3].Whiteout("tree");
  chain[3].Directory("usr", 0700).uid = 7;
  chain[3].File("d/a", "a3");
  CheckParts(chain);
}

TEST(ErofsMount, PartsWithARootOfWhichNothingIsLeft) {
  if (!CanMount()) GTEST_SKIP() << "needs root and EROFS";
  std::vector<LayerBuilder> chain{LayerBuilder("below"), LayerBuilder("above"), LayerBuilder("top")};
  chain[0].File("a", "1");
  chain[0].File("d/x", "2");
  chain[1].Opaque("");
  chain[1].File("d/y", "3");
  chain[2].Opaque("d");
  chain[2].File("d/z", "4");
  CheckParts(chain);
}

}  // namespace
}  // namespace banyan::image_format
