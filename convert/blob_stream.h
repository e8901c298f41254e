// Streams of blobs as a manifest describes them, and copies between repositories.
#pragma once

#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "common/byte_stream.h"
#include "common/digest.h"
#include "common/result.h"
#include "image-format/oci.h"
#include "net/repository.h"

namespace banyan::convert {

// Passes a blob on, as long as it is as long as its descriptor says (kDataLoss otherwise, as soon as that is plain) and
// the command is not stopped (kCancelled). A sink, if there is one, gets everything that was read. Hashes all of it.
// Externally synchronised; borrows the sink.
class BlobStream final : public ByteSource {
 public:
  BlobStream(std::unique_ptr<ByteSource> source, std::string name, uint64_t expected_bytes, std::stop_token stop,
             ByteSink* copy = nullptr)
      : source_(std::move(source)),
        name_(std::move(name)),
        expected_bytes_(expected_bytes),
        stop_(std::move(stop)),
        copy_(copy) {}

  Result<size_t> Read(std::span<std::byte> buffer) override;
  // Reads what is left, then compares the digest of everything with `expected`: kDataLoss that names both.
  Status CheckToEnd(const Digest& expected);
  uint64_t position() const { return position_; }

 private:
  std::unique_ptr<ByteSource> source_;
  const std::string name_;
  const uint64_t expected_bytes_;
  const std::stop_token stop_;
  ByteSink* const copy_;
  Sha256 hash_;
  uint64_t position_ = 0;
};

// OpenBlob as a BlobStream; `what` ("layer 2/7") is for messages.
Result<std::unique_ptr<BlobStream>> OpenDescribedBlob(net::Repository& repository, const image_format::Descriptor& blob,
                                                      const std::string& what, std::stop_token stop,
                                                      ByteSink* copy = nullptr);

// Copies a blob by way of the file `spool_path`, which is removed again; nothing if `to` has it.
Status CopyBlob(net::Repository& from, net::Repository& to, const image_format::Descriptor& blob,
                const std::string& what, const std::string& spool_path, std::stop_token stop);

}  // namespace banyan::convert
