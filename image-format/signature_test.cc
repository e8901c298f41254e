#include "image-format/signature.h"

#include <gtest/gtest.h>

#include "image-format/layer_index.h"

namespace banyan::image_format {
namespace {

Artifact Sample() {
  Artifact artifact;
  artifact.converter_version = "banyan 0.1.0";
  artifact.chain_id = Digest::Of("chain");
  artifact.map_digest = Digest::Of("map");
  artifact.map_bytes = 3;
  artifact.metadata_blob_digest = Digest::Of("metadata");
  artifact.metadata_blob_bytes = 8;
  artifact.layers = {{Digest::Of("source"), Digest::Of("diff"), Digest::Of("blob"), 4, Digest::Of("index"), 5}};
  artifact.subject = Descriptor{};
  artifact.subject->media_type = kOciManifestMediaType;
  artifact.subject->digest = Digest::Of("original manifest");
  artifact.subject->size = 17;
  return artifact;
}

SigningKey TestKey(uint8_t first = 0) {
  std::array<uint8_t, 32> seed;
  for (size_t i = 0; i < seed.size(); ++i) seed[i] = static_cast<uint8_t>(first + i);
  return std::move(*SigningKey::FromSeed(seed));
}

// The bytes and the signature that docs/format.md gives for the seed 00 01 … 1f.
TEST(SignatureTest, GoldenBytes) {
  Artifact artifact = Sample();
  EXPECT_EQ(*SignedBytes(artifact, "2026-01-02T03:04:05Z"),
            "banyan artifact signature v1\n"
            "subject sha256:2ed708fd58ff956393e6084c207798f7705af4ab603d807701734fc1b89d3206\n"
            "map sha256:60be9861750facbfad8758254a2f76c0cfe78d54459a3bc187d49b1401fcd8e8\n"
            "format 1\n"
            "converter banyan 0.1.0\n"
            "time 2026-01-02T03:04:05Z\n");
  ASSERT_TRUE(SignArtifact(artifact, TestKey(), 1767323045));
  EXPECT_EQ(artifact.signature->time, "2026-01-02T03:04:05Z");
  EXPECT_EQ(artifact.signature->key_id, "56475aa75463474c");
  EXPECT_EQ(artifact.signature->value,
            "wWimjaNQe163KCLZNHGxZI8oQ10VgaNB5CqAumHdZNs6fjPwyfgACdSVdjVHRpiiq6Ssm+1/yAb+Udth4uPrBA==");
}

// RFC 8032 §7.1, test 1: the empty message.
TEST(SignatureTest, AgreesWithTheRfc) {
  const std::array<uint8_t, 32> seed = {0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a,
                                        0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32,
                                        0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60};
  const auto key = SigningKey::FromSeed(seed);
  ASSERT_TRUE(key);
  EXPECT_EQ(key->public_key().bytes()[0], 0xd7);
  EXPECT_EQ(key->public_key().bytes()[31], 0x1a);
  const auto signature = key->Sign("");
  ASSERT_TRUE(signature);
  EXPECT_EQ(static_cast<uint8_t>((*signature)[0]), 0xe5);
  EXPECT_EQ(static_cast<uint8_t>((*signature)[63]), 0x0b);
}

TEST(SignatureTest, CoversTorrents) {
  const SigningKey key = TestKey();
  const TrustPolicy policy{{key.public_key()}, ""};
  Artifact good = Sample();
  good.torrents = {{Digest::Of("blob"), Digest::Of("torrent"), 7, {{1, 2, 3}}}};
  ASSERT_TRUE(SignArtifact(good, key, 1));
  const auto read = ParseArtifact(WriteArtifact(good));
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->torrents, good.torrents);
  EXPECT_TRUE(VerifyArtifact(*read, policy));
  Artifact other = good;
  other.torrents[0].info_hash.bytes[0] ^= 1;
  EXPECT_FALSE(VerifyArtifact(other, policy));
  other = good;
  other.torrents[0].torrent_digest = Digest::Of("another");
  EXPECT_FALSE(VerifyArtifact(other, policy));
  other = good;
  other.torrents.clear();
  EXPECT_FALSE(VerifyArtifact(other, policy));
}

TEST(SignatureTest, SurvivesTheManifest) {
  Artifact artifact = Sample();
  const SigningKey key = TestKey();
  ASSERT_TRUE(SignArtifact(artifact, key, 1));
  auto read = ParseArtifact(WriteArtifact(artifact));
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->signature, artifact.signature);
  EXPECT_TRUE(VerifyArtifact(*read, {{TestKey(9).public_key(), key.public_key()}, ""}));
}

TEST(SignatureTest, WhatWasNotSignedIsRefused) {
  const SigningKey key = TestKey();
  const TrustPolicy policy{{key.public_key()}, ""};
  Artifact good = Sample();
  EXPECT_EQ(VerifyArtifact(good, policy).error().code, Code::kUnauthenticated);
  EXPECT_TRUE(VerifyArtifact(good, {}));
  ASSERT_TRUE(SignArtifact(good, key, 1));
  EXPECT_TRUE(VerifyArtifact(good, policy));
  EXPECT_FALSE(VerifyArtifact(good, {{TestKey(1).public_key()}, ""}));

  const auto refused = [&](auto change) {
    Artifact bad = good;
    change(bad);
    const Status status = VerifyArtifact(bad, policy);
    return !status && status.error().code == Code::kUnauthenticated;
  };
  EXPECT_TRUE(refused([](Artifact& a) { a.subject->digest = Digest::Of("another"); }));
  EXPECT_TRUE(refused([](Artifact& a) { a.map_digest = Digest::Of("another"); }));
  EXPECT_TRUE(refused([](Artifact& a) { a.converter_version = "banyan 0.2.0"; }));
  EXPECT_TRUE(refused([](Artifact& a) { a.converter_version = "banyan 0.1.0\n"; }));
  EXPECT_TRUE(refused([](Artifact& a) { a.signature->time = "2030-01-01T00:00:00Z"; }));
  EXPECT_TRUE(refused([](Artifact& a) { a.signature->value[3] ^= 1; }));
  EXPECT_TRUE(refused([](Artifact& a) { a.signature->value.clear(); }));
  EXPECT_TRUE(refused([](Artifact& a) { a.signature->value = std::string(88, '='); }));
  EXPECT_TRUE(refused([](Artifact& a) { a.signature->key_id = TestKey(1).public_key().id(); }));
  EXPECT_TRUE(refused([](Artifact& a) { a.subject.reset(); }));
}

TEST(SignatureTest, ConvertersCanBeRevoked) {
  Artifact artifact = Sample();
  EXPECT_TRUE(VerifyArtifact(artifact, {{}, "banyan 0.1.0"}));
  EXPECT_TRUE(VerifyArtifact(artifact, {{}, "banyan 0.0.9"}));
  EXPECT_EQ(VerifyArtifact(artifact, {{}, "banyan 0.1.1"}).error().code, Code::kFailedPrecondition);
  artifact.converter_version = "banyan 0.10.0";
  EXPECT_TRUE(VerifyArtifact(artifact, {{}, "banyan 0.9.9"}));
  artifact.converter_version = "other 9.9.9";
  EXPECT_EQ(VerifyArtifact(artifact, {{}, "banyan 0.1.0"}).error().code, Code::kFailedPrecondition);
}

TEST(SignatureTest, KeysAsPem) {
  const auto key = SigningKey::Generate();
  ASSERT_TRUE(key);
  const auto pem = key->ToPem();
  ASSERT_TRUE(pem);
  const auto again = SigningKey::FromPem(*pem);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->public_key(), key->public_key());
  const auto public_key = PublicKey::FromPem(key->public_key().ToPem());
  ASSERT_TRUE(public_key);
  EXPECT_EQ(*public_key, key->public_key());
  EXPECT_FALSE(PublicKey::FromPem(*pem));
  EXPECT_FALSE(SigningKey::FromPem(key->public_key().ToPem()));
  EXPECT_FALSE(SigningKey::FromPem(""));
  EXPECT_NE(SigningKey::Generate()->public_key(), key->public_key());
}

}  // namespace
}  // namespace banyan::image_format
