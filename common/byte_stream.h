// The two ends of a byte stream, for data that need not fit in memory.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

#include "common/result.h"

namespace banyan {

// Externally synchronised. Blocks until there is something to return.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Fills a prefix of `buffer` (never empty) and returns its length; 0 is the end of the stream, and stays so.
  virtual Result<size_t> Read(std::span<std::byte> buffer) = 0;
};

// Externally synchronised. After an error the sink takes nothing more.
class ByteSink {
 public:
  virtual ~ByteSink() = default;
  virtual Status Write(std::span<const std::byte> data) = 0;
};

// Reads until `buffer` is full or the stream ends; returns the bytes read.
Result<size_t> ReadFully(ByteSource& source, std::span<std::byte> buffer);

// A view of memory that must outlive it.
class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(std::span<const std::byte> data) : rest_(data) {}
  Result<size_t> Read(std::span<std::byte> buffer) override;

 private:
  std::span<const std::byte> rest_;
};

// Appends to a container that must outlive it (std::string or std::vector<std::byte>).
template <typename Container>
class AppendSink final : public ByteSink {
 public:
  explicit AppendSink(Container& out) : out_(out) {}
  Status Write(std::span<const std::byte> data) override {
    const auto* begin = reinterpret_cast<const typename Container::value_type*>(data.data());
    out_.insert(out_.end(), begin, begin + data.size());
    return {};
  }

 private:
  Container& out_;
};

}  // namespace banyan
