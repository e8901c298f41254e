#include "convert/blob_stream.h"

#include <fcntl.h>
#include <unistd.h>

#include <vector>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/units.h"

namespace banyan::convert {

Result<size_t> BlobStream::Read(std::span<std::byte> buffer) {
  if (stop_.stop_requested()) return Fail(Code::kCancelled, "interrupted");
  BANYAN_ASSIGN(const size_t bytes, source_->Read(buffer));
  if (bytes == 0 && position_ != expected_bytes_) {
    return Fail(Code::kDataLoss, fmt::format("{}: ends after {} of the {} bytes that its manifest gives", name_,
                                             position_, expected_bytes_));
  }
  position_ += bytes;
  if (position_ > expected_bytes_) {
    return Fail(Code::kDataLoss,
                fmt::format("{}: is longer than the {} bytes that its manifest gives", name_, expected_bytes_));
  }
  hash_.Update(buffer.first(bytes));
  if (copy_ != nullptr && bytes > 0) BANYAN_TRY(copy_->Write(buffer.first(bytes)));
  return bytes;
}

Status BlobStream::CheckToEnd(const Digest& expected) {
  std::vector<std::byte> buffer(256 * kKiB);
  while (true) {
    BANYAN_ASSIGN(const size_t bytes, Read(buffer));
    if (bytes == 0) break;
  }
  const Digest actual = hash_.Finish();
  if (actual == expected) return {};
  return Fail(Code::kDataLoss,
              fmt::format("{}: its bytes have digest {}, not {}", name_, actual.ToString(), expected.ToString()));
}

Result<std::unique_ptr<BlobStream>> OpenDescribedBlob(net::Repository& repository, const image_format::Descriptor& blob,
                                                      const std::string& what, std::stop_token stop, ByteSink* copy) {
  BANYAN_ASSIGN(auto source, repository.OpenBlob(blob.digest));
  const std::string name = fmt::format("{} ({} in {})", what, blob.digest.ToString(), repository.name());
  return std::make_unique<BlobStream>(std::move(source), name, blob.size, std::move(stop), copy);
}

Status CopyBlob(net::Repository& from, net::Repository& to, const image_format::Descriptor& blob,
                const std::string& what, const std::string& spool_path, std::stop_token stop) {
  BANYAN_ASSIGN(const bool present, to.HasBlob(blob.digest));
  if (present) return {};
  BANYAN_ASSIGN(const UniqueFd file, OpenFile(spool_path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  FdSink sink(file.get(), spool_path);
  BANYAN_ASSIGN(const auto stream, OpenDescribedBlob(from, blob, what, std::move(stop), &sink));
  BANYAN_TRY(stream->CheckToEnd(blob.digest));
  const Status put = to.PutBlobFile(blob.digest, spool_path);
  ::unlink(spool_path.c_str());
  return put;
}

}  // namespace banyan::convert
