#include "peer-agent/preheats.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace banyan::peer_agent {
namespace {

class Reports {
 public:
  Preheats::Send Send() {
    return [this](proto::tree::PreheatReport report) {
      const std::lock_guard lock(mutex_);
      reports_.push_back(std::move(report));
      changed_.notify_all();
    };
  }
  // The first report that has ended, of so many.
  proto::tree::PreheatReport WaitForEnd(size_t nth = 1) {
    std::unique_lock lock(mutex_);
    proto::tree::PreheatReport end;
    changed_.wait(lock, [&] {
      size_t seen = 0;
      for (const auto& report : reports_) {
        if (report.ended() && ++seen == nth) {
          end = report;
          return true;
        }
      }
      return false;
    });
    return end;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<proto::tree::PreheatReport> reports_;
};

proto::tree::PreheatCommand Command(uint64_t id, const std::string& reference) {
  proto::tree::PreheatCommand command;
  command.set_id(id);
  command.set_reference(reference);
  return command;
}

TEST(PreheatsTest, BringsReportsAndDoesNotBeginTwice) {
  std::atomic<int> begun = 0;
  Reports reports;
  Preheats preheats([&](const proto::tree::PreheatCommand&, const Preheats::OnProgress& progress) -> Status {
    ++begun;
    progress(10, 100);
    progress(100, 100);
    return {};
  });
  preheats.Take(Command(1, "a"), reports.Send());
  preheats.Take(Command(1, "a"), reports.Send());
  const auto end = reports.WaitForEnd();
  EXPECT_EQ(end.present_bytes(), 100U);
  EXPECT_TRUE(end.error().empty());
  preheats.Take(Command(1, "a"), reports.Send());
  EXPECT_EQ(reports.WaitForEnd(2).present_bytes(), 100U);
  EXPECT_EQ(begun, 1);
  preheats.Take(Command(1, "another manager's"), reports.Send());
  reports.WaitForEnd(3);
  EXPECT_EQ(begun, 2);
}

TEST(PreheatsTest, FailuresAreTold) {
  Reports reports;
  Preheats preheats([](const proto::tree::PreheatCommand&, const Preheats::OnProgress&) -> Status {
    return Fail(Code::kNotFound, "no such image");
  });
  preheats.Take(Command(1, "a"), reports.Send());
  EXPECT_EQ(reports.WaitForEnd().error(), "no such image");
}

TEST(PreheatsTest, AnEndBreaksOff) {
  Reports reports;
  std::atomic<bool> began = false;
  {
    Preheats preheats([&](const proto::tree::PreheatCommand&, const Preheats::OnProgress& progress) -> Status {
      began = true;
      while (progress(1, 2)) std::this_thread::yield();
      return Fail(Code::kCancelled, "broken off");
    });
    preheats.Take(Command(1, "a"), reports.Send());
    while (!began) std::this_thread::yield();
  }
  SUCCEED();
}

}  // namespace
}  // namespace banyan::peer_agent
