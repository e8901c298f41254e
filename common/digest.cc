#include "common/digest.h"

#include <utility>

#include <fmt/format.h>
#include <openssl/evp.h>

namespace banyan {

namespace {

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  State() { Reset(); }
  ~State() { EVP_MD_CTX_free(context); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  void Reset() {
    // EVP_sha256() costs a fetch by name a call in OpenSSL 3; fetched once it costs nothing.
    static EVP_MD* const algorithm = EVP_MD_fetch(nullptr, "SHA256", nullptr);
    EVP_DigestInit_ex(context, algorithm, nullptr);
  }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Update(std::span<const std::byte> data) { EVP_DigestUpdate(state_->context, data.data(), data.size()); }

Digest Sha256::Finish() {
  std::array<uint8_t, Digest::kBytes> out{};
  EVP_DigestFinal_ex(state_->context, out.data(), nullptr);
  state_->Reset();
  return Digest(out);
}

Digest Digest::Of(std::span<const std::byte> data) {
  thread_local Sha256 hasher;
  hasher.Update(data);
  return hasher.Finish();
}

Result<Digest> Digest::Parse(std::string_view text) {
  constexpr std::string_view kPrefix = "sha256:";
  if (!text.starts_with(kPrefix)) {
    return Fail(Code::kInvalidArgument, fmt::format("digest '{}': only sha256 is supported", text.substr(0, 100)));
  }
  return FromHex(text.substr(kPrefix.size()));
}

Result<Digest> Digest::FromHex(std::string_view hex) {
  std::array<uint8_t, kBytes> bytes{};
  bool valid = hex.size() == 2 * kBytes;
  for (size_t i = 0; valid && i < kBytes; ++i) {
    const int high = HexValue(hex[2 * i]);
    const int low = HexValue(hex[2 * i + 1]);
    valid = high >= 0 && low >= 0;
    bytes[i] = static_cast<uint8_t>(high << 4 | low);
  }
  if (!valid) {
    return Fail(Code::kInvalidArgument, fmt::format("digest '{}': want 64 lower-case hex digits", hex.substr(0, 100)));
  }
  return Digest(bytes);
}

Result<Digest> Digest::FromBytes(std::string_view raw) {
  if (raw.size() != kBytes) {
    return Fail(Code::kInvalidArgument, fmt::format("digest of {} bytes: want 32", raw.size()));
  }
  std::array<uint8_t, kBytes> bytes{};
  std::memcpy(bytes.data(), raw.data(), kBytes);
  return Digest(bytes);
}

std::string Digest::Hex() const {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex(2 * kBytes, '0');
  for (size_t i = 0; i < kBytes; ++i) {
    hex[2 * i] = kDigits[bytes_[i] >> 4];
    hex[2 * i + 1] = kDigits[bytes_[i] & 15];
  }
  return hex;
}

}  // namespace banyan
