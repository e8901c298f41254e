#include "image-format/signature.h"

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "image-format/layer_index.h"

namespace banyan::image_format {
namespace {

constexpr std::string_view kHeading = "banyan artifact signature v1";

struct FreeKey {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using KeyHandle = std::unique_ptr<EVP_PKEY, FreeKey>;
struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
using ContextHandle = std::unique_ptr<EVP_MD_CTX, FreeContext>;
struct FreeBio {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
using BioHandle = std::unique_ptr<BIO, FreeBio>;

const uint8_t* Bytes(std::string_view text) { return reinterpret_cast<const uint8_t*>(text.data()); }

BioHandle ReadOnly(std::string_view text) {
  return BioHandle(BIO_new_mem_buf(text.data(), static_cast<int>(std::min<size_t>(text.size(), 1 << 20))));
}

std::string Contents(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return size > 0 ? std::string(data, static_cast<size_t>(size)) : std::string();
}

// No passphrase is ever asked for on a terminal.
int NoPassphrase(char*, int, int, void*) { return -1; }

std::string Base64(std::string_view bytes) {
  std::string text(4 * ((bytes.size() + 2) / 3) + 1, '\0');
  const int size =
      EVP_EncodeBlock(reinterpret_cast<uint8_t*>(text.data()), Bytes(bytes), static_cast<int>(bytes.size()));
  text.resize(static_cast<size_t>(size));
  return text;
}

// Exactly what Base64() of 64 bytes gives.
std::optional<std::string> SignatureFromBase64(std::string_view text) {
  if (text.size() != 88) return std::nullopt;
  std::string bytes(66, '\0');
  if (EVP_DecodeBlock(reinterpret_cast<uint8_t*>(bytes.data()), Bytes(text), 88) != 66) return std::nullopt;
  bytes.resize(64);
  if (Base64(bytes) != text) return std::nullopt;
  return bytes;
}

bool VerifySignature(const PublicKey& key, std::string_view message, std::string_view signature) {
  const KeyHandle handle(
      EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, key.bytes().data(), key.bytes().size()));
  const ContextHandle context(EVP_MD_CTX_new());
  return handle && context && EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, handle.get()) == 1 &&
         EVP_DigestVerify(context.get(), Bytes(signature), signature.size(), Bytes(message), message.size()) == 1;
}

// "banyan 1.2.3" → {1, 2, 3}.
std::optional<std::array<uint32_t, 3>> ParseVersion(std::string_view text) {
  if (!text.starts_with("banyan ")) return std::nullopt;
  text.remove_prefix(7);
  std::array<uint32_t, 3> version{};
  for (size_t i = 0; i < version.size(); ++i) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version[i]);
    if (error != std::errc()) return std::nullopt;
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    if (i == 2) break;
    if (!text.starts_with('.')) return std::nullopt;
    text.remove_prefix(1);
  }
  if (!text.empty()) return std::nullopt;
  return version;
}

Status CheckConverterVersion(const Artifact& artifact, const std::string& minimum) {
  if (minimum.empty()) return {};
  const auto wanted = ParseVersion(minimum);
  const auto have = ParseVersion(artifact.converter_version);
  if (!wanted || !have) {
    return Fail(Code::kFailedPrecondition, fmt::format("converter version '{}' cannot be compared with '{}'",
                                                       artifact.converter_version, minimum));
  }
  if (*have >= *wanted) return {};
  return Fail(Code::kFailedPrecondition,
              fmt::format("made by converter '{}', at least '{}' is wanted", artifact.converter_version, minimum));
}

bool HasControls(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

// One digest over the torrents, so that the signed bytes keep to one line for them.
Digest TorrentsDigest(const Artifact& artifact) {
  Sha256 hash;
  for (const ArtifactTorrent& torrent : artifact.torrents) {
    hash.Update(fmt::format("{} {} {}\n", torrent.blob_digest.ToString(), torrent.info_hash.Hex(),
                            torrent.torrent_digest.ToString()));
  }
  return hash.Finish();
}

}  // namespace

Result<PublicKey> PublicKey::FromPem(std::string_view pem) {
  const BioHandle bio = ReadOnly(pem);
  const KeyHandle handle(bio ? PEM_read_bio_PUBKEY(bio.get(), nullptr, NoPassphrase, nullptr) : nullptr);
  std::array<uint8_t, kBytes> bytes;
  size_t size = bytes.size();
  if (!handle || EVP_PKEY_id(handle.get()) != EVP_PKEY_ED25519 ||
      EVP_PKEY_get_raw_public_key(handle.get(), bytes.data(), &size) != 1 || size != bytes.size()) {
    return Fail(Code::kInvalidArgument, "is no Ed25519 public key in PEM form");
  }
  return PublicKey(bytes);
}

std::string PublicKey::ToPem() const {
  const KeyHandle handle(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, bytes_.data(), bytes_.size()));
  const BioHandle bio(BIO_new(BIO_s_mem()));
  if (!handle || !bio || PEM_write_bio_PUBKEY(bio.get(), handle.get()) != 1) return {};
  return Contents(bio.get());
}

std::string PublicKey::id() const { return Digest::Of(std::as_bytes(std::span(bytes_))).Hex().substr(0, 16); }

struct SigningKey::Impl {
  KeyHandle handle;
  PublicKey public_key;
};

SigningKey::SigningKey(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SigningKey::~SigningKey() = default;
SigningKey::SigningKey(SigningKey&&) noexcept = default;
SigningKey& SigningKey::operator=(SigningKey&&) noexcept = default;

Result<SigningKey> SigningKey::FromSeed(const std::array<uint8_t, 32>& seed) {
  KeyHandle handle(EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, seed.data(), seed.size()));
  std::array<uint8_t, PublicKey::kBytes> bytes;
  size_t size = bytes.size();
  if (!handle || EVP_PKEY_get_raw_public_key(handle.get(), bytes.data(), &size) != 1) {
    return Fail(Code::kInternal, "cannot make an Ed25519 key");
  }
  return SigningKey(std::make_unique<Impl>(Impl{std::move(handle), PublicKey(bytes)}));
}

Result<SigningKey> SigningKey::Generate() {
  const KeyHandle handle(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  std::array<uint8_t, 32> seed;
  size_t size = seed.size();
  if (!handle || EVP_PKEY_get_raw_private_key(handle.get(), seed.data(), &size) != 1) {
    return Fail(Code::kInternal, "cannot make an Ed25519 key");
  }
  auto key = FromSeed(seed);
  OPENSSL_cleanse(seed.data(), seed.size());
  return key;
}

Result<SigningKey> SigningKey::FromPem(std::string_view pem) {
  const BioHandle bio = ReadOnly(pem);
  KeyHandle handle(bio ? PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassphrase, nullptr) : nullptr);
  std::array<uint8_t, PublicKey::kBytes> bytes;
  size_t size = bytes.size();
  if (!handle || EVP_PKEY_id(handle.get()) != EVP_PKEY_ED25519 ||
      EVP_PKEY_get_raw_public_key(handle.get(), bytes.data(), &size) != 1) {
    return Fail(Code::kInvalidArgument, "is no unencrypted Ed25519 private key in PEM form");
  }
  return SigningKey(std::make_unique<Impl>(Impl{std::move(handle), PublicKey(bytes)}));
}

Result<std::string> SigningKey::ToPem() const {
  const BioHandle bio(BIO_new(BIO_s_mem()));
  if (!bio ||
      PEM_write_bio_PKCS8PrivateKey(bio.get(), impl_->handle.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return Fail(Code::kInternal, "cannot write the key as PEM");
  }
  return Contents(bio.get());
}

PublicKey SigningKey::public_key() const { return impl_->public_key; }

Result<std::string> SigningKey::Sign(std::string_view message) const {
  const ContextHandle context(EVP_MD_CTX_new());
  std::string signature(64, '\0');
  size_t size = signature.size();
  if (!context || EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, impl_->handle.get()) != 1 ||
      EVP_DigestSign(context.get(), reinterpret_cast<uint8_t*>(signature.data()), &size, Bytes(message),
                     message.size()) != 1 ||
      size != signature.size()) {
    return Fail(Code::kInternal, "signing failed");
  }
  return signature;
}

Result<std::string> SignedBytes(const Artifact& artifact, std::string_view time) {
  if (!artifact.subject) return Fail(Code::kInvalidArgument, "only artifacts with a subject are signed");
  if (HasControls(artifact.converter_version) || HasControls(time)) {
    return Fail(Code::kInvalidArgument, "the converter version or the time has control characters");
  }
  std::string bytes = fmt::format("{}\nsubject {}\nmap {}\nformat {}\nconverter {}\ntime {}\n", kHeading,
                                  artifact.subject->digest.ToString(), artifact.map_digest.ToString(), kFormatVersion,
                                  artifact.converter_version, time);
  if (!artifact.torrents.empty()) bytes += fmt::format("torrents {}\n", TorrentsDigest(artifact).ToString());
  return bytes;
}

std::string FormatSignatureTime(int64_t unix_seconds) {
  const auto seconds = static_cast<time_t>(unix_seconds);
  tm parts{};
  ::gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
                     parts.tm_hour, parts.tm_min, parts.tm_sec);
}

Status SignArtifact(Artifact& artifact, const SigningKey& key, int64_t unix_seconds) {
  ArtifactSignature signature{.key_id = key.public_key().id(), .time = FormatSignatureTime(unix_seconds), .value = {}};
  BANYAN_ASSIGN(const std::string message, SignedBytes(artifact, signature.time));
  BANYAN_ASSIGN(const std::string bytes, key.Sign(message));
  signature.value = Base64(bytes);
  artifact.signature = std::move(signature);
  return {};
}

Status VerifyArtifact(const Artifact& artifact, const TrustPolicy& policy) {
  BANYAN_TRY(CheckConverterVersion(artifact, policy.min_converter_version));
  if (policy.keys.empty()) return {};
  const auto refuse = [](std::string what) { return Fail(Code::kUnauthenticated, std::move(what)); };
  if (!artifact.signature) return refuse("it is not signed");
  const ArtifactSignature& signature = *artifact.signature;
  const auto key = std::find_if(policy.keys.begin(), policy.keys.end(),
                                [&](const PublicKey& trusted) { return trusted.id() == signature.key_id; });
  if (key == policy.keys.end()) return refuse(fmt::format("its key '{}' is not trusted", signature.key_id));
  const auto bytes = SignatureFromBase64(signature.value);
  const auto message = SignedBytes(artifact, signature.time);
  if (!bytes || !message || !VerifySignature(*key, *message, *bytes)) return refuse("its signature is wrong");
  return {};
}

}  // namespace banyan::image_format
