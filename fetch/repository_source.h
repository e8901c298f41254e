// Chunks out of a registry (or an OCI layout on disk): a chunk is a byte range of the layer's data blob.
//
// One range request serves adjacent chunks; the answer is cut at the chunks' borders and each chunk is handed on as
// soon as its last byte is here. Bytes are not checked (see verifying_source.h). When the transfer fails, the chunks
// that had not arrived get its error, whose message names layer, chunk and repository.
#pragma once

#include <memory>
#include <string_view>

#include "fetch/chunk_source.h"
#include "fetch/timer.h"
#include "net/repository.h"

namespace banyan::fetch {

// Internally synchronised.
class RepositorySource final : public ChunkSource {
 public:
  // `name` must be static storage. With a timer (which must outlive the source) a transfer is cancelled when its
  // request's deadline passes, and ends with kDeadlineExceeded; without, only the repository's own stall timeout bounds
  // it.
  explicit RepositorySource(std::shared_ptr<net::Repository> repository, Timer* timer = nullptr,
                            std::string_view name = "registry");
  // Cancels and answers what is outstanding. Must not run on one of the repository's threads.
  ~RepositorySource() override;

  void Fetch(ChunkRequest request, OnChunk on_chunk) override;
  std::string_view name() const override { return name_; }

 private:
  struct Transfer;
  struct State;

  void SetAlarm(const std::shared_ptr<Transfer>& transfer);

  const std::shared_ptr<net::Repository> repository_;
  Timer* const timer_;
  const std::string_view name_;
  const std::shared_ptr<State> state_;  // shared with callbacks
};

}  // namespace banyan::fetch
