#include "lazyfs/device_server.h"

#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <map>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "common/file_io.h"
#include "common/log.h"
#include "common/mutex.h"
#include "common/units.h"
#include "lazyfs/fuse_body.h"

namespace banyan::lazyfs {
namespace {

// A device's size never changes, so its attributes may be kept; names come and go.
constexpr uint64_t kAttrSeconds = 365ULL * 24 * 3600;

fuse_attr Attributes(uint64_t node, uint64_t size_bytes) {
  fuse_attr attr{};
  attr.ino = node;
  attr.size = size_bytes;
  attr.blocks = (size_bytes + 511) / 512;
  attr.mode = node == FUSE_ROOT_ID ? S_IFDIR | 0500 : S_IFREG | 0400;
  attr.nlink = node == FUSE_ROOT_ID ? 2 : 1;
  attr.blksize = kBlockBytes;
  return attr;
}

// A request whose node is not known yet, kept until it is.
struct Waiting {
  FuseRequest request;
  std::vector<std::byte> body;
};

struct Device {
  std::string name;
  std::shared_ptr<fetch::LazyLayer> layer;
};

void AnswerRead(FuseRequest request, const fuse_read_in& in, fetch::LazyLayer& layer) {
  const uint64_t size = layer.size_bytes();
  if (in.offset >= size || in.size == 0) return request.ReplyBytes({});
  const uint64_t length = std::min<uint64_t>({in.size, kMaxReadBytes, size - in.offset});
  AnswerFromLayer(std::move(request), layer, {in.offset, in.offset + length});
}

}  // namespace

class DeviceServer::Impl final : public FuseHandler {
 public:
  explicit Impl(Options options) : options_(std::move(options)) {}
  ~Impl() override {
    StopGrace();
    session_.reset();
  }

  Status Start() {
    BANYAN_TRY(PrepareMountDir());
    FuseSessionOptions session;
    session.mount_dir = options_.mount_dir;
    session.name = options_.session_name;
    session.fs_subtype = "banyan-devices";
    session.keeper = options_.keeper;
    session.worker_threads = options_.worker_threads;
    session.max_background = options_.max_background;
    session.mount_flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME;
    session.resend = options_.resend;
    session.takeover_wait = options_.takeover_wait;
    BANYAN_ASSIGN(session_, FuseSession::Start(std::move(session), this));
    if (!session_->taken_over()) {
      RestoreDone();
    } else {
      grace_thread_ = std::thread([this] { WaitForGrace(); });
    }
    return {};
  }

  void Handle(FuseRequest request, std::span<const std::byte> body) override {
    const uint64_t node = request.header().nodeid;
    if (node == FUSE_ROOT_ID) return HandleRoot(std::move(request), body);
    std::shared_ptr<fetch::LazyLayer> layer;
    {
      const MutexLock lock(mutex_);
      const auto place = devices_.find(node);
      if (place != devices_.end()) {
        layer = place->second.layer;
      } else if (restoring_) {
        waiting_.emplace(node, Waiting{std::move(request), {body.begin(), body.end()}});
        return;
      }
    }
    if (layer == nullptr) return HandleForgotten(std::move(request));
    HandleDevice(std::move(request), body, *layer);
  }

  Result<std::string> AddDevice(uint64_t node_id, const std::string& name, std::shared_ptr<fetch::LazyLayer> layer) {
    if (node_id <= FUSE_ROOT_ID) return Fail(Code::kInvalidArgument, fmt::format("node id {} is reserved", node_id));
    if (name.empty() || name.size() > NAME_MAX || name == "." || name == ".." || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos) {
      return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is no name for a device", name));
    }
    std::vector<Waiting> ready;
    {
      const MutexLock lock(mutex_);
      if (devices_.contains(node_id) || names_.contains(name)) {
        return Fail(Code::kAlreadyExists, fmt::format("device {} or its node {} is in use", name, node_id));
      }
      devices_.emplace(node_id, Device{name, layer});
      names_.emplace(name, node_id);
      const auto [begin, end] = waiting_.equal_range(node_id);
      for (auto i = begin; i != end; ++i) ready.push_back(std::move(i->second));
      waiting_.erase(begin, end);
    }
    for (Waiting& one : ready) HandleDevice(std::move(one.request), one.body, *layer);
    return PathOf(name);
  }

  Status RemoveDevice(const std::string& name) {
    std::shared_ptr<fetch::LazyLayer> layer;
    {
      const MutexLock lock(mutex_);
      const auto place = names_.find(name);
      if (place == names_.end()) return Fail(Code::kNotFound, fmt::format("no device {}", name));
      const auto device = devices_.find(place->second);
      layer = std::move(device->second.layer);
      devices_.erase(device);
      names_.erase(place);
    }
    layer->CancelAll();
    return {};
  }

  void RestoreDone() {
    std::multimap<uint64_t, Waiting> forgotten;
    {
      const MutexLock lock(mutex_);
      restoring_ = false;
      forgotten.swap(waiting_);
    }
    grace_ended_.notify_all();
    for (auto& [node, one] : forgotten) HandleForgotten(std::move(one.request));
  }

  void Detach() {
    StopGrace();
    session_->Detach();
  }

  Status Stop() {
    RestoreDone();
    StopGrace();
    std::vector<std::shared_ptr<fetch::LazyLayer>> layers;
    {
      const MutexLock lock(mutex_);
      for (const auto& [node, device] : devices_) layers.push_back(device.layer);
    }
    for (const auto& layer : layers) layer->CancelAll();
    return session_->Shutdown();
  }

  std::string PathOf(const std::string& name) const { return options_.mount_dir + "/" + name; }
  const FuseSession& session() const { return *session_; }

 private:
  // The directory may be a mount that nobody answers for yet, so it is not looked at if it is mounted on.
  Status PrepareMountDir() {
    while (options_.mount_dir.size() > 1 && options_.mount_dir.back() == '/') options_.mount_dir.pop_back();
    const size_t slash = options_.mount_dir.rfind('/');
    if (slash != std::string::npos && slash > 0) BANYAN_TRY(MakeDirectories(options_.mount_dir.substr(0, slash)));
    if (mkdir(options_.mount_dir.c_str(), 0700) != 0 && errno != EEXIST) {
      return FailErrno(fmt::format("making {}", options_.mount_dir), errno);
    }
    return {};
  }

  void HandleRoot(FuseRequest request, std::span<const std::byte> body) {
    switch (request.header().opcode) {
      case FUSE_LOOKUP:
        return Lookup(std::move(request), body);
      case FUSE_GETATTR:
        return ReplyAttributes(std::move(request), 0);
      case FUSE_OPENDIR:
        return request.ReplyStruct(fuse_open_out{});
      case FUSE_READDIR:
        return ReadDirectory(std::move(request), ParseBody<fuse_read_in>(body));
      case FUSE_RELEASEDIR:
        return request.ReplyError(0);
      case FUSE_STATFS:
        return ReplyStatfs(std::move(request));
      default:
        return request.ReplyError(ENOSYS);
    }
  }

  void HandleDevice(FuseRequest request, std::span<const std::byte> body, fetch::LazyLayer& layer) {
    switch (request.header().opcode) {
      case FUSE_READ:
        return AnswerRead(std::move(request), ParseBody<fuse_read_in>(body), layer);
      case FUSE_GETATTR:
        return ReplyAttributes(std::move(request), layer.size_bytes());
      case FUSE_OPEN: {
        fuse_open_out out{};
        out.open_flags = FOPEN_KEEP_CACHE | FOPEN_NOFLUSH;
        return request.ReplyStruct(out);
      }
      case FUSE_RELEASE:
        return request.ReplyError(0);
      case FUSE_STATFS:
        return ReplyStatfs(std::move(request));
      default:
        return request.ReplyError(ENOSYS);
    }
  }

  static void HandleForgotten(FuseRequest request) {
    const bool release = request.header().opcode == FUSE_RELEASE;
    request.ReplyError(release ? 0 : request.header().opcode == FUSE_READ ? EIO : ESTALE);
  }

  static void ReplyAttributes(FuseRequest request, uint64_t size_bytes) {
    fuse_attr_out out{};
    out.attr_valid = kAttrSeconds;
    out.attr = Attributes(request.header().nodeid, size_bytes);
    request.ReplyStruct(out);
  }

  static void ReplyStatfs(FuseRequest request) {
    fuse_statfs_out out{};
    out.st.bsize = kBlockBytes;
    out.st.frsize = kBlockBytes;
    out.st.namelen = NAME_MAX;
    request.ReplyStruct(out);
  }

  void Lookup(FuseRequest request, std::span<const std::byte> body) {
    const std::string name(NameIn(body));
    fuse_entry_out out{};
    {
      const MutexLock lock(mutex_);
      const auto place = names_.find(name);
      if (place == names_.end()) return request.ReplyError(ENOENT);
      out.nodeid = place->second;
      out.attr = Attributes(place->second, devices_.at(place->second).layer->size_bytes());
    }
    out.attr_valid = kAttrSeconds;
    request.ReplyStruct(out);
  }

  // An entry's offset is its node id, so that a listing goes on rightly while devices come and go.
  void ReadDirectory(FuseRequest request, const fuse_read_in& in) {
    std::vector<std::byte> out;
    {
      const MutexLock lock(mutex_);
      for (auto i = devices_.upper_bound(in.offset); i != devices_.end(); ++i) {
        const std::string& name = i->second.name;
        const size_t begin = out.size();
        const size_t bytes = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + name.size());
        if (begin + bytes > std::min<size_t>(in.size, kMaxReadBytes)) break;
        out.resize(begin + bytes);
        fuse_dirent entry{};
        entry.ino = i->first;
        entry.off = i->first;
        entry.namelen = static_cast<uint32_t>(name.size());
        entry.type = S_IFREG >> 12;
        std::memcpy(out.data() + begin, &entry, FUSE_NAME_OFFSET);
        std::memcpy(out.data() + begin + FUSE_NAME_OFFSET, name.data(), name.size());
      }
    }
    request.ReplyBytes(out);
  }

  void WaitForGrace() {
    const auto end = std::chrono::steady_clock::now() + options_.restore_grace;
    {
      MutexLock lock(mutex_);
      while (restoring_ && !stopping_ && std::chrono::steady_clock::now() < end) lock.WaitUntil(grace_ended_, end);
      if (!restoring_ || stopping_) return;
    }
    spdlog::warn("not every device of the predecessor came back within {} s", options_.restore_grace.count() / 1000);
    RestoreDone();
  }

  void StopGrace() {
    {
      const MutexLock lock(mutex_);
      stopping_ = true;
    }
    grace_ended_.notify_all();
    if (grace_thread_.joinable()) grace_thread_.join();
  }

  Options options_;  // constant after Start()
  std::unique_ptr<FuseSession> session_;
  std::thread grace_thread_;

  Mutex mutex_;
  std::condition_variable grace_ended_;
  std::map<uint64_t, Device> devices_ BANYAN_GUARDED_BY(mutex_);        // by node id
  std::map<std::string, uint64_t> names_ BANYAN_GUARDED_BY(mutex_);     // to node ids
  std::multimap<uint64_t, Waiting> waiting_ BANYAN_GUARDED_BY(mutex_);  // by node id
  bool restoring_ BANYAN_GUARDED_BY(mutex_) = true;
  bool stopping_ BANYAN_GUARDED_BY(mutex_) = false;
};

Result<std::unique_ptr<DeviceServer>> DeviceServer::Start(Options options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  BANYAN_TRY(impl->Start());
  return std::unique_ptr<DeviceServer>(new DeviceServer(std::move(impl)));
}

DeviceServer::DeviceServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DeviceServer::~DeviceServer() = default;

bool DeviceServer::taken_over() const { return impl_->session().taken_over(); }
Result<std::string> DeviceServer::AddDevice(uint64_t node_id, const std::string& name,
                                            std::shared_ptr<fetch::LazyLayer> layer) {
  return impl_->AddDevice(node_id, name, std::move(layer));
}
Status DeviceServer::RemoveDevice(const std::string& name) { return impl_->RemoveDevice(name); }
void DeviceServer::RestoreDone() { impl_->RestoreDone(); }
void DeviceServer::Detach() { impl_->Detach(); }
Status DeviceServer::Stop() { return impl_->Stop(); }
std::string DeviceServer::PathOf(const std::string& name) const { return impl_->PathOf(name); }
FuseSessionCounters DeviceServer::counters() const { return impl_->session().counters(); }

}  // namespace banyan::lazyfs
