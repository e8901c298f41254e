#include "lazyfs/systemd_keeper.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>

namespace banyan::lazyfs {
namespace {

// What the service manager does with the messages: keeps descriptors by name, several under one name too.
class FakeManager {
 public:
  SystemdKeeper::Notify notify() {
    return [this](const std::string& message, int fd) -> Status {
      const std::string name = message.substr(message.find("FDNAME=") + 7);
      if (message.starts_with("FDSTOREREMOVE=1")) {
        stored_.erase(name);
      } else {
        EXPECT_TRUE(message.starts_with("FDSTORE=1\n"));
        EXPECT_EQ(name.find(':'), std::string::npos);
        stored_.emplace(name, UniqueFd(::dup(fd)));
      }
      return {};
    };
  }
  // For the next process of the service.
  SystemdKeeper::NamedFds Pass() const {
    SystemdKeeper::NamedFds fds;
    for (const auto& [name, fd] : stored_) fds.emplace_back(name, UniqueFd(::dup(fd.get())));
    return fds;
  }
  size_t size() const { return stored_.size(); }

 private:
  std::multimap<std::string, UniqueFd> stored_;
};

ino_t InodeOf(int fd) {
  struct stat status {};
  EXPECT_EQ(::fstat(fd, &status), 0);
  return status.st_ino;
}

TEST(SystemdKeeperTest, SessionsOutliveTheProcess) {
  FakeManager manager;
  const UniqueFd fuse(::memfd_create("fuse", MFD_CLOEXEC));
  const UniqueFd journal(::memfd_create("journal", MFD_CLOEXEC));
  const std::string name = "tree:/var/lib/a b";
  {
    SystemdKeeper keeper({}, manager.notify());
    EXPECT_EQ(keeper.Get(name).error().code, Code::kNotFound);
    ASSERT_TRUE(keeper.Put(name, fuse.get(), journal.get()));
    ASSERT_TRUE(keeper.Put(name, fuse.get(), journal.get()));
    EXPECT_EQ(manager.size(), 2U) << "the second replaces the first";
    EXPECT_EQ(keeper.sessions(), 1U);
  }
  SystemdKeeper keeper(manager.Pass(), manager.notify());
  EXPECT_EQ(keeper.sessions(), 1U);
  const auto session = keeper.Get(name);
  ASSERT_TRUE(session) << session.error().message;
  EXPECT_EQ(InodeOf(session->fuse.get()), InodeOf(fuse.get()));
  EXPECT_EQ(InodeOf(session->journal.get()), InodeOf(journal.get()));
  ASSERT_TRUE(keeper.Drop(name));
  ASSERT_TRUE(keeper.Drop(name));
  EXPECT_EQ(manager.size(), 0U);
  EXPECT_EQ(keeper.sessions(), 0U);
  EXPECT_EQ(keeper.Get(name).error().code, Code::kNotFound);
}

TEST(SystemdKeeperTest, NamesThatDoNotFitAreRefused) {
  FakeManager manager;
  SystemdKeeper keeper({}, manager.notify());
  EXPECT_EQ(keeper.Put("", 0, 0).error().code, Code::kInvalidArgument);
  EXPECT_EQ(keeper.Put(std::string(127, ':'), 0, 0).error().code, Code::kInvalidArgument);
  EXPECT_EQ(manager.size(), 0U);
}

}  // namespace
}  // namespace banyan::lazyfs
