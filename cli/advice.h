// What the user can do about an error: that depends on its code and on who was asked.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"

namespace grpc {
class ClientContext;
class Status;
}  // namespace grpc

namespace banyan::cli {

enum class Asked {
  kNobody,    // the files of this machine
  kRegistry,  // whoever it was asked by: this process, the agent, containerd
  kAgent,
  kContainerd,
  kTreeManager,
  kProxy,  // its status service
};

// Of an image's reference: oci:directory:tag asks nobody.
Asked AskedFor(const std::string& reference);

// Half a sentence without a full stop; empty where nothing helps but the error's own message.
std::string_view AdviceFor(Code code, Asked asked);

// The error of a call that has failed because nobody answered it (nobody there, the connection broke, the deadline
// passed); nullopt when `status` is the other side's answer. `whom`: "the agent at /run/x.sock".
std::optional<Error> Silence(const grpc::ClientContext& context, const grpc::Status& status, std::string_view whom);

}  // namespace banyan::cli
