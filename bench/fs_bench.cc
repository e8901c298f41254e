// File system work over several mounted trees of the same content, in turns, as ratios to the first.
//
//   fs_bench --file usr/lib/big.so native=/mnt/erofs banyan=/mnt/banyan overlay=/mnt/overlay
//
// sequential: reads the file with 1 MiB reads; random: 4 KiB preads at random blocks of it; stat: lstat of every path,
// in the order of a walk; find: a walk by readdir alone; read: every regular file below 64 KiB. "warm" rounds come
// after an untimed one; with --cold page, dentry and inode caches are dropped before each measurement (of the whole
// machine: root only).
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "bench/statistics.h"
#include "common/file_io.h"
#include "common/units.h"

namespace banyan::bench {
namespace {

struct Tree {
  std::string name;
  std::string path;
};

[[noreturn]] void Die(const std::string& message) {
  fmt::print(stderr, "fs_bench: {}\n", message);
  std::exit(1);
}

// Every path below `directory`, depth first.
void Walk(const std::string& directory, std::vector<std::string>* paths, uint64_t& entries) {
  DIR* const stream = ::opendir(directory.c_str());
  if (stream == nullptr) Die(directory + ": cannot be listed");
  std::vector<std::string> below;
  while (const dirent* entry = ::readdir(stream)) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    ++entries;
    if (paths != nullptr) paths->push_back(directory + "/" + name);
    if (entry->d_type == DT_DIR) below.push_back(directory + "/" + name);
  }
  ::closedir(stream);
  for (const std::string& child : below) Walk(child, paths, entries);
}

uint64_t ReadSequentially(const std::string& path, std::vector<std::byte>& buffer) {
  const auto fd = OpenFile(path, O_RDONLY);
  if (!fd) Die(fd.error().message);
  uint64_t total = 0;
  while (true) {
    const ssize_t count = ::read(fd->get(), buffer.data(), buffer.size());
    if (count < 0) Die(path + ": read failed");
    if (count == 0) return total;
    total += static_cast<uint64_t>(count);
  }
}

class Workload {
 public:
  Workload(const Tree& tree, std::string file, size_t random_reads)
      : root_(tree.path), file_(std::move(file)), random_reads_(random_reads), buffer_(kMiB) {
    uint64_t entries = 0;
    Walk(root_, &paths_, entries);
  }

  void Sequential() { (void)ReadSequentially(root_ + "/" + file_, buffer_); }

  void Random() {
    const std::string path = root_ + "/" + file_;
    const auto fd = OpenFile(path, O_RDONLY);
    if (!fd) Die(fd.error().message);
    ::posix_fadvise(fd->get(), 0, 0, POSIX_FADV_RANDOM);
    struct stat info {};
    ::fstat(fd->get(), &info);
    std::mt19937_64 random(7);
    const auto blocks = static_cast<uint64_t>(info.st_size) / kBlockBytes;
    if (blocks == 0) Die(path + ": too small");
    for (size_t i = 0; i < random_reads_; ++i) {
      const Status status =
          PreadFull(fd->get(), std::span(buffer_).first(kBlockBytes), random() % blocks * kBlockBytes, path);
      if (!status) Die(status.error().message);
    }
  }

  void Stat() {
    struct stat info {};
    for (const std::string& path : paths_) {
      if (::lstat(path.c_str(), &info) != 0) Die(path + ": stat failed");
    }
  }

  void Find() {
    uint64_t entries = 0;
    Walk(root_, nullptr, entries);
    if (entries != paths_.size()) Die(root_ + ": the tree changes");
  }

  void SmallFiles() {
    struct stat info {};
    for (const std::string& path : paths_) {
      if (::lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && info.st_size < 64 * 1024) {
        (void)ReadSequentially(path, buffer_);
      }
    }
  }

 private:
  std::string root_;
  std::string file_;
  size_t random_reads_;
  std::vector<std::byte> buffer_;
  std::vector<std::string> paths_;
};

void DropCaches() {
  ::sync();
  const auto fd = OpenFile("/proc/sys/vm/drop_caches", O_WRONLY);
  if (!fd || ::write(fd->get(), "3", 1) != 1) Die("cannot drop caches: run as root");
}

using Operation = void (Workload::*)();

int Main(int argc, char** argv) {
  std::vector<std::string> words;
  std::string file;
  int rounds = 7;
  size_t random_reads = 20'000;
  bool cold = false;
  std::string only;
  CLI::App app("File system work over several mounted trees of the same content, in turns.", "fs_bench");
  app.add_option("TREE", words, "NAME=DIRECTORY; the first is what the others are compared with")->required();
  app.add_option("--file", file, "A large file, below each tree, for sequential and random reads")->required();
  app.add_option("--rounds", rounds)->capture_default_str();
  app.add_option("--random-reads", random_reads)->capture_default_str();
  app.add_option("--only", only, "One of sequential, random, stat, find, read");
  app.add_flag("--cold", cold, "Drop the machine's caches before each measurement");
  CLI11_PARSE(app, argc, argv);

  std::vector<Tree> trees;
  std::vector<Workload> workloads;
  for (const std::string& word : words) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos) Die(word + ": want NAME=DIRECTORY");
    trees.push_back({word.substr(0, equals), word.substr(equals + 1)});
    workloads.emplace_back(trees.back(), file, random_reads);
  }
  const std::vector<std::pair<std::string, Operation>> operations = {{"sequential", &Workload::Sequential},
                                                                     {"random", &Workload::Random},
                                                                     {"stat", &Workload::Stat},
                                                                     {"find", &Workload::Find},
                                                                     {"read", &Workload::SmallFiles}};
  fmt::print("{:<12}", cold ? "cold" : "warm");
  for (const Tree& tree : trees) fmt::print("{:>22}", tree.name);
  fmt::print("\n");
  for (const auto& [name, operation] : operations) {
    if (!only.empty() && only != name) continue;
    if (!cold) {
      for (Workload& workload : workloads) (workload.*operation)();
    }
    std::vector<std::vector<double>> seconds(trees.size());
    std::vector<std::vector<double>> ratios(trees.size());
    for (int round = 0; round < rounds; ++round) {
      for (size_t i = 0; i < trees.size(); ++i) {
        if (cold) DropCaches();
        const Stopwatch watch;
        (workloads[i].*operation)();
        seconds[i].push_back(watch.seconds());
        ratios[i].push_back(seconds[0].back() / seconds[i].back());
      }
    }
    fmt::print("{:<12}", name);
    for (size_t i = 0; i < trees.size(); ++i) {
      fmt::print("{:>22}", fmt::format("{:.4f} s ({:.2f} x)", Median(seconds[i]), Median(ratios[i])));
    }
    fmt::print("\n");
  }
  fmt::print("x: speed relative to {}, median of {} rounds in turns\n", trees[0].name, rounds);
  return 0;
}

}  // namespace
}  // namespace banyan::bench

int main(int argc, char** argv) { return banyan::bench::Main(argc, argv); }
