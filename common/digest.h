// SHA-256 digests, as the OCI image specification writes them ("sha256:<64 lower-case hex digits>").
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/result.h"

namespace banyan {

// Immutable value. The default is all zeros, which no content has.
class Digest {
 public:
  static constexpr size_t kBytes = 32;

  Digest() = default;
  explicit Digest(const std::array<uint8_t, kBytes>& bytes) : bytes_(bytes) {}

  // Of a whole buffer.
  static Digest Of(std::span<const std::byte> data);
  static Digest Of(std::string_view data) { return Of(std::as_bytes(std::span(data.data(), data.size()))); }

  // "sha256:<hex>", exactly; kInvalidArgument otherwise (other algorithms and upper case included).
  static Result<Digest> Parse(std::string_view text);
  // 64 hex digits.
  static Result<Digest> FromHex(std::string_view hex);
  // 32 raw bytes.
  static Result<Digest> FromBytes(std::string_view bytes);

  std::string ToString() const { return "sha256:" + Hex(); }
  std::string Hex() const;
  // The first twelve hex digits, for logs.
  std::string Short() const { return Hex().substr(0, 12); }

  const std::array<uint8_t, kBytes>& bytes() const { return bytes_; }
  std::string_view raw() const { return {reinterpret_cast<const char*>(bytes_.data()), kBytes}; }
  bool is_zero() const { return bytes_ == std::array<uint8_t, kBytes>{}; }

  friend auto operator<=>(const Digest&, const Digest&) = default;

 private:
  std::array<uint8_t, kBytes> bytes_{};
};

// Incremental SHA-256. Externally synchronised. Update() after Finish() starts a new digest.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(std::span<const std::byte> data);
  void Update(std::string_view data) { Update(std::as_bytes(std::span(data.data(), data.size()))); }
  Digest Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace banyan

template <>
struct std::hash<banyan::Digest> {
  size_t operator()(const banyan::Digest& digest) const noexcept {
    size_t value;
    std::memcpy(&value, digest.bytes().data(), sizeof(value));
    return value;
  }
};
