// A repository of the content store as a net::Repository: where conversions put their results.
#pragma once

#include <memory>
#include <string>

#include "net/repository.h"
#include "registry-proxy/content_store.h"

namespace banyan::registry_proxy {

// Borrows the store. FetchRange() is not offered (kUnimplemented): nobody reads chunks through it.
std::unique_ptr<net::Repository> OpenStoreRepository(ContentStore& store, const std::string& repository);

}  // namespace banyan::registry_proxy
