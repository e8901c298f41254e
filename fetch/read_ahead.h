// Guesses which chunks a layer's readers want next, from what they read.
//
// A stream is a run of chunks read strictly forward. From its third chunk on it is given chunks ahead of it, at most
// half of what it has read and at most a fixed number of bytes. So all streams together never make the node fetch more
// than one and a half times what is read, whatever the access pattern; a jump begins a new stream, and the old one gets
// nothing more. Several streams are followed at once, since readers interleave. Where somebody knows what is read next
// (a profile), nothing is guessed. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "common/units.h"
#include "image-format/chunk_table.h"

namespace banyan::fetch {

// Externally synchronised.
class ReadAhead {
 public:
  // max_bytes: of the device. 0: never anything.
  explicit ReadAhead(uint64_t max_bytes) : max_bytes_(max_bytes) {}

  // Whoever knows has asked for the chunk ahead of its readers: a read of it is no reason to fetch others.
  void Expect(ChunkIndex chunk);

  // A reader asks for `chunks` (not empty). Returns what to fetch ahead, often nothing; never the same chunk twice for
  // one stream.
  ChunkRange OnRead(const image_format::ChunkTable& table, ChunkRange chunks);

 private:
  struct Stream {
    ChunkIndex begin = 0;
    ChunkIndex next = 0;   // behind the last chunk read
    ChunkIndex ahead = 0;  // behind the last chunk fetched ahead
    uint64_t read_bytes = 0;
    uint32_t read_chunks = 0;
    uint64_t used = 0;  // for replacing the one unused for longest
  };

  Stream& StreamOf(ChunkRange chunks);
  bool IsExpected(ChunkRange chunks) const;

  uint64_t max_bytes_;
  uint64_t uses_ = 0;
  std::vector<Stream> streams_;
  std::vector<bool> expected_;  // as far as the last chunk that is
};

}  // namespace banyan::fetch
