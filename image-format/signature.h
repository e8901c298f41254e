// Whose artifact it is: an Ed25519 signature (RFC 8032) of the converter, carried by the artifact manifest as an
// annotation.
//
// Anyone who may push to a repository can attach a referrer there. A node that is given keys follows only artifacts
// signed by one of them. The signature attests the conversion, not the publisher of the image: it covers the subject,
// the map's digest (from which metadata, blobs and every chunk follow by digest), format version, converter version,
// time, and the torrents if there are any; the exact bytes are in docs/format.md §"Signature". A converter version
// below a minimum is refused, so that a bug of a converter can be revoked without new keys.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "image-format/artifact.h"

namespace banyan::image_format {

// Immutable value.
class PublicKey {
 public:
  static constexpr size_t kBytes = 32;

  explicit PublicKey(const std::array<uint8_t, kBytes>& bytes) : bytes_(bytes) {}
  // "-----BEGIN PUBLIC KEY-----" (SubjectPublicKeyInfo). kInvalidArgument unless it is an Ed25519 key.
  static Result<PublicKey> FromPem(std::string_view pem);

  std::string ToPem() const;
  // The first 16 hex digits of SHA-256 over the 32 raw bytes: which key to try, never a proof.
  std::string id() const;
  const std::array<uint8_t, kBytes>& bytes() const { return bytes_; }
  friend bool operator==(const PublicKey&, const PublicKey&) = default;

 private:
  std::array<uint8_t, kBytes> bytes_;
};

// Immutable; movable. Copies nowhere: the key is wiped when it goes.
class SigningKey {
 public:
  static Result<SigningKey> Generate();
  // "-----BEGIN PRIVATE KEY-----" (PKCS #8, not encrypted). Errors never quote the text.
  static Result<SigningKey> FromPem(std::string_view pem);
  // The 32 bytes of RFC 8032's private key; for tests.
  static Result<SigningKey> FromSeed(const std::array<uint8_t, 32>& seed);
  ~SigningKey();
  SigningKey(SigningKey&&) noexcept;
  SigningKey& operator=(SigningKey&&) noexcept;

  Result<std::string> ToPem() const;
  PublicKey public_key() const;
  // 64 bytes.
  Result<std::string> Sign(std::string_view message) const;

 private:
  struct Impl;
  explicit SigningKey(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The bytes that are signed. kInvalidArgument for an artifact without subject, or with control characters in its
// versions.
Result<std::string> SignedBytes(const Artifact& artifact, std::string_view time);

// Sets artifact.signature. `unix_seconds` is the time of signing.
Status SignArtifact(Artifact& artifact, const SigningKey& key, int64_t unix_seconds);

struct TrustPolicy {
  std::vector<PublicKey> keys;        // none: every artifact of a good version is trusted
  std::string min_converter_version;  // "banyan 0.1.0"; empty: any
};

// kUnauthenticated: not signed, by no trusted key, or wrongly. kFailedPrecondition: the converter is too old, or its
// version cannot be compared.
Status VerifyArtifact(const Artifact& artifact, const TrustPolicy& policy);

// "YYYY-MM-DDTHH:MM:SSZ".
std::string FormatSignatureTime(int64_t unix_seconds);

}  // namespace banyan::image_format
