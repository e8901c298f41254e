// A device server to be killed: serves device files slowly, takes over from its predecessor, stops on SIGTERM.
//
//   slow_server PID_FILE MOUNT_DIR DELAY_US FILE…     (the keeper's socket is in $BANYAN_KEEPER_SOCKET)
//   slow_server --sum FILE                            prints a digest, read through a mapping
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/digest.h"
#include "common/log.h"
#include "lazyfs/device_server.h"
#include "lazyfs/testing/fake_layer.h"
#include "lazyfs/testing/sandbox.h"

namespace {

using namespace banyan;  // NOLINT: a test program's main

int Sum(const char* path) {
  const UniqueFd fd(open(path, O_RDONLY));
  struct stat status {};
  if (!fd || fstat(fd.get(), &status) != 0) return 1;
  const auto bytes = static_cast<size_t>(status.st_size);
  void* base = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (base == MAP_FAILED) return 1;
  std::puts(Digest::Of(std::span(static_cast<const std::byte*>(base), bytes)).Hex().c_str());
  return 0;
}

int Serve(int argc, char** argv) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  InitLogging("slow_server", spdlog::level::info);
  auto keeper = lazyfs::KeeperClient::Connect(std::getenv(lazyfs::KeeperClient::kSocketVariable));
  if (!keeper) {
    spdlog::error("{}", keeper.error().message);
    return 1;
  }
  lazyfs::DeviceServer::Options options;
  options.mount_dir = argv[2];
  options.keeper = keeper->get();
  auto server = lazyfs::DeviceServer::Start(options);
  if (!server) {
    spdlog::error("{}", server.error().message);
    return 1;
  }
  for (int i = 4; i < argc; ++i) {
    lazyfs::testing::FakeLayer::Options layer_options;
    layer_options.delay = std::chrono::microseconds(std::atol(argv[3]));
    auto layer = lazyfs::testing::FakeLayer::OfFile(argv[i], layer_options);
    if (!layer) return 1;
    const auto number = static_cast<uint64_t>(i - 4);
    if (!(*server)->AddDevice(2 + number, "dev" + std::to_string(number), *layer)) return 1;
  }
  (*server)->RestoreDone();
  const lazyfs::FuseSessionCounters counters = (*server)->counters();
  spdlog::info("serving, taken over {}, recovered {}", (*server)->taken_over(), counters.recovered);
  lazyfs::testing::WriteFileOrDie(std::string(argv[1]) + ".new", std::to_string(getpid()));
  std::rename((std::string(argv[1]) + ".new").c_str(), argv[1]);
  int number = 0;
  sigwait(&signals, &number);
  const lazyfs::FuseSessionCounters all = (*server)->counters();
  spdlog::info("{} requests, {} reads of {} bytes, {} spliced", all.requests, all.reads, all.bytes, all.spliced_bytes);
  return (*server)->Stop() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--sum") return Sum(argv[2]);
  if (argc < 5) return 2;
  return Serve(argc, argv);
}
