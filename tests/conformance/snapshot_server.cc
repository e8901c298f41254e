// The snapshotter alone, as containerd's test suite wants it: no image is ever served lazily.
//
//   snapshot_server ROOT SOCKET      prints "ready" when it listens; ends when its standard input does
#include <cstdio>
#include <cstdlib>

#include "common/log.h"
#include "snapshotter/service.h"
#include "snapshotter/snapshotter.h"

namespace {

using banyan::Code;
using banyan::Fail;
using banyan::snapshotter::LazyChain;

class NoLazyImages final : public banyan::snapshotter::LazyImages {
 public:
  std::optional<LazyChain> Find(const banyan::snapshotter::LayerRequest& /*request*/) override { return std::nullopt; }
  void Warm(const LazyChain& /*chain*/, const std::string& /*directory*/) override {}
  banyan::Result<std::vector<std::string>> Mount(const LazyChain& /*chain*/,
                                                 const std::string& /*directory*/) override {
    return Fail(Code::kUnimplemented, "no lazy images here");
  }
  banyan::Status Unmount(const std::string& /*directory*/) override { return {}; }
  banyan::snapshotter::Usage UsageOf(const LazyChain& /*chain*/) override { return {}; }
};

template <typename T>
T OrExit(banyan::Result<T> result) {
  if (result) return std::move(*result);
  std::fprintf(stderr, "%s\n", result.error().message.c_str());
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: snapshot_server ROOT SOCKET\n");
    return 2;
  }
  banyan::InitLogging("snapshot_server", spdlog::level::warn);

  NoLazyImages images;
  const auto snapshotter = OrExit(banyan::snapshotter::Snapshotter::Open({.root = argv[1], .images = &images}));
  const auto service = OrExit(banyan::snapshotter::SnapshotService::Listen(*snapshotter, argv[2]));
  std::puts("ready");
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  return 0;
}
