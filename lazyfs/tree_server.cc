#include "lazyfs/tree_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "common/file_io.h"
#include "common/units.h"
#include "image-format/erofs_reader.h"
#include "lazyfs/fuse_body.h"

namespace banyan::lazyfs {
namespace {

using image_format::ErofsReader;
using Nid = ErofsReader::Nid;

// An image never changes.
constexpr uint64_t kValidSeconds = 365ULL * 24 * 3600;

class Mapping {
 public:
  static Result<Mapping> Of(const std::string& path) {
    BANYAN_ASSIGN(const UniqueFd file, OpenFile(path, O_RDONLY));
    struct stat status {};
    if (fstat(file.get(), &status) != 0) return FailErrno(path, errno);
    const auto bytes = static_cast<size_t>(status.st_size);
    if (bytes == 0) return Fail(Code::kDataLoss, path + " is empty");
    void* base = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file.get(), 0);
    if (base == MAP_FAILED) return FailErrno("mapping " + path, errno);
    return Mapping({static_cast<const std::byte*>(base), bytes});
  }
  ~Mapping() {
    if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
  Mapping(Mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  Mapping& operator=(Mapping&&) = delete;
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  explicit Mapping(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::span<const std::byte> bytes_;
};

class LocalLayer final : public fetch::LazyLayer {
 public:
  LocalLayer(UniqueFd file, uint64_t size_bytes) : file_(std::move(file)), size_bytes_(size_bytes) {}
  uint64_t size_bytes() const override { return size_bytes_; }
  fetch::ReadId Read(ByteRange range, fetch::OnRead done) override {
    fetch::ReadView view;
    view.fd = file_.get();
    view.offset = range.begin;
    view.length = range.size();
    done(std::move(view));
    return 0;
  }
  void CancelAll() override {}

 private:
  const UniqueFd file_;
  const uint64_t size_bytes_;
};

int ReplyErrno(const Error& error) { return error.code == Code::kNotFound ? ENOENT : EIO; }

// Collects directory entries of one answer, up to the size that was asked for.
class DirectoryReply {
 public:
  DirectoryReply(uint32_t size, bool plus) : limit_(std::min(size, kMaxReadBytes)), plus_(plus) {}

  // False: full.
  bool Add(const ErofsReader::DirectoryEntry& entry, uint64_t next, const fuse_entry_out& attributes) {
    const size_t prefix = plus_ ? sizeof(fuse_entry_out) : 0;
    const size_t bytes = FUSE_DIRENT_ALIGN(prefix + FUSE_NAME_OFFSET + entry.name.size());
    const size_t begin = out_.size();
    if (begin + bytes > limit_) return false;
    out_.resize(begin + bytes);
    fuse_dirent header{};
    header.ino = attributes.attr.ino;
    header.off = next;
    header.namelen = static_cast<uint32_t>(entry.name.size());
    header.type = entry.type;
    if (plus_) std::memcpy(out_.data() + begin, &attributes, prefix);
    std::memcpy(out_.data() + begin + prefix, &header, FUSE_NAME_OFFSET);
    std::memcpy(out_.data() + begin + prefix + FUSE_NAME_OFFSET, entry.name.data(), entry.name.size());
    return true;
  }
  std::span<const std::byte> bytes() const { return out_; }

 private:
  const size_t limit_;
  const bool plus_;
  std::vector<std::byte> out_;
};

}  // namespace

class TreeServer::Impl final : public FuseHandler {
 public:
  Impl(Options options, Mapping metadata, ErofsReader reader)
      : options_(std::move(options)), metadata_(std::move(metadata)), reader_(std::move(reader)) {}

  Status Start() {
    if (reader_.devices().size() != options_.layers.size()) {
      return Fail(Code::kInvalidArgument, fmt::format("{} has {} devices, {} layers were given", options_.metadata_path,
                                                      reader_.devices().size(), options_.layers.size()));
    }
    FuseSessionOptions session;
    session.mount_dir = options_.mount_dir;
    session.name = options_.session_name;
    session.fs_subtype = "banyan-tree";
    session.keeper = options_.keeper;
    session.worker_threads = options_.worker_threads;
    session.max_background = options_.max_background;
    session.no_open = true;
    if (!options_.selinux_context.empty()) session.mount_options = ",context=\"" + options_.selinux_context + "\"";
    BANYAN_ASSIGN(session_, FuseSession::Start(std::move(session), this));
    return {};
  }

  void Handle(FuseRequest request, std::span<const std::byte> body) override {
    const Nid nid = NidOf(request.header().nodeid);
    switch (request.header().opcode) {
      case FUSE_LOOKUP:
        return Lookup(std::move(request), nid, NameIn(body));
      case FUSE_GETATTR:
        return GetAttributes(std::move(request), nid);
      case FUSE_READLINK:
        return ReadLink(std::move(request), nid);
      case FUSE_READ:
        return Read(std::move(request), nid, ParseBody<fuse_read_in>(body));
      case FUSE_READDIR:
        return ReadDirectory(std::move(request), nid, ParseBody<fuse_read_in>(body), false);
      case FUSE_READDIRPLUS:
        return ReadDirectory(std::move(request), nid, ParseBody<fuse_read_in>(body), true);
      case FUSE_GETXATTR:
        return GetXattr(std::move(request), nid, body);
      case FUSE_LISTXATTR:
        return ListXattrs(std::move(request), nid, ParseBody<fuse_getxattr_in>(body).size);
      case FUSE_STATFS:
        return Statfs(std::move(request));
      default:
        // Also OPEN and OPENDIR: the kernel then does without, and caches.
        return request.ReplyError(ENOSYS);
    }
  }

  FuseSession& session() { return *session_; }

 private:
  // FUSE's root is 1; others keep EROFS's number, out of its way.
  Nid NidOf(uint64_t node) const { return node == FUSE_ROOT_ID ? reader_.root() : node - 2; }
  uint64_t NodeOf(Nid nid) const { return nid == reader_.root() ? FUSE_ROOT_ID : nid + 2; }

  Result<fuse_attr> Attributes(Nid nid) const {
    BANYAN_ASSIGN(const ErofsReader::Stat stat, reader_.GetStat(nid));
    fuse_attr attr{};
    attr.ino = nid;
    attr.size = stat.size;
    attr.blocks = (stat.size + 511) / 512;
    attr.mtime = attr.atime = attr.ctime = static_cast<uint64_t>(stat.mtime_seconds);
    attr.mtimensec = attr.atimensec = attr.ctimensec = stat.mtime_nanoseconds;
    attr.mode = stat.mode;
    attr.nlink = stat.link_count;
    attr.uid = stat.uid;
    attr.gid = stat.gid;
    // The kernel's new_decode_dev() of 12 and 20 bits.
    attr.rdev = (stat.device_minor & 0xFF) | (stat.device_major << 8) | ((stat.device_minor & ~0xFFU) << 12);
    attr.blksize = kBlockBytes;
    return attr;
  }

  Result<fuse_entry_out> Entry(Nid nid) const {
    fuse_entry_out out{};
    out.nodeid = NodeOf(nid);
    out.entry_valid = kValidSeconds;
    out.attr_valid = kValidSeconds;
    BANYAN_ASSIGN(out.attr, Attributes(nid));
    return out;
  }

  void Lookup(FuseRequest request, Nid directory, std::string_view name) const {
    const Result<Nid> nid = reader_.Lookup(directory, name);
    if (!nid && nid.error().code == Code::kNotFound) {
      fuse_entry_out absent{};  // node 0: remember that there is none
      absent.entry_valid = kValidSeconds;
      return request.ReplyStruct(absent);
    }
    if (!nid) return request.ReplyError(ReplyErrno(nid.error()));
    const Result<fuse_entry_out> entry = Entry(*nid);
    if (!entry) return request.ReplyError(ReplyErrno(entry.error()));
    request.ReplyStruct(*entry);
  }

  void GetAttributes(FuseRequest request, Nid nid) const {
    const Result<fuse_attr> attr = Attributes(nid);
    if (!attr) return request.ReplyError(ReplyErrno(attr.error()));
    fuse_attr_out out{};
    out.attr_valid = kValidSeconds;
    out.attr = *attr;
    request.ReplyStruct(out);
  }

  void ReadLink(FuseRequest request, Nid nid) const {
    const Result<std::string> target = reader_.ReadLink(nid);
    if (!target) return request.ReplyError(ReplyErrno(target.error()));
    request.ReplyBytes(std::as_bytes(std::span(*target)));
  }

  void Read(FuseRequest request, Nid nid, const fuse_read_in& in) const {
    const Result<ErofsReader::Extent> extent = reader_.FileExtent(nid);
    if (!extent) return request.ReplyError(ReplyErrno(extent.error()));
    if (in.offset >= extent->size || in.size == 0) return request.ReplyBytes({});
    const uint64_t length = std::min<uint64_t>({in.size, kMaxReadBytes, extent->size - in.offset});
    fetch::LazyLayer& layer = *options_.layers[extent->device];
    const uint64_t begin = uint64_t{extent->first_block} * kBlockBytes + in.offset;
    if (begin + length > layer.size_bytes()) return request.ReplyError(EIO);
    AnswerFromLayer(std::move(request), layer, {begin, begin + length});
  }

  void ReadDirectory(FuseRequest request, Nid nid, const fuse_read_in& in, bool plus) const {
    const auto entries = reader_.ReadDirectory(nid);
    if (!entries) return request.ReplyError(ReplyErrno(entries.error()));
    DirectoryReply reply(in.size, plus);
    for (uint64_t i = in.offset; i < entries->size(); ++i) {
      const ErofsReader::DirectoryEntry& entry = (*entries)[i];
      fuse_entry_out attributes{};
      attributes.attr.ino = entry.nid;
      // The kernel wants no attributes of "." and "..".
      if (plus && entry.name != "." && entry.name != "..") {
        Result<fuse_entry_out> full = Entry(entry.nid);
        if (!full) return request.ReplyError(ReplyErrno(full.error()));
        attributes = *full;
      }
      if (!reply.Add(entry, i + 1, attributes)) break;
    }
    request.ReplyBytes(reply.bytes());
  }

  static void ReplySized(FuseRequest request, uint32_t size, std::string_view value) {
    if (size == 0) return request.ReplyStruct(fuse_getxattr_out{static_cast<uint32_t>(value.size()), 0});
    if (value.size() > size) return request.ReplyError(ERANGE);
    request.ReplyBytes(std::as_bytes(std::span(value)));
  }

  void GetXattr(FuseRequest request, Nid nid, std::span<const std::byte> body) const {
    if (body.size() < sizeof(fuse_getxattr_in)) return request.ReplyError(EINVAL);
    const std::string_view name = NameIn(body.subspan(sizeof(fuse_getxattr_in)));
    const auto xattrs = reader_.Xattrs(nid);
    if (!xattrs) return request.ReplyError(ReplyErrno(xattrs.error()));
    for (const image_format::Xattr& xattr : *xattrs) {
      if (xattr.name == name)
        return ReplySized(std::move(request), ParseBody<fuse_getxattr_in>(body).size, xattr.value);
    }
    request.ReplyError(ENODATA);
  }

  void ListXattrs(FuseRequest request, Nid nid, uint32_t size) const {
    const auto xattrs = reader_.Xattrs(nid);
    if (!xattrs) return request.ReplyError(ReplyErrno(xattrs.error()));
    std::string names;
    for (const image_format::Xattr& xattr : *xattrs) names.append(xattr.name).push_back('\0');
    ReplySized(std::move(request), size, names);
  }

  void Statfs(FuseRequest request) const {
    fuse_statfs_out out{};
    uint64_t blocks = BlocksFor(metadata_.bytes().size());
    for (const auto& device : reader_.devices()) blocks += device.blocks;
    out.st.blocks = blocks;
    out.st.files = reader_.inode_count();
    out.st.bsize = kBlockBytes;
    out.st.frsize = kBlockBytes;
    out.st.namelen = NAME_MAX;
    request.ReplyStruct(out);
  }

  const Options options_;
  const Mapping metadata_;
  const ErofsReader reader_;
  std::unique_ptr<FuseSession> session_;  // last: its end ends the calls of Handle
};

Result<std::unique_ptr<TreeServer>> TreeServer::Start(Options options) {
  BANYAN_ASSIGN(Mapping metadata, Mapping::Of(options.metadata_path));
  BANYAN_ASSIGN(ErofsReader reader, ErofsReader::Open(metadata.bytes()));
  auto impl = std::make_unique<Impl>(std::move(options), std::move(metadata), std::move(reader));
  BANYAN_TRY(impl->Start());
  return std::unique_ptr<TreeServer>(new TreeServer(std::move(impl)));
}

TreeServer::TreeServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TreeServer::~TreeServer() = default;

bool TreeServer::taken_over() const { return impl_->session().taken_over(); }
void TreeServer::Detach() { impl_->session().Detach(); }
Status TreeServer::Stop() { return impl_->session().Shutdown(); }
FuseSessionCounters TreeServer::counters() const { return impl_->session().counters(); }

Result<std::shared_ptr<fetch::LazyLayer>> OpenLocalLayer(const std::string& path) {
  BANYAN_ASSIGN(UniqueFd file, OpenFile(path, O_RDONLY));
  struct stat status {};
  if (fstat(file.get(), &status) != 0) return FailErrno(path, errno);
  return std::make_shared<LocalLayer>(std::move(file), static_cast<uint64_t>(status.st_size));
}

}  // namespace banyan::lazyfs
