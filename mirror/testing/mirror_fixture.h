// The mirror over a store on disk, before a registry that misbehaves, asked over HTTP as clients do.
#pragma once

#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include "common/file_io.h"
#include "mirror/mirror.h"
#include "mirror/testing/raw_client.h"
#include "net/testing/fake_registry.h"
#include "store/limited_disk.h"

namespace banyan::mirror::testing {

using net::testing::FakeRegistry;
using net::testing::FakeRegistryOptions;

inline std::string RandomText(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text(size, '\0');
  for (size_t i = 0; i + 8 <= size; i += 8) {
    const uint64_t word = random();
    std::memcpy(text.data() + i, &word, 8);
  }
  return text;
}

class MirrorTest : public ::testing::Test {
 protected:
  void Start(FakeRegistryOptions registry = {}, uint64_t budget = kGiB) {
    registry_ = FakeRegistry::Start(registry).value();
    StartMirror(budget);
  }
  void StartMirror(uint64_t budget = kGiB) {
    store::NodeStore::Options store;
    store.root = dir_.path() + "/store";
    store.budget_bytes = budget;
    store.disk = disk_;
    store_ = store::NodeStore::Open(store).value();
    if (options_.upstreams.empty()) {
      UpstreamOptions upstream;
      upstream.name = "up.example";
      upstream.endpoints = {{.host = registry_->host(), .plain_http = true}};
      upstream.stall_timeout = stall_timeout_;
      options_.upstreams = {upstream};
      options_.default_upstream = "up.example";
    }
    mirror_ = Mirror::Create(options_, *store_, hooks_).value();
    server_ = net::HttpServer::Start({}, [this](net::HttpRequest request, std::shared_ptr<net::HttpReply> reply) {
                mirror_->Handle(std::move(request), std::move(reply));
              }).value();
  }
  void StopMirror() {
    if (server_) server_->Stop();
    mirror_.reset();
    server_.reset();
    store_.reset();
  }
  void TearDown() override { StopMirror(); }

  Answer Get(const std::string& path, const std::string& headers = "") {
    return Ask(server_->port(), "GET", path, headers);
  }
  Answer Head(const std::string& path) { return Ask(server_->port(), "HEAD", path, ""); }
  static std::string BlobPath(const Digest& digest) { return "/v2/app/blobs/" + digest.ToString(); }
  size_t Count(std::string_view method, std::string_view in_target) const {
    size_t count = 0;
    for (const auto& request : registry_->requests()) {
      if (request.method == method && request.target.find(in_target) != std::string::npos) ++count;
    }
    return count;
  }
  static bool Await(const std::function<bool()>& holds) {
    for (int i = 0; i < 1000; ++i) {
      if (holds()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  // Until the blob is whole in the store.
  bool AwaitStored(const Digest& digest) {
    return Await([&] { return store_->BlobBytes(digest).has_value(); });
  }

  TempDir dir_ = TempDir::Make("banyan-mirror").value();
  std::shared_ptr<store::Disk> disk_;
  MirrorOptions options_;
  std::chrono::milliseconds stall_timeout_{1500};
  Hooks hooks_;
  std::unique_ptr<FakeRegistry> registry_;
  std::unique_ptr<store::NodeStore> store_;
  std::unique_ptr<Mirror> mirror_;
  std::unique_ptr<net::HttpServer> server_;
};

}  // namespace banyan::mirror::testing
