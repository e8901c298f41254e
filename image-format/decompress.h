// The bytes of a layer's tar, whatever the layer is compressed with.
//
// gzip (RFC 1952): any number of members, every optional header field, CRC-32 and length of each member checked. Zero
// bytes behind the last member are accepted, as gunzip does (blobs padded to a block); anything else there is refused,
// as Go's reader does. zstd (RFC 8878): any number of frames, skippable ones too; windows up to 128 MiB. Everything
// else is plain.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "common/byte_stream.h"
#include "common/result.h"

namespace banyan::image_format {

enum class Compression { kNone, kGzip, kZstd };

std::string_view CompressionName(Compression compression);

// Externally synchronised. Read() returns 0 only when `compressed` has been read to its end and all of it made sense;
// a stream that ends too early or does not decode is kDataLoss.
class Decompressor : public ByteSource {
 public:
  // Reads the first bytes of `compressed`, which must outlive the result, to see what it is.
  static Result<std::unique_ptr<Decompressor>> Open(ByteSource& compressed);

  virtual Compression compression() const = 0;
};

}  // namespace banyan::image_format
