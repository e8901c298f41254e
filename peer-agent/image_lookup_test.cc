#include "peer-agent/image_lookup.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "common/file_io.h"
#include "peer-agent/testing/test_image.h"

namespace banyan::peer_agent {
namespace {

using namespace std::chrono_literals;
using net::testing::FakeRegistry;
using net::testing::Fault;
using testing::AddTestImage;
using testing::TestImage;

class ImageLookupTest : public ::testing::Test {
 protected:
  ImageLookupTest()
      : dir_(TempDir::Make("banyan-lookup").value()),
        registry_(FakeRegistry::Start({}).value()),
        store_(store::NodeStore::Open({.root = dir_.path() + "/store"}).value()),
        registries_({}),
        documents_(Documents::Open(dir_.path(), *store_).value()) {}

  std::string Reference(const std::string& tag) const { return registry_->host() + "/app:" + tag; }
  size_t Requests(const std::string& part) const {
    const auto requests = registry_->requests();
    return static_cast<size_t>(std::count_if(requests.begin(), requests.end(), [&](const auto& request) {
      return request.target.find(part) != std::string::npos;
    }));
  }

  TempDir dir_;
  std::unique_ptr<FakeRegistry> registry_;
  std::unique_ptr<store::NodeStore> store_;
  Registries registries_;
  std::unique_ptr<Documents> documents_;
  Trust trust_;
};

TEST_F(ImageLookupTest, FindsAConvertedImageAndItsChain) {
  const TestImage image = AddTestImage(*registry_, "1", 3);
  ImageLookup lookup(registries_, *documents_, trust_);
  const auto found = lookup.Find(Reference("1"), image.manifest_digest, 10s);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->manifest_digest, image.manifest_digest);
  EXPECT_EQ(found->artifact_digest, image.artifact_digest);
  EXPECT_EQ(found->map_digest, image.map_digest);
  EXPECT_EQ(found->chain_ids, image.chain_ids);
  EXPECT_GT(found->mapped, found->resolved);
  EXPECT_EQ(lookup.Find(Reference("1"), std::nullopt, 10s)->manifest_digest, image.manifest_digest);
}

TEST_F(ImageLookupTest, AHundredAsksAreOneLookUp) {
  const TestImage image = AddTestImage(*registry_, "1", 2);
  registry_->AddFault({.path_contains = "/referrers/", .kind = Fault::Kind::kDelay, .delay = 200ms, .times = 1});
  ImageLookup lookup(registries_, *documents_, trust_);
  std::vector<std::thread> askers;
  std::atomic<int> found = 0;
  for (int i = 0; i < 100; ++i) {
    askers.emplace_back([&] { found += lookup.Find(Reference("1"), image.manifest_digest, 10s) != nullptr ? 1 : 0; });
  }
  for (auto& asker : askers) asker.join();
  EXPECT_EQ(found, 100);
  EXPECT_EQ(Requests("/referrers/"), 1U);
  EXPECT_EQ(Requests("/blobs/" + image.map_digest.ToString()), 1U);
}

TEST_F(ImageLookupTest, AbsenceIsRememberedForAWhileOnly) {
  const TestImage image = AddTestImage(*registry_, "1", 1, 300'000, false);
  ImageLookup lookup(registries_, *documents_, trust_, nullptr, {.remember_absence = 100ms});
  EXPECT_EQ(lookup.Find(Reference("1"), image.manifest_digest, 10s), nullptr);
  EXPECT_EQ(lookup.Find(Reference("1"), image.manifest_digest, 10s), nullptr);
  EXPECT_EQ(Requests("/referrers/"), 1U);
  AddTestImage(*registry_, "1", 1);
  std::this_thread::sleep_for(150ms);
  EXPECT_NE(lookup.Find(Reference("1"), image.manifest_digest, 10s), nullptr);
}

TEST_F(ImageLookupTest, ASilentRegistryHoldsNobodyUpAndItsLateAnswerCounts) {
  const TestImage image = AddTestImage(*registry_, "1", 1);
  registry_->AddFault({.path_contains = "/referrers/", .kind = Fault::Kind::kDelay, .delay = 1000ms, .times = 1});
  ImageLookup lookup(registries_, *documents_, trust_);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(lookup.Find(Reference("1"), image.manifest_digest, 100ms), nullptr);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 900ms);
  EXPECT_NE(lookup.Find(Reference("1"), image.manifest_digest, 10s), nullptr);
  EXPECT_EQ(Requests("/referrers/"), 1U);
}

TEST_F(ImageLookupTest, WhatCannotBeNamedOrReachedStartsAsUsual) {
  ImageLookup lookup(registries_, *documents_, trust_);
  EXPECT_EQ(lookup.Find("not a reference!", std::nullopt, 1s), nullptr);
  EXPECT_EQ(lookup.Find("", std::nullopt, 1s), nullptr);
  EXPECT_EQ(lookup.Find(Reference("absent"), std::nullopt, 10s), nullptr);
}

TEST_F(ImageLookupTest, WithTrustedKeysOnlyTheirArtifactsCount) {
  const auto key = image_format::SigningKey::Generate().value();
  const auto other = image_format::SigningKey::Generate().value();
  const TestImage unsigned_image = AddTestImage(*registry_, "1", 1);
  const TestImage signed_image = AddTestImage(*registry_, "2", 1, 300'000, true, &key);
  const std::string path = dir_.path() + "/key.pem";
  ASSERT_TRUE(WriteFileDurably(path, key.public_key().ToPem()));
  ASSERT_TRUE(trust_.Configure({path}, ""));
  ImageLookup lookup(registries_, *documents_, trust_, nullptr, {.remember_absence = 0ms});
  EXPECT_EQ(lookup.Find(Reference("1"), unsigned_image.manifest_digest, 10s), nullptr);
  EXPECT_EQ(trust_.refused(), 1U);
  EXPECT_NE(lookup.Find(Reference("2"), signed_image.manifest_digest, 10s), nullptr);

  ASSERT_TRUE(WriteFileDurably(path, other.public_key().ToPem()));
  ASSERT_TRUE(trust_.Configure({path}, ""));
  ImageLookup later(registries_, *documents_, trust_);
  EXPECT_EQ(later.Find(Reference("2"), signed_image.manifest_digest, 10s), nullptr);
  EXPECT_EQ(trust_.refused(), 2U);
  EXPECT_EQ(trust_.Configure({dir_.path() + "/absent.pem"}, "").error().code, Code::kNotFound);
}

TEST_F(ImageLookupTest, ShutdownEndsALookUpThatHangs) {
  const TestImage image = AddTestImage(*registry_, "1", 1);
  registry_->AddFault({.path_contains = "/referrers/", .kind = Fault::Kind::kDelay, .delay = 30s});
  auto lookup = std::make_unique<ImageLookup>(registries_, *documents_, trust_);
  EXPECT_EQ(lookup->Find(Reference("1"), image.manifest_digest, 100ms), nullptr);
  const auto start = std::chrono::steady_clock::now();
  registries_.Shutdown();
  lookup.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
}

}  // namespace
}  // namespace banyan::peer_agent
