#include "registry-proxy/content_store.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "common/file_io.h"
#include "image-format/oci.h"

namespace banyan::registry_proxy {
namespace {

constexpr std::string_view kType = image_format::kOciManifestMediaType;

class ContentStoreTest : public ::testing::Test {
 protected:
  void SetUp() override { Reopen(); }
  void Reopen() {
    store_.reset();
    auto opened = ContentStore::Open(directory_.path());
    ASSERT_TRUE(opened) << opened.error().message;
    store_ = std::move(*opened);
  }
  Digest Put(const std::string& repository, const std::string& text) {
    const Digest digest = Digest::Of(text);
    EXPECT_TRUE(store_->PutBlob(digest, text));
    EXPECT_TRUE(store_->LinkBlob(repository, digest));
    return digest;
  }
  static std::string Manifest(const Digest& layer, const std::string& more = "") {
    return fmt::format(
        R"({{"schemaVersion":2,"mediaType":"{}",{}"config":{{"mediaType":"application/vnd.example.config","digest":"{}","size":2}},)"
        R"("layers":[{{"mediaType":"application/vnd.example","digest":"{}","size":5}}]}})",
        kType, more, Digest::Of("{}").ToString(), layer.ToString());
  }

  TempDir directory_ = TempDir::Make("content").value();
  std::unique_ptr<ContentStore> store_;
};

TEST_F(ContentStoreTest, BlobsAreCheckedAndBelongToRepositories) {
  EXPECT_EQ(store_->PutBlob(Digest::Of("a"), "b").error().code, Code::kDataLoss);
  EXPECT_FALSE(store_->HasBlob(Digest::Of("a")));
  const Digest digest = Put("own/one", "hello");
  EXPECT_TRUE(store_->HasBlobIn("own/one", digest));
  EXPECT_FALSE(store_->HasBlobIn("own/two", digest));
  EXPECT_EQ(store_->LinkBlob("own/two", Digest::Of("absent")).error().code, Code::kNotFound);
  EXPECT_EQ(store_->OpenBlob(digest)->bytes, 5U);
  EXPECT_EQ(store_->used_bytes(), 5U);
  Put("own/two", "hello");
  EXPECT_EQ(store_->used_bytes(), 5U);
  Reopen();
  EXPECT_TRUE(store_->HasBlobIn("own/two", digest));
  EXPECT_EQ(store_->used_bytes(), 5U);
}

TEST_F(ContentStoreTest, ManifestsTagsAndReferrers) {
  const std::string body = Manifest(Digest::Of("layer"));
  const auto image = store_->PutManifest("own/app", "one", kType, body);
  ASSERT_TRUE(image) << image.error().message;
  ASSERT_TRUE(store_->PutManifest("own/app", "two", kType, body));
  const std::string more = fmt::format(
      R"("subject":{{"mediaType":"{}","digest":"{}","size":1}},"annotations":{{"k":"v"}},)", kType, image->ToString());
  const auto referrer = store_->PutManifest("own/app", "", kType, Manifest(Digest::Of("layer"), more));
  ASSERT_TRUE(referrer);
  Reopen();
  EXPECT_EQ(store_->GetManifest("own/app", "one")->body, body);
  EXPECT_EQ(store_->GetManifest("own/app", image->ToString())->media_type, kType);
  EXPECT_EQ(store_->GetManifest("own/other", "one").error().code, Code::kNotFound);
  EXPECT_EQ(store_->Tags("own/app"), (std::vector<std::string>{"one", "two"}));
  const auto referrers = store_->Referrers("own/app", *image);
  ASSERT_EQ(referrers.size(), 1U);
  const auto descriptor = image_format::ParseDescriptor(referrers[0]);
  ASSERT_TRUE(descriptor);
  EXPECT_EQ(descriptor->digest, *referrer);
  EXPECT_EQ(descriptor->artifact_type, "application/vnd.example.config");  // of its configuration, having none itself
  EXPECT_EQ(descriptor->annotations.at("k"), "v");

  ASSERT_TRUE(store_->DeleteManifest("own/app", *referrer));
  EXPECT_TRUE(store_->Referrers("own/app", *image).empty());
  ASSERT_TRUE(store_->DeleteManifest("own/app", *image));
  EXPECT_TRUE(store_->Tags("own/app").empty());
  EXPECT_EQ(store_->DeleteManifest("own/app", *image).error().code, Code::kNotFound);
  EXPECT_EQ(store_->PutManifest("own/app", "x", kType, "{").error().code, Code::kInvalidArgument);
  EXPECT_EQ(store_->PutManifest("own/app", "x", "text/plain", body).error().code, Code::kInvalidArgument);
}

TEST_F(ContentStoreTest, GarbageIsWhatNothingNames) {
  const Digest layer = Put("own/app", "layer");
  const Digest config = Put("own/app", "{}");
  const auto image = store_->PutManifest("own/app", "one", kType, Manifest(layer));
  ASSERT_TRUE(image);
  const Digest loose = Digest::Of("loose");
  ASSERT_TRUE(store_->PutBlob(loose, "loose"));
  ASSERT_TRUE(store_->UnlinkBlob("own/app", layer));              // the manifest names it still
  EXPECT_EQ(*store_->CollectGarbage(std::chrono::hours(1)), 0U);  // too young
  EXPECT_EQ(*store_->CollectGarbage(std::chrono::seconds(-1)), 5U);
  EXPECT_FALSE(store_->HasBlob(loose));
  EXPECT_TRUE(store_->HasBlob(layer) && store_->HasBlob(config) && store_->HasBlob(*image));
  ASSERT_TRUE(store_->DeleteManifest("own/app", *image));
  ASSERT_TRUE(store_->CollectGarbage(std::chrono::seconds(-1)));
  EXPECT_FALSE(store_->HasBlob(layer));
  EXPECT_FALSE(store_->HasBlob(*image));
  EXPECT_EQ(store_->used_bytes(), 2U);
}

TEST_F(ContentStoreTest, ADamagedManifestIsNotServed) {
  const auto image = store_->PutManifest("own/app", "one", kType, Manifest(Digest::Of("layer")));
  ASSERT_TRUE(image);
  ASSERT_TRUE(WriteFileDurably(directory_.path() + "/blobs/sha256/" + image->Hex(), "rot"));
  EXPECT_EQ(store_->GetManifest("own/app", "one").error().code, Code::kDataLoss);
}

}  // namespace
}  // namespace banyan::registry_proxy
