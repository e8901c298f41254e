// Tars made by hand for tests: every field can be set, and nothing is cleaned up, so that odd and wrong ones can be
// made too.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace banyan::image_format::testing {

struct TarEntry {
  std::string name;
  char type = '0';
  std::string contents;
  uint32_t mode = 0644;
  uint64_t uid = 0;
  uint64_t gid = 0;
  int64_t mtime = 0;
  std::string linkname;
  uint32_t major = 0;
  uint32_t minor = 0;
  std::vector<std::pair<std::string, std::string>> pax;  // records of an 'x' header put before it
  bool gnu = false;                                      // GNU magic; long names by 'L' and 'K' headers instead of PAX
  uint64_t size = UINT64_MAX;                            // the header's size field instead of contents.size()
};

class TarBuilder {
 public:
  // Names and link names over 100 bytes go to a PAX or GNU header; numbers too large for octal digits are base-256.
  TarBuilder& Add(TarEntry entry) {
    if (entry.gnu) {
      if (entry.linkname.size() > 100) Special('K', entry.linkname + '\0', true);
      if (entry.name.size() > 100) Special('L', entry.name + '\0', true);
    } else {
      if (entry.name.size() > 100) entry.pax.emplace_back("path", entry.name);
      if (entry.linkname.size() > 100) entry.pax.emplace_back("linkpath", entry.linkname);
    }
    if (!entry.pax.empty()) Special('x', PaxRecords(entry.pax), false);
    out_ += Header(entry);
    return Body(entry.contents);
  }
  TarBuilder& File(std::string name, std::string contents, uint32_t mode = 0644) {
    return Add({.name = std::move(name), .contents = std::move(contents), .mode = mode});
  }
  TarBuilder& Directory(std::string name, uint32_t mode = 0755) {
    return Add({.name = std::move(name), .type = '5', .mode = mode});
  }
  TarBuilder& Symlink(std::string name, std::string target) {
    return Add({.name = std::move(name), .type = '2', .mode = 0777, .linkname = std::move(target)});
  }
  TarBuilder& HardLink(std::string name, std::string target) {
    return Add({.name = std::move(name), .type = '1', .linkname = std::move(target)});
  }
  TarBuilder& Fifo(std::string name) { return Add({.name = std::move(name), .type = '6'}); }
  TarBuilder& CharacterDevice(std::string name, uint32_t major, uint32_t minor) {
    return Add({.name = std::move(name), .type = '3', .major = major, .minor = minor});
  }
  TarBuilder& BlockDevice(std::string name, uint32_t major, uint32_t minor) {
    return Add({.name = std::move(name), .type = '4', .major = major, .minor = minor});
  }
  // `directory` without a trailing slash; empty for the root.
  TarBuilder& Whiteout(std::string_view directory, std::string_view name) {
    return File(Join(directory, ".wh." + std::string(name)), "");
  }
  TarBuilder& Opaque(std::string_view directory) { return File(Join(directory, ".wh..wh..opq"), ""); }

  // One header block, checksummed.
  static std::string Header(const TarEntry& entry) {
    std::string block(512, '\0');
    Text(block, 0, 100, entry.name);
    Number(block, 100, 8, entry.mode);
    Number(block, 108, 8, entry.uid);
    Number(block, 116, 8, entry.gid);
    Number(block, 124, 12, entry.size != UINT64_MAX ? entry.size : entry.contents.size());
    Number(block, 136, 12, static_cast<uint64_t>(entry.mtime));
    block[156] = entry.type;
    Text(block, 157, 100, entry.linkname);
    block.replace(257, 8, entry.gnu ? std::string("ustar  \0", 8) : std::string("ustar\00000", 8));
    Number(block, 329, 8, entry.major);
    Number(block, 337, 8, entry.minor);
    FixChecksum(block);
    return block;
  }
  static void FixChecksum(std::string& block) {
    block.replace(148, 8, 8, ' ');
    unsigned sum = 0;
    for (int i = 0; i < 512; ++i) sum += static_cast<unsigned char>(block[i]);
    char digits[8];
    std::snprintf(digits, sizeof(digits), "%06o", sum & 0777777);
    block.replace(148, 8, std::string(digits, 7) + ' ');
  }
  static std::string PaxRecord(std::string_view key, std::string_view value) {
    const size_t rest = key.size() + value.size() + 3;
    size_t length = rest + 1;
    while (std::to_string(length).size() + rest != length) ++length;
    return std::to_string(length) + ' ' + std::string(key) + '=' + std::string(value) + '\n';
  }
  static std::string PaxRecords(const std::vector<std::pair<std::string, std::string>>& records) {
    std::string text;
    for (const auto& [key, value] : records) text += PaxRecord(key, value);
    return text;
  }

  // A header of its own: 'x' and 'g' take PaxRecords(), 'L' and 'K' a name with its NUL.
  TarBuilder& Special(char type, const std::string& contents, bool gnu) {
    out_ += Header({.name = gnu ? "././@LongLink" : "PaxHeaders/x", .type = type, .contents = contents, .gnu = gnu});
    return Body(contents);
  }
  // Contents, padded to a block.
  TarBuilder& Body(std::string_view contents) {
    out_ += contents;
    out_.append((512 - out_.size() % 512) % 512, '\0');
    return *this;
  }
  TarBuilder& Raw(std::string_view bytes) {
    out_ += bytes;
    return *this;
  }

  // What was added so far, without end blocks.
  const std::string& bytes() const { return out_; }
  std::string Finish() const { return out_ + std::string(1024, '\0'); }

 private:
  static std::string Join(std::string_view directory, const std::string& name) {
    return directory.empty() ? name : std::string(directory) + '/' + name;
  }
  static void Text(std::string& block, size_t offset, size_t size, std::string_view text) {
    block.replace(offset, std::min(size, text.size()), text.substr(0, size));
  }
  static void Number(std::string& block, size_t offset, size_t size, uint64_t value) {
    if (value < uint64_t{1} << (3 * (size - 1))) {
      char digits[32];
      const int length = std::snprintf(digits, sizeof(digits), "%0*llo", static_cast<int>(size - 1),
                                       static_cast<unsigned long long>(value));
      block.replace(offset, static_cast<size_t>(length), digits, static_cast<size_t>(length));
      return;
    }
    // Base-256, two's complement: negative values keep all bits set.
    const char fill = static_cast<int64_t>(value) < 0 ? '\xff' : '\0';
    for (size_t i = 0; i < size; ++i) {
      block[offset + size - 1 - i] = i < 8 ? static_cast<char>(value >> (8 * i)) : fill;
    }
    block[offset] = static_cast<char>(block[offset] | '\x80');
  }

  std::string out_;
};

}  // namespace banyan::image_format::testing
