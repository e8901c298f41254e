#include "common/digest.h"

#include <gtest/gtest.h>

namespace banyan {
namespace {

constexpr char kEmptyHex[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

TEST(DigestTest, OfTheEmptyStringIsTheKnownOne) {
  EXPECT_EQ(Digest::Of("").Hex(), kEmptyHex);
  EXPECT_EQ(Digest::Of("").ToString(), std::string("sha256:") + kEmptyHex);
}

TEST(DigestTest, ParseRoundTrips) {
  const Digest digest = Digest::Of("banyan");
  EXPECT_EQ(Digest::Parse(digest.ToString()).value(), digest);
  EXPECT_EQ(Digest::FromHex(digest.Hex()).value(), digest);
  EXPECT_EQ(Digest::FromBytes(digest.raw()).value(), digest);
}

TEST(DigestTest, ParseRefusesWhatIsNotExactlyADigest) {
  const std::string hex = Digest::Of("x").Hex();
  for (const std::string& bad : {hex, "sha512:" + hex, "sha256:" + hex.substr(1), "sha256:" + hex + "0",
                                 "sha256:" + std::string(64, 'A'), std::string("sha256:"), std::string()}) {
    EXPECT_FALSE(Digest::Parse(bad).has_value()) << bad;
  }
}

TEST(Sha256Test, PiecesGiveTheWholeAndFinishStartsAnew) {
  Sha256 hasher;
  for (int round = 0; round < 2; ++round) {
    hasher.Update("ban");
    hasher.Update("yan");
    EXPECT_EQ(hasher.Finish(), Digest::Of("banyan"));
  }
}

}  // namespace
}  // namespace banyan
