#include "registry-proxy/torrents.h"

#include <condition_variable>
#include <mutex>

#include <gtest/gtest.h>

#include "common/file_io.h"

namespace banyan::registry_proxy {
namespace {

class WaitingReply final : public net::HttpReply {
 public:
  void Send(net::HttpResponse response) override {
    const std::lock_guard lock(mutex_);
    response_ = std::move(response);
    done_ = true;
    changed_.notify_all();
  }
  void SendInterim(int, std::vector<std::pair<std::string, std::string>>) override {}
  void SendHead(int, std::vector<std::pair<std::string, std::string>>, std::optional<uint64_t>) override {}
  void Write(std::string, std::function<void(bool)>) override {}
  void WriteFile(net::FileRange, std::function<void(bool)>) override {}
  void End() override {}
  void Abort() override {}

  const net::HttpResponse& Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
    return response_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  net::HttpResponse response_;
};

class TorrentsTest : public ::testing::Test {
 protected:
  TorrentsTest() : dir_(TempDir::Make("torrents").value()), blob_(2 * image_format::kPieceBytes + 3, 'x') {}

  net::HttpResponse Ask(Torrents& torrents, const Digest& digest, bool body = true) {
    auto reply = std::make_shared<WaitingReply>();
    torrents.Answer(
        digest,
        [this]() -> Result<std::unique_ptr<ByteSource>> {
          ++opened_;
          if (blob_.empty()) return Fail(Code::kNotFound, "no such blob");
          return std::make_unique<MemorySource>(std::as_bytes(std::span(blob_)));
        },
        body, reply);
    return reply->Wait();
  }

  TempDir dir_;
  std::string blob_;
  int opened_ = 0;
};

TEST_F(TorrentsTest, MakesOneAndKeepsIt) {
  const Digest digest = Digest::Of(blob_);
  Torrents torrents(dir_.path() + "/t", "http://m:1/key/announce");
  const auto answer = Ask(torrents, digest);
  EXPECT_EQ(answer.status, 200);
  const auto& bytes = std::get<std::string>(answer.body);
  EXPECT_TRUE(bytes.starts_with("d8:announce23:http://m:1/key/announce4:info"));
  const auto read = image_format::ReadTorrent(bytes, digest, blob_.size());
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(std::get<std::string>(Ask(torrents, digest).body), bytes);
  EXPECT_EQ(opened_, 1);
  EXPECT_TRUE(std::get<std::string>(Ask(torrents, digest, false).body).empty());

  // Another proxy on the same directory; then one whose file has rotted.
  Torrents again(dir_.path() + "/t", "");
  EXPECT_EQ(std::get<std::string>(Ask(again, digest).body), read->metainfo);
  EXPECT_EQ(opened_, 1);
  ASSERT_TRUE(WriteFileDurably(dir_.path() + "/t/" + digest.Hex(), "12\nd4:infodee"));
  EXPECT_EQ(std::get<std::string>(Ask(again, digest).body), read->metainfo);
  EXPECT_EQ(opened_, 2);
}

TEST_F(TorrentsTest, WrongBytesAndMissingBlobsHaveNone) {
  Torrents torrents(dir_.path() + "/t", "");
  EXPECT_GE(Ask(torrents, Digest::Of("another")).status, 500);
  EXPECT_FALSE(ReadFile(dir_.path() + "/t/" + Digest::Of("another").Hex()));
  blob_.clear();
  EXPECT_EQ(Ask(torrents, Digest::Of("missing")).status, 404);
}

}  // namespace
}  // namespace banyan::registry_proxy
