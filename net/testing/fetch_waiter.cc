#include "net/testing/fetch_waiter.h"

#include <future>
#include <memory>

namespace banyan::net::testing {

Result<std::string> FetchAndWait(Repository& repository, const Digest& digest, ByteRange range) {
  struct State {
    std::string bytes;
    std::promise<Status> done;
  };
  const auto state = std::make_shared<State>();  // shared with callbacks that may outlive a failed test
  repository.FetchRange(
      digest, range, {},
      [state](std::span<const std::byte> data) {
        state->bytes.append(reinterpret_cast<const char*>(data.data()), data.size());
      },
      [state](Status status) { state->done.set_value(std::move(status)); });
  BANYAN_TRY(state->done.get_future().get());
  if (state->bytes.size() != range.size()) return Fail(Code::kInternal, "success with the wrong number of bytes");
  return std::move(state->bytes);
}

}  // namespace banyan::net::testing
