// Repository over the OCI distribution protocol. See repository.h for the contract; registry_session.h for what lies
// below.
//
// TLS: https, with the system's CAs or options.ca_file. Plain HTTP only with options.plain_http, or, for a loopback
// host without ca_file, when it answers the TLS handshake with something else (logged).
#pragma once

#include <memory>

#include "common/result.h"
#include "net/repository.h"

namespace banyan::net {

Result<std::unique_ptr<Repository>> OpenRegistryRepository(const ImageReference& reference,
                                                           const RepositoryOptions& options);

}  // namespace banyan::net
