#include "registry-proxy/artifact_repository.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <utility>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/units.h"

namespace banyan::registry_proxy {
namespace {

class StoreRepository final : public net::Repository {
 public:
  StoreRepository(ContentStore& store, std::string repository) : store_(store), name_(std::move(repository)) {}

  Result<net::RawManifest> GetManifest(const std::string& reference) override {
    return store_.GetManifest(name_, reference);
  }
  Result<Digest> PutManifest(const std::string& reference, std::string_view media_type,
                             std::string_view body) override {
    const bool by_digest = Digest::Parse(reference).has_value();
    return store_.PutManifest(name_, by_digest ? "" : reference, media_type, body);
  }
  Result<std::vector<std::string>> Referrers(const Digest& subject, std::string_view artifact_type) override {
    (void)artifact_type;  // a converter's store holds artifacts alone
    return store_.Referrers(name_, subject);
  }
  Result<bool> HasBlob(const Digest& digest) override {
    if (!store_.HasBlob(digest)) return false;
    BANYAN_TRY(store_.LinkBlob(name_, digest));
    return true;
  }
  Result<std::string> GetBlob(const Digest& digest, uint64_t limit_bytes) override {
    BANYAN_ASSIGN(auto file, store_.OpenBlob(digest));
    if (file.bytes > limit_bytes) return Fail(Code::kResourceExhausted, "blob beyond the limit");
    std::string bytes(file.bytes, '\0');
    BANYAN_TRY(PreadFull(file.fd.get(), std::as_writable_bytes(std::span(bytes)), 0, name_));
    if (Digest::Of(bytes) != digest) return Fail(Code::kDataLoss, fmt::format("{} is damaged", digest.ToString()));
    return bytes;
  }
  Result<std::unique_ptr<ByteSource>> OpenBlob(const Digest& digest) override {
    BANYAN_ASSIGN(auto file, store_.OpenBlob(digest));
    return std::make_unique<FdSource>(std::move(file.fd), digest.ToString());
  }
  // Copied, not moved: the file is the caller's. Checked on the way.
  Status PutBlobFile(const Digest& digest, const std::string& path) override {
    BANYAN_ASSIGN(const bool known, HasBlob(digest));
    if (known) return {};
    const std::string copy = store_.NewPath();
    Status status = CopyChecked(digest, path, copy);
    if (status) status = store_.TakeFile(digest, copy);
    ::unlink(copy.c_str());
    BANYAN_TRY(status);
    return store_.LinkBlob(name_, digest);
  }
  Status PutBlob(const Digest& digest, std::string_view bytes) override {
    BANYAN_TRY(store_.PutBlob(digest, bytes));
    return store_.LinkBlob(name_, digest);
  }
  uint64_t FetchRange(const Digest&, ByteRange, std::string_view, OnData, OnDone on_done) override {
    on_done(Fail(Code::kUnimplemented, "no ranges from the content store"));
    return 0;
  }
  void CancelRange(uint64_t) override {}
  const std::string& name() const override { return name_; }

 private:
  static Status CopyChecked(const Digest& digest, const std::string& from, const std::string& to) {
    BANYAN_ASSIGN(UniqueFd in, OpenFile(from, O_RDONLY));
    BANYAN_ASSIGN(const UniqueFd out, OpenFile(to, O_WRONLY | O_CREAT | O_EXCL, 0600));
    FdSource source(std::move(in), from);
    std::vector<std::byte> buffer(256 * kKiB);
    Sha256 hash;
    while (true) {
      BANYAN_ASSIGN(const size_t count, source.Read(buffer));
      if (count == 0) break;
      hash.Update(std::span(buffer).first(count));
      BANYAN_TRY(WriteFull(out.get(), std::span(buffer).first(count), to));
    }
    if (hash.Finish() == digest) return {};
    return Fail(Code::kDataLoss, fmt::format("{}: its bytes are not {}'s", from, digest.ToString()));
  }

  ContentStore& store_;
  const std::string name_;
};

}  // namespace

std::unique_ptr<net::Repository> OpenStoreRepository(ContentStore& store, const std::string& repository) {
  return std::make_unique<StoreRepository>(store, repository);
}

}  // namespace banyan::registry_proxy
