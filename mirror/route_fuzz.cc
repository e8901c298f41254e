// Request targets of the mirror.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "mirror/route.h"
#include "net/reference.h"

namespace {

void Require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  using banyan::mirror::Route;
  const std::string target(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto route = banyan::mirror::ParseRoute(target, data[0] % 2 == 0);
  if (!route) {
    Require(route.error().status == 400 || route.error().status == 404);
    Require(!route.error().code.empty());
    return 0;
  }
  (void)route->Parameter("ns");
  (void)route->Parameter("artifactType");
  if (route->kind == Route::Kind::kBase) return 0;
  Require(banyan::net::IsValidRepositoryName(route->repository));
  Require(route->host.empty() || banyan::mirror::IsValidHost(route->host));
  Require(route->reference.find('/') == std::string::npos);
  if (route->kind == Route::Kind::kBlob || route->kind == Route::Kind::kReferrers) Require(route->digest.has_value());
  if (route->kind == Route::Kind::kManifest) Require(route->digest || banyan::net::IsValidTag(route->reference));
  // Written out again, it is the same.
  if (route->kind != Route::Kind::kManifest) return 0;
  const std::string again =
      "/v2/" + (route->host.empty() ? "" : route->host + "/") + route->repository + "/manifests/" + route->reference;
  const auto second = banyan::mirror::ParseRoute(again, data[0] % 2 == 0);
  Require(second && second->repository == route->repository && second->host == route->host);
  return 0;
}
