#include "cli/progress.h"

#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace banyan::cli {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(RenderBarTest, ShowsShareRateAndTimeLeft) {
  const std::string bar =
      RenderBar({"layer 1/2 0123abcd", "converting", 25'000'000, 100'000'000, milliseconds(1000)}, 120);
  EXPECT_THAT(bar, HasSubstr("[======>                 ]"));
  EXPECT_THAT(bar, HasSubstr("25.0 MB / 100 MB  25.0 MB/s  ETA 3.0 s"));
}

TEST(RenderBarTest, NeverPromisesWhatItCannotKnow) {
  EXPECT_THAT(RenderBar({"x", "p", 5000, 0, milliseconds(900)}, 120), Not(HasSubstr("ETA")));
  EXPECT_THAT(RenderBar({"x", "p", 0, 100, milliseconds(900)}, 120), Not(HasSubstr("/s")));
  EXPECT_THAT(RenderBar({"x", "p", 200, 100, milliseconds(900)}, 120), HasSubstr("100 B / 100 B"));
}

TEST(RenderBarTest, StaysWithinTheTerminal) {
  EXPECT_EQ(RenderBar({"x", "p", 50, 100, milliseconds(900)}, 20).size(), 20u);
}

TEST(ProgressTest, LinesModeWritesOneLineATask) {
  std::string out;
  {
    Progress progress(Progress::Mode::kLines, [&](std::string_view text) { out += text; });
    auto task = progress.Start("layer 1/1", "converting", 10);
    task->Advance(10);
    progress.Note("a note");
    progress.Finish(task, "done");
  }
  EXPECT_EQ(out, "a note\nlayer 1/1: done\n");
}

TEST(ProgressTest, SilentModeWritesNothing) {
  std::string out;
  {
    Progress progress(Progress::Mode::kSilent, [&](std::string_view text) { out += text; });
    progress.Finish(progress.Start("layer 1/1", "converting", 10), "done");
    progress.Note("a note");
  }
  EXPECT_EQ(out, "");
}

TEST(ProgressTest, BarsAreTakenOffTheScreenAtTheEnd) {
  std::string out;
  {
    Progress progress(Progress::Mode::kBars, [&](std::string_view text) { out += text; });
    auto a = progress.Start("a", "converting", 10);
    auto b = progress.Start("b", "converting", 10);
    std::thread worker([&] { a->Advance(5); });
    worker.join();
    progress.Finish(a, "done");
    std::this_thread::sleep_for(milliseconds(250));
  }
  EXPECT_THAT(out, HasSubstr("a: done\n"));
  EXPECT_THAT(out, HasSubstr("b                   converting"));
  EXPECT_TRUE(out.ends_with("\x1b[1A\r\x1b[J")) << out;
}

}  // namespace
}  // namespace banyan::cli
