#include "cli/command.h"

#include <gtest/gtest.h>

namespace banyan::cli {
namespace {

TEST(CommandTest, ErrorsSayWhatToDo) {
  EXPECT_EQ(ErrorLine("convert docker://h/a:1", {Code::kUnauthenticated, "h refused"}),
            "banyan: convert docker://h/a:1: h refused: log in first (skopeo login, docker login) or name a file with "
            "--creds-file");
  EXPECT_EQ(ErrorLine("inspect x", {Code::kInvalidArgument, "bad reference"}), "banyan: inspect x: bad reference");
  EXPECT_EQ(ExitCodeOf(Code::kNotFound), kExitNotFound);
  EXPECT_EQ(ExitCodeOf(Code::kDataLoss), kExitBadData);
}

}  // namespace
}  // namespace banyan::cli
