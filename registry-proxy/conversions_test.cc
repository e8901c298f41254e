// The queue: what is wanted, in which order, and what outlives the process. The conversion itself is convert's affair.
#include "registry-proxy/conversions.h"

#include <filesystem>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "common/file_io.h"
#include "image-format/oci.h"

namespace banyan::registry_proxy {
namespace {

std::shared_ptr<const net::RawManifest> Image(const std::string& name, uint64_t bytes = 1000,
                                              const std::string& more = "") {
  auto manifest = std::make_shared<net::RawManifest>();
  manifest->media_type = image_format::kOciManifestMediaType;
  manifest->body = fmt::format(
      R"({{"schemaVersion":2,"mediaType":"{}",{}"config":{{"mediaType":"{}","digest":"{}","size":2}},)"
      R"("layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":{}}}]}})",
      image_format::kOciManifestMediaType, more, image_format::kOciConfigMediaType, Digest::Of("{}").ToString(),
      Digest::Of(name).ToString(), bytes);
  manifest->digest = Digest::Of(manifest->body);
  return manifest;
}

class ConversionsTest : public ::testing::Test {
 protected:
  void Open(ConversionPolicy policy = {}) {
    conversions_.reset();
    ConversionOptions options;
    options.root = directory_.path() + "/conversions";
    options.policy = std::move(policy);
    options.threads = 1;
    auto opened = Conversions::Open(
        std::move(options), *content_,
        [this](const std::string&, const std::string& repository, bool) -> Result<std::unique_ptr<net::Repository>> {
          const std::lock_guard lock(mutex_);
          opened_.push_back(repository);
          return Fail(error_);
        });
    ASSERT_TRUE(opened) << opened.error().message;
    conversions_ = std::move(*opened);
  }
  template <typename Condition>
  static bool Eventually(Condition condition) {
    for (int i = 0; i < 1000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return condition();
  }
  size_t QueueFiles() const {
    size_t files = 0;
    for ([[maybe_unused]] const auto& item :
         std::filesystem::directory_iterator(directory_.path() + "/conversions/queue"))
      ++files;
    return files;
  }

  TempDir directory_ = TempDir::Make("conversions").value();
  std::unique_ptr<ContentStore> content_ = std::move(*ContentStore::Open(directory_.path() + "/content"));
  std::mutex mutex_;
  std::vector<std::string> opened_;          // guarded by mutex_
  Error error_{Code::kDataLoss, "no good"};  // guarded by mutex_
  std::unique_ptr<Conversions> conversions_;
};

TEST_F(ConversionsTest, WhatFailsForGoodIsNotTriedAgain) {
  Open();
  conversions_->Start();
  const auto image = Image("a");
  conversions_->Offer("r", "app", "1", image);
  ASSERT_TRUE(Eventually([&] { return conversions_->stats().failed == 1; }));
  conversions_->Offer("r", "app", "1", image);
  const auto list = conversions_->List();
  ASSERT_EQ(list.size(), 1U);
  EXPECT_EQ(list[0].state, ConversionState::kFailed);
  EXPECT_EQ(list[0].message, "no good");
  EXPECT_EQ(list[0].asks, 2U);
  EXPECT_EQ(QueueFiles(), 0U);
}

TEST_F(ConversionsTest, WhatMayPassStaysAndOutlivesTheProcess) {
  error_.code = Code::kUnavailable;
  Open();
  conversions_->Start();
  conversions_->Offer("r", "app", "1", Image("a"));
  ASSERT_TRUE(Eventually([&] {
    const auto list = conversions_->List();
    return list.size() == 1 && list[0].state == ConversionState::kQueued && !list[0].message.empty();
  }));
  EXPECT_EQ(QueueFiles(), 1U);
  ASSERT_TRUE(WriteFileDurably(directory_.path() + "/conversions/queue/half", "{\"repo"));
  Open();
  EXPECT_EQ(QueueFiles(), 1U);  // half a record is none
  const auto list = conversions_->List();
  ASSERT_EQ(list.size(), 1U);
  EXPECT_EQ(list[0].repository, "app");
  EXPECT_EQ(list[0].digest, Image("a")->digest);
}

TEST_F(ConversionsTest, WhatIsAskedForMostComesFirst) {
  {
    error_.code = Code::kUnavailable;
    Open();
    conversions_->Start();
    for (const char* name : {"a", "b", "c"}) conversions_->Offer("r", name, "1", Image(name));
    ASSERT_TRUE(Eventually([&] { return QueueFiles() == 3; }));
  }
  Open();
  {
    const std::lock_guard lock(mutex_);
    opened_.clear();
    error_.code = Code::kDataLoss;
  }
  for (int i = 0; i < 3; ++i) conversions_->Offer("r", "c", "1", Image("c"));
  conversions_->Offer("r", "b", "1", Image("b"));
  conversions_->Start();
  ASSERT_TRUE(Eventually([&] { return conversions_->stats().failed == 3; }));
  const std::lock_guard lock(mutex_);
  EXPECT_EQ(opened_, (std::vector<std::string>{"c", "b", "a"}));
}

TEST_F(ConversionsTest, ThePolicyDecides) {
  Open({.images = {"r/*"}, .never = {"*/base"}, .min_bytes = 500});
  conversions_->Start();
  conversions_->Offer("other", "app", "1", Image("a"));
  conversions_->Offer("r", "base", "1", Image("b"));
  conversions_->Offer("r", "small", "1", Image("c", 499));
  conversions_->Offer("r", "referrer", "1",
                      Image("d", 1000,
                            fmt::format(R"("subject":{{"mediaType":"{}","digest":"{}","size":1}},)",
                                        image_format::kOciManifestMediaType, Digest::Of("x").ToString())));
  auto broken = std::make_shared<net::RawManifest>(*Image("e"));
  broken->body = "{";
  conversions_->Offer("r", "broken", "1", broken);
  conversions_->Offer("r", "team/app", "1", Image("f"));
  ASSERT_TRUE(Eventually([&] { return conversions_->stats().failed == 1; }));
  EXPECT_EQ(conversions_->List()[0].repository, "team/app");
  EXPECT_EQ(conversions_->List().size(), 1U);
}

}  // namespace
}  // namespace banyan::registry_proxy
