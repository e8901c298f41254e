// The service over its socket, as a client sees it.
#include "snapshotter/service.h"

#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include "common/file_io.h"
#include "lazyfs/testing/sandbox.h"
#include "snapshotter/testing/fake_images.h"

namespace banyan::snapshotter {
namespace {

using lazyfs::testing::Eventually;
using testing::CriLabels;
using ::testing::ElementsAre;

class ServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    service_ = Listen();
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(16 << 20);
    client_ = wire::Snapshots::NewStub(
        grpc::CreateCustomChannel("unix:" + socket_, grpc::InsecureChannelCredentials(), arguments));
  }
  std::unique_ptr<SnapshotService> Listen() {
    auto service = SnapshotService::Listen(*bench_, socket_);
    EXPECT_TRUE(service.has_value()) << (service ? "" : service.error().message);
    return service ? std::move(*service) : nullptr;
  }
  grpc::Status Prepare(const std::string& key, const std::string& parent, const Labels& labels = {}) {
    grpc::ClientContext context;
    wire::PrepareSnapshotRequest request;
    request.set_snapshotter("banyan");
    request.set_key(key);
    request.set_parent(parent);
    request.mutable_labels()->insert(labels.begin(), labels.end());
    prepared_.Clear();
    wire::PrepareSnapshotResponse reply;
    const grpc::Status status = client_->Prepare(&context, request, &reply);
    if (status.ok()) prepared_ = reply;
    return status;
  }
  grpc::Status Commit(const std::string& name, const std::string& key) {
    grpc::ClientContext context;
    wire::CommitSnapshotRequest request;
    request.set_name(name);
    request.set_key(key);
    google::protobuf::Empty reply;
    return client_->Commit(&context, request, &reply);
  }
  Result<std::vector<wire::Info>> List(const std::vector<std::string>& filters) {
    grpc::ClientContext context;
    wire::ListSnapshotsRequest request;
    for (const std::string& filter : filters) request.add_filters(filter);
    const auto reader = client_->List(&context, request);
    std::vector<wire::Info> infos;
    for (wire::ListSnapshotsResponse reply; reader->Read(&reply);) {
      infos.insert(infos.end(), reply.info().begin(), reply.info().end());
    }
    const grpc::Status status = reader->Finish();
    if (!status.ok()) return Fail(static_cast<Code>(status.error_code()), status.error_message());
    return infos;
  }

  testing::Bench bench_;
  const std::string socket_ = bench_.root() + "/s/snapshots.sock";
  std::unique_ptr<SnapshotService> service_;
  std::unique_ptr<wire::Snapshots::Stub> client_;
  wire::PrepareSnapshotResponse prepared_;
};

TEST_F(ServiceTest, OneSnapshotThroughEveryCall) {
  ASSERT_TRUE(Prepare("k", "", {{"a", "1"}}).ok());
  ASSERT_EQ(prepared_.mounts_size(), 1);
  EXPECT_EQ(prepared_.mounts(0).type(), "bind");
  EXPECT_THAT(prepared_.mounts(0).options(), ElementsAre("rw", "rbind"));
  ASSERT_TRUE(Commit("n", "k").ok());

  grpc::ClientContext update_context;
  wire::UpdateSnapshotRequest update;
  wire::UpdateSnapshotResponse updated;
  update.mutable_info()->set_name("n");
  (*update.mutable_info()->mutable_labels())["l"] = "v";
  update.mutable_update_mask()->add_paths("labels.l");
  ASSERT_TRUE(client_->Update(&update_context, update, &updated).ok());
  EXPECT_EQ(updated.info().labels().at("l"), "v");

  grpc::ClientContext stat_context;
  wire::StatSnapshotRequest stat;
  wire::StatSnapshotResponse info;
  stat.set_key("n");
  ASSERT_TRUE(client_->Stat(&stat_context, stat, &info).ok());
  EXPECT_EQ(info.info().kind(), wire::COMMITTED);
  EXPECT_GT(info.info().created_at().seconds(), 1'700'000'000);

  grpc::ClientContext view_context;
  wire::ViewSnapshotRequest view;
  wire::ViewSnapshotResponse viewed;
  view.set_key("v");
  view.set_parent("n");
  ASSERT_TRUE(client_->View(&view_context, view, &viewed).ok());

  grpc::ClientContext mounts_context;
  wire::MountsRequest mounts;
  wire::MountsResponse mounted;
  mounts.set_key("v");
  ASSERT_TRUE(client_->Mounts(&mounts_context, mounts, &mounted).ok());
  EXPECT_EQ(mounted.mounts(0).source(), viewed.mounts(0).source());

  grpc::ClientContext usage_context;
  wire::UsageRequest usage;
  wire::UsageResponse used;
  usage.set_key("n");
  ASSERT_TRUE(client_->Usage(&usage_context, usage, &used).ok());
  EXPECT_EQ(used.inodes(), 1);

  for (const char* name : {"v", "n"}) {
    grpc::ClientContext context;
    wire::RemoveSnapshotRequest remove;
    google::protobuf::Empty empty;
    remove.set_key(name);
    EXPECT_TRUE(client_->Remove(&context, remove, &empty).ok());
  }
  grpc::ClientContext cleanup_context;
  google::protobuf::Empty empty;
  EXPECT_TRUE(client_->Cleanup(&cleanup_context, {}, &empty).ok());
  EXPECT_EQ(bench_->count(), 0u);
}

TEST_F(ServiceTest, CodesArriveAsContainerdKnowsThem) {
  EXPECT_EQ(Prepare("k", "absent").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Prepare("", "").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  bench_.images().AddImage("app", 1, 1);
  EXPECT_EQ(Prepare("k", "", CriLabels("app", 1)).error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(Commit("n", "absent").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(List({"name="}).error().code, Code::kInvalidArgument);
}

TEST_F(ServiceTest, AbsurdRequestsAreRefusedAndNothingBreaks) {
  EXPECT_EQ(Prepare("k", "", {{"a", std::string(15 << 20, 'x')}}).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Prepare("k", "", {{"a", std::string(17 << 20, 'x')}}).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  // The message names the snapshot, but a header holds only so much.
  EXPECT_EQ(Commit("n", std::string(16 << 10, 'x')).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(Prepare("k", "").ok());
}

TEST_F(ServiceTest, LongListsComeInPieces) {
  const Labels labels = {{"large", std::string(200 << 10, 'x')}};
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(Prepare(fmt::format("k{:03}", i), "", labels).ok());
  const auto infos = List({});
  ASSERT_TRUE(infos.has_value()) << infos.error().message;
  ASSERT_EQ(infos->size(), 100u);
  EXPECT_EQ(infos->at(99).name(), "k099");
  EXPECT_EQ(List({"name==k007", "name==k008"})->size(), 2u);
}

TEST_F(ServiceTest, SixtyFourHungCallsDoNotStopTheRest) {
  bench_.images().AddImage("hung", 1, 1);
  const std::string top = bench_.PullImage("hung", 1);
  bench_.images().Hang("hung", true);
  std::vector<std::thread> threads;
  std::atomic<int> served = 0;
  for (int i = 0; i < 64; ++i) {
    threads.emplace_back([&, i] {
      grpc::ClientContext context;
      wire::PrepareSnapshotRequest request;
      request.set_key(fmt::format("h{}", i));
      request.set_parent(top);
      wire::PrepareSnapshotResponse reply;
      served += client_->Prepare(&context, request, &reply).ok();
    });
  }
  ASSERT_TRUE(Eventually([&] { return bench_.images().hanging() == 64; }, std::chrono::seconds(20)));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(Prepare("k", "").ok());
  EXPECT_EQ(List({})->size(), 2u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  bench_.images().Hang("hung", false);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(served, 64);
}

TEST_F(ServiceTest, TheSocketIsItsOwnersAndReplacesAStaleOne) {
  struct stat status;
  ASSERT_EQ(::stat(socket_.c_str(), &status), 0);
  EXPECT_TRUE(S_ISSOCK(status.st_mode));
  EXPECT_EQ(status.st_mode & 07777, 0600u);
  service_.reset();
  EXPECT_FALSE(std::filesystem::exists(socket_));
  ASSERT_TRUE(WriteFileDurably(socket_, "stale").has_value());
  service_ = Listen();
  ASSERT_NE(service_, nullptr);
  ASSERT_EQ(::stat(socket_.c_str(), &status), 0);
  EXPECT_TRUE(S_ISSOCK(status.st_mode));
  EXPECT_TRUE(List({}).has_value());
  // Nothing else is left where it was made.
  size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(bench_.root() + "/s")) ++entries;
  EXPECT_EQ(entries, 1u);
}

TEST_F(ServiceTest, APathThatIsTooLongIsRefused) {
  const auto service = SnapshotService::Listen(*bench_, "/tmp/" + std::string(120, 'x'));
  ASSERT_FALSE(service.has_value());
  EXPECT_EQ(service.error().code, Code::kInvalidArgument);
}

}  // namespace
}  // namespace banyan::snapshotter
