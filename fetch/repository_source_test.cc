// The whole fetch path against a registry that misbehaves and a real store: right bytes, or a clear error.
#include "fetch/repository_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "common/file_io.h"
#include "fetch/scheduler.h"
#include "fetch/testing/test_layer.h"
#include "net/testing/fake_registry.h"
#include "store/node_store.h"

namespace banyan::fetch {
namespace {

using namespace std::chrono_literals;
using net::testing::FakeRegistry;
using net::testing::Fault;
using ::testing::HasSubstr;
using testing::TestLayer;

class RepositorySourceTest : public ::testing::Test {
 protected:
  void SetUp() override { Start({}); }

  void Start(const net::testing::FakeRegistryOptions& registry_options) {
    registry_ = std::move(*FakeRegistry::Start(registry_options));
    registry_->AddBlob(std::string(reinterpret_cast<const char*>(layer_.blob.data()), layer_.blob.size()));
    const auto reference = net::ImageReference::Parse("docker://" + registry_->host() + "/app:1");
    ASSERT_TRUE(reference);
    auto repository = net::OpenRepository(*reference, {.plain_http = true, .stall_timeout_ms = 700, .attempts = 1});
    ASSERT_TRUE(repository) << repository.error().message;
    repository_ = std::move(*repository);
    source_ = std::make_shared<RepositorySource>(repository_, &timer_);
  }
  // Chunk by chunk, as the source gives it.
  std::vector<Result<ChunkBytes>> Ask(ChunkRange chunks, Clock::duration patience = 20s) {
    std::vector<Result<ChunkBytes>> answers;
    std::promise<void> all;
    source_->Fetch({.device = layer_.device, .chunks = chunks, .deadline = Clock::now() + patience},
                   [&](ChunkIndex chunk, Result<ChunkBytes> answer) {
                     EXPECT_EQ(chunk, chunks.begin + answers.size());
                     answers.push_back(std::move(answer));
                     if (answers.size() == chunks.size()) all.set_value();
                   });
    all.get_future().wait();
    return answers;
  }
  // Reads everything through a scheduler over a real store.
  Result<std::vector<std::byte>> ReadAll(std::chrono::milliseconds read_timeout) {
    BANYAN_ASSIGN(const TempDir root, TempDir::Make("fetch_test"));
    BANYAN_ASSIGN(const auto store, store::NodeStore::Open({.root = root.path()}));
    BANYAN_ASSIGN(auto stored, store->OpenLayer(*layer_.device));
    ThreadPool pool(2);
    Scheduler scheduler({.executor = pool, .timer = &timer_, .read_timeout = read_timeout, .attempt_timeout = 1s});
    const auto lazy = scheduler.AddLayer(std::move(stored), source_);
    std::promise<Result<std::vector<std::byte>>> answer;
    lazy->Read({0, lazy->size_bytes()}, [&](Result<ReadView> view) { answer.set_value(Bytes(view)); });
    return answer.get_future().get();
  }
  static Result<std::vector<std::byte>> Bytes(const Result<ReadView>& view) {
    if (!view) return Fail(view.error());
    if (view->fd < 0) return view->memory;
    std::vector<std::byte> bytes(view->length);
    BANYAN_TRY(PreadFull(view->fd, bytes, view->offset, "device"));
    return bytes;
  }

  ThreadTimer timer_;
  const TestLayer layer_ = testing::MakeTestLayer({16, 1, 64, 3, 30, 16, 16, 90});
  std::unique_ptr<FakeRegistry> registry_;
  std::shared_ptr<net::Repository> repository_;
  std::shared_ptr<RepositorySource> source_;
};

TEST_F(RepositorySourceTest, OneRangeRequestIsCutIntoChunks) {
  const auto answers = Ask({1, 7});
  for (ChunkIndex chunk = 1; chunk < 7; ++chunk) {
    ASSERT_TRUE(answers[chunk - 1]) << answers[chunk - 1].error().message;
    EXPECT_EQ(*answers[chunk - 1], layer_.Compressed(chunk));
  }
  size_t ranges = 0;
  for (const auto& seen : registry_->requests()) ranges += seen.range.empty() ? 0 : 1;
  EXPECT_EQ(ranges, 1U);
}

TEST_F(RepositorySourceTest, ACutTransferGivesWhatCameAndNamesWhatDidNot) {
  registry_->AddFault({.path_contains = "/blobs/",
                       .kind = Fault::Kind::kCut,
                       .after_bytes = layer_.device->chunks[2].blob_range().end + 10});
  const auto answers = Ask({0, 8});
  for (ChunkIndex chunk = 0; chunk < 3; ++chunk) EXPECT_TRUE(answers[chunk]);
  for (ChunkIndex chunk = 3; chunk < 8; ++chunk) {
    ASSERT_FALSE(answers[chunk]);
    EXPECT_THAT(answers[chunk].error().message, HasSubstr("chunk " + std::to_string(chunk) + " of layer sha256:"));
    EXPECT_THAT(answers[chunk].error().message, HasSubstr(registry_->host()));
  }
}

TEST_F(RepositorySourceTest, ADeadlineCancelsAStalledTransfer) {
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStall, .after_bytes = 100});
  const auto begun = Clock::now();
  const auto answers = Ask({0, 2}, 200ms);
  EXPECT_LT(Clock::now() - begun, 650ms) << "before the repository's own stall timeout";
  EXPECT_EQ(answers[0].error().code, Code::kDeadlineExceeded);
}

TEST_F(RepositorySourceTest, AClosedSourceAnswersWhatIsOutstanding) {
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStall, .after_bytes = 100});
  std::atomic<int> cancelled = 0;
  source_->Fetch({layer_.device, {0, 3}, Priority::kDemand}, [&](ChunkIndex, const Result<ChunkBytes>& answer) {
    if (!answer && answer.error().code == Code::kCancelled) ++cancelled;
  });
  source_.reset();
  EXPECT_EQ(cancelled, 3);
}

TEST_F(RepositorySourceTest, RightBytesOnceTheTroubleIsOver) {
  const std::vector<Fault> faults{
      {.path_contains = "/blobs/", .kind = Fault::Kind::kStatus, .status = 401, .times = 1},
      {.path_contains = "/blobs/", .kind = Fault::Kind::kStatus, .status = 403, .times = 1},
      {.path_contains = "/blobs/", .kind = Fault::Kind::kStatus, .status = 404, .times = 1},
      {.path_contains = "/blobs/", .kind = Fault::Kind::kStatus, .status = 416, .times = 1},
      {.path_contains = "/blobs/", .kind = Fault::Kind::kStatus, .status = 500, .times = 3},
      {.path_contains = "/blobs/", .kind = Fault::Kind::kStatus, .status = 503, .times = 3},
      {.path_contains = "/blobs/", .kind = Fault::Kind::kCut, .after_bytes = 70'000, .times = 2},
      {.path_contains = "/blobs/", .kind = Fault::Kind::kStall, .after_bytes = 90'000, .times = 1},
      {.path_contains = "/blobs/", .kind = Fault::Kind::kFlipByte, .after_bytes = 1'000, .times = 2},
      {.path_contains = "/blobs/", .kind = Fault::Kind::kIgnoreRange, .times = 1},
  };
  for (const Fault& fault : faults) {
    SCOPED_TRACE(static_cast<int>(fault.kind) * 1000 + fault.status);
    registry_->ClearFaults();
    registry_->AddFault(fault);
    const auto bytes = ReadAll(30s);
    ASSERT_TRUE(bytes) << bytes.error().message;
    EXPECT_TRUE(*bytes == layer_.blocks);
  }
}

TEST_F(RepositorySourceTest, AClearErrorWhenItIsNot) {
  for (int status : {401, 403, 404, 416, 500, 503}) {
    registry_->ClearFaults();
    registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStatus, .status = status});
    const auto bytes = ReadAll(300ms);
    ASSERT_FALSE(bytes);
    EXPECT_THAT(bytes.error().message, HasSubstr(registry_->host()));
    EXPECT_THAT(bytes.error().message, HasSubstr("gave up after"));
  }
  registry_->ClearFaults();
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kFlipByte, .after_bytes = 5});
  const auto bytes = ReadAll(300ms);
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().code, Code::kDataLoss);
  EXPECT_THAT(bytes.error().message, HasSubstr("chunk 0 of layer"));
}

}  // namespace
}  // namespace banyan::fetch
