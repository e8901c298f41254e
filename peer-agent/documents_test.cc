#include "peer-agent/documents.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "common/file_io.h"
#include "image-format/erofs_reader.h"
#include "image-format/image_builder.h"
#include "peer-agent/testing/test_image.h"

namespace banyan::peer_agent {
namespace {

using net::testing::FakeRegistry;
using testing::AddTestImage;
using testing::TestImage;

class DocumentsTest : public ::testing::Test {
 protected:
  DocumentsTest()
      : dir_(TempDir::Make("banyan-documents").value()),
        registry_(FakeRegistry::Start({}).value()),
        store_(store::NodeStore::Open({.root = dir_.path() + "/store"}).value()),
        documents_(Documents::Open(dir_.path(), *store_).value()) {
    Registries registries({});
    origins_ =
        registries.Open(net::ImageReference::Parse("docker://" + registry_->host() + "/app:1").value(), {}).value();
  }

  TempDir dir_;
  std::unique_ptr<FakeRegistry> registry_;
  std::unique_ptr<store::NodeStore> store_;
  std::unique_ptr<Documents> documents_;
  Origins origins_;
};

TEST_F(DocumentsTest, GivesTheImagesOwnDocumentsForTheWholeChain) {
  const TestImage image = AddTestImage(*registry_, "1", 3);
  const auto documents = documents_->Prefix(origins_, image.map_digest, 3);
  ASSERT_TRUE(documents) << documents.error().message;
  EXPECT_EQ(documents->map_digest, image.map_digest);
  EXPECT_EQ(documents->map.chain_id, image.chain_ids.back());
  EXPECT_EQ(Digest::Of(*ReadFile(documents->metadata_path)), image.map.metadata_digest);
}

TEST_F(DocumentsTest, MakesThoseOfAPartOfTheChainFromTheIndexes) {
  const TestImage image = AddTestImage(*registry_, "1", 3);
  const auto documents = documents_->Prefix(origins_, image.map_digest, 2);
  ASSERT_TRUE(documents) << documents.error().message;
  EXPECT_EQ(documents->map.chain_id, image.chain_ids[1]);
  ASSERT_EQ(documents->map.devices.size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(documents->map.devices[i].blob_digest, image.map.devices[i].blob_digest);
  }
  EXPECT_NE(documents->map.metadata_digest, image.map.metadata_digest);
  // The second time nothing is asked of the registry, and after a restart only the indexes are read again, locally.
  registry_->ClearRequests();
  const auto again = documents_->Prefix(origins_, image.map_digest, 2);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->map_digest, documents->map_digest);
  const auto reopened = Documents::Open(dir_.path(), *store_).value();
  EXPECT_EQ(reopened->Prefix({}, image.map_digest, 2)->map_digest, documents->map_digest);
  EXPECT_TRUE(registry_->requests().empty());
  // A mount restored by its record finds the part under its own map.
  EXPECT_EQ(reopened->Map({}, documents->map_digest)->chain_id, image.chain_ids[1]);
}

TEST_F(DocumentsTest, MendsDamagedFilesAndRefusesAnothersIndex) {
  const TestImage image = AddTestImage(*registry_, "1", 2);
  const auto documents = documents_->Prefix(origins_, image.map_digest, 2).value();
  { std::ofstream(documents.metadata_path, std::ios::in | std::ios::out) << "rot"; }
  EXPECT_TRUE(documents_->Metadata({}, documents.map)) << "the blob is still in the store";
  EXPECT_EQ(Digest::Of(*ReadFile(documents.metadata_path)), image.map.metadata_digest);
  EXPECT_EQ(documents_->Map({}, Digest::Of("unknown")).error().code, Code::kNotFound);
  EXPECT_EQ(documents_->Prefix({}, Digest::Of("unknown"), 1).error().code, Code::kNotFound);
}

TEST_F(DocumentsTest, KeepsOnlyWhatIsWanted) {
  const TestImage one = AddTestImage(*registry_, "1", 1);
  const TestImage two = AddTestImage(*registry_, "2", 2);
  const auto path_one = documents_->Prefix(origins_, one.map_digest, 1)->metadata_path;
  const auto path_two = documents_->Prefix(origins_, two.map_digest, 2)->metadata_path;
  documents_->KeepOnly({one.map_digest}, {one.map.metadata_digest});
  EXPECT_TRUE(std::filesystem::exists(path_one));
  EXPECT_FALSE(std::filesystem::exists(path_two));
}

}  // namespace
}  // namespace banyan::peer_agent
