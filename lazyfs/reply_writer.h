// Writes answers to /dev/fuse: small ones in one writev(2), file ranges by splice(2) through a pipe, so that a byte of
// a cached device file is copied only once, by the kernel.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/mutex.h"
#include "common/unique_fd.h"
#include "fetch/lazy_layer.h"

namespace banyan::lazyfs {

// Internally synchronised. All calls return 0 or an errno value; ENOENT means that the kernel no longer waits for the
// answer.
class ReplyWriter {
 public:
  // `fuse_fd` must outlive the writer.
  explicit ReplyWriter(int fuse_fd) : fuse_fd_(fuse_fd) {}

  int Error(uint64_t unique, int error_number);
  int Bytes(uint64_t unique, std::span<const std::byte> body);
  // EIO when the file gives fewer bytes than the view promises; nothing has been answered then. *spliced tells how it
  // went.
  int View(uint64_t unique, const fetch::ReadView& view, bool* spliced);

 private:
  struct Pipe {
    UniqueFd read_end;
    UniqueFd write_end;
    size_t capacity_bytes = 0;
  };

  int Splice(uint64_t unique, const fetch::ReadView& view, Pipe& pipe);
  int Copy(uint64_t unique, const fetch::ReadView& view);
  Pipe TakePipe();
  void PutBack(Pipe pipe);

  const int fuse_fd_;
  Mutex mutex_;
  std::vector<Pipe> idle_ BANYAN_GUARDED_BY(mutex_);
};

}  // namespace banyan::lazyfs
