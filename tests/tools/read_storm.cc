// Many readers at once of one tree, each comparing what it reads with another tree of the same content.
//
//   read_storm --expected DIR --view DIR [--readers 256] [--reads 20] [--mapped FILE] [--ready FILE]
//
// Each reader opens files in its own random order and compares random ranges; one more maps FILE (a path below both)
// and compares all of it through the mapping. --ready is created once every reader has begun. Exit 0: every byte was
// right; 1: wrong bytes or an error, each named; the count of reads is printed.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "common/file_io.h"

namespace banyan::tests {
namespace {

constexpr size_t kMaxRangeBytes = 64 * 1024;

class Storm {
 public:
  Storm(std::string expected, std::string view) : expected_(std::move(expected)), view_(std::move(view)) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(expected_)) {
      if (!entry.is_symlink() && entry.is_regular_file() && entry.file_size() > 0) {
        files_.push_back(std::filesystem::relative(entry.path(), expected_).string());
      }
    }
  }

  bool empty() const { return files_.empty(); }
  uint64_t reads() const { return reads_; }
  uint64_t failures() const { return failures_; }
  unsigned begun() const { return begun_; }

  void Read(unsigned seed, unsigned count) {
    std::mt19937_64 random(seed);
    ++begun_;
    for (unsigned i = 0; i < count; ++i) ReadOne(files_[random() % files_.size()], random);
  }

  void ReadMapped(const std::string& file) {
    ++begun_;
    const auto expected = ReadFile(expected_ + "/" + file);
    const auto fd = OpenFile(view_ + "/" + file, O_RDONLY);
    if (!expected || !fd) return Fail(file, !expected ? expected.error().message : fd.error().message);
    void* const mapping = ::mmap(nullptr, expected->size(), PROT_READ, MAP_PRIVATE, fd->get(), 0);
    if (mapping == MAP_FAILED) return Fail(file, "cannot be mapped");
    if (std::memcmp(mapping, expected->data(), expected->size()) != 0) Fail(file, "wrong bytes in the mapping");
    ::munmap(mapping, expected->size());
    ++reads_;
  }

 private:
  void ReadOne(const std::string& file, std::mt19937_64& random) {
    const auto expected = OpenFile(expected_ + "/" + file, O_RDONLY);
    const auto view = OpenFile(view_ + "/" + file, O_RDONLY);
    if (!expected || !view) return Fail(file, !expected ? expected.error().message : view.error().message);
    struct stat info {};
    ::fstat(expected->get(), &info);
    const auto size = static_cast<uint64_t>(info.st_size);
    const uint64_t offset = random() % size;
    const size_t length = static_cast<size_t>(std::min<uint64_t>(kMaxRangeBytes, size - offset));
    std::vector<std::byte> right(length);
    std::vector<std::byte> seen(length);
    for (const auto& status :
         {PreadFull(expected->get(), right, offset, file), PreadFull(view->get(), seen, offset, file)}) {
      if (!status) return Fail(file, status.error().message);
    }
    if (right != seen) return Fail(file, fmt::format("wrong bytes in the {} at {}", length, offset));
    ++reads_;
  }

  void Fail(const std::string& file, const std::string& what) {
    std::lock_guard lock(print_);
    if (++failures_ <= 20) fmt::print(stderr, "{}: {}\n", file, what);
  }

  std::string expected_;
  std::string view_;
  std::vector<std::string> files_;
  std::atomic<uint64_t> reads_{0};
  std::atomic<uint64_t> failures_{0};
  std::atomic<unsigned> begun_{0};
  std::mutex print_;
};

int Main(int argc, char** argv) {
  std::string expected;
  std::string view;
  std::string mapped;
  std::string ready;
  unsigned readers = 256;
  unsigned reads = 20;
  CLI::App app("Many readers at once of one tree, compared with another.", "read_storm");
  app.add_option("--expected", expected)->required();
  app.add_option("--view", view)->required();
  app.add_option("--readers", readers)->capture_default_str();
  app.add_option("--reads", reads, "By each reader")->capture_default_str();
  app.add_option("--mapped", mapped, "A file, below both trees, that is read through a mapping");
  app.add_option("--ready", ready, "Created once all readers have begun");
  CLI11_PARSE(app, argc, argv);

  Storm storm(expected, view);
  if (storm.empty()) {
    fmt::print(stderr, "read_storm: no files below {}\n", expected);
    return 2;
  }
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < readers; ++i) threads.emplace_back([&storm, i, reads] { storm.Read(i, reads); });
  if (!mapped.empty()) threads.emplace_back([&storm, &mapped] { storm.ReadMapped(mapped); });
  while (storm.begun() < threads.size()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (!ready.empty()) (void)WriteFileDurably(ready, "");
  for (std::thread& thread : threads) thread.join();
  fmt::print("{} reads by {} readers, {} failures\n", storm.reads(), threads.size(), storm.failures());
  return storm.failures() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace banyan::tests

int main(int argc, char** argv) { return banyan::tests::Main(argc, argv); }
