// A disk whose power can be cut: it remembers what each page held at the last sync, and makes a copy of the store in
// which pages, holes, new names and removals that were not synced are there or not, as chance has it. For tests.
#pragma once

#include <fcntl.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/file_io.h"
#include "store/disk.h"

namespace banyan::store::testing {

class PowerCutDisk final : public Disk {
 public:
  // Runs before and after each operation that changes the disk, where a power cut may come.
  std::function<void()> at_each_step = [] {};

  Result<UniqueFd> OpenSparse(const std::string& path, uint64_t size_bytes, bool& created) override {
    Result<UniqueFd> fd = real_->OpenSparse(path, size_bytes, created);
    if (created) new_names_.insert(path);
    return fd;
  }
  Status Write(int fd, std::span<const std::byte> data, uint64_t offset, const std::string& path) override {
    at_each_step();
    Remember(fd, {offset, offset + data.size()}, path);
    Status written = real_->Write(fd, data, offset, path);
    at_each_step();
    return written;
  }
  Status Punch(int fd, ByteRange range, const std::string& path) override {
    at_each_step();
    Remember(fd, range, path);
    Status punched = real_->Punch(fd, range, path);
    at_each_step();
    return punched;
  }
  Status Sync(int, const std::string& path) override {
    at_each_step();
    unsynced_.erase(path);
    at_each_step();
    return {};
  }
  Status SyncDirectory(const std::string& path) override {
    at_each_step();
    const auto inside = [&](const std::string& file) { return std::filesystem::path(file).parent_path() == path; };
    std::erase_if(new_names_, inside);
    return {};
  }
  Status Remove(const std::string& path) override {
    at_each_step();
    unsynced_.erase(path);
    new_names_.erase(path);
    Status removed = real_->Remove(path);
    at_each_step();
    return removed;
  }
  // A cut may lose the file under both names; it never brings back the old one.
  Status Rename(const std::string& from, const std::string& to) override {
    at_each_step();
    if (auto pages = unsynced_.extract(from)) {
      pages.key() = to;
      unsynced_.erase(to);
      unsynced_.insert(std::move(pages));
    }
    new_names_.erase(from);
    new_names_.insert(to);
    Status renamed = real_->Rename(from, to);
    at_each_step();
    return renamed;
  }
  Status WriteWhole(const std::string& path, std::span<const std::byte> data) override {
    return real_->WriteWhole(path, data);
  }

  // Copies `root` to `copy` as it may be found after a power cut now. The index's own files are copied as they are: its
  // writes are synced one by one.
  void Cut(const std::string& root, const std::string& copy, std::mt19937_64& random) const {
    std::filesystem::copy(root, copy, std::filesystem::copy_options::recursive);
    const auto in_copy = [&](const std::string& path) { return copy + path.substr(root.size()); };
    const uint64_t bias = random() % 5;  // from "all is lost" to "nothing is"
    for (const auto& [path, pages] : unsynced_) {
      const UniqueFd fd = OpenFile(in_copy(path), O_WRONLY).value();
      for (const auto& [page, old] : pages) {
        if (random() % 4 >= bias && !PwriteFull(fd.get(), old, page * kBlockBytes, path)) std::abort();
      }
    }
    for (const std::string& path : new_names_) {
      if (random() % 4 >= bias) std::filesystem::remove(in_copy(path));
    }
  }

 private:
  // Notes what the range's pages held, unless they have changed since the last sync already.
  void Remember(int fd, ByteRange range, const std::string& path) {
    const auto size = std::filesystem::file_size(path);
    auto& pages = unsynced_[path];
    for (uint64_t page = range.begin / kBlockBytes; page * kBlockBytes < range.end; ++page) {
      if (pages.contains(page)) continue;
      // What is past the end is zeros, if a longer file is what the cut leaves.
      const uint64_t had = size > page * kBlockBytes ? std::min<uint64_t>(kBlockBytes, size - page * kBlockBytes) : 0;
      const uint64_t written = std::min<uint64_t>(kBlockBytes, range.end - page * kBlockBytes);
      std::vector<std::byte> old(std::max(had, written));
      if (!PreadFull(fd, std::span(old).first(had), page * kBlockBytes, path)) std::abort();
      pages[page] = std::move(old);
    }
  }

  const std::shared_ptr<Disk> real_ = RealDisk();
  std::map<std::string, std::map<uint64_t, std::vector<std::byte>>> unsynced_;
  std::set<std::string> new_names_;  // whose directory has not been synced since
};

}  // namespace banyan::store::testing
