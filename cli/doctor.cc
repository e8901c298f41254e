#include "cli/doctor.h"

#include <sys/statvfs.h>
#include <sys/vfs.h>

#include <condition_variable>
#include <filesystem>
#include <mutex>

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include "cli/agent_client.h"
#include "cli/text.h"
#include "common/file_io.h"
#include "common/settings.h"
#include "net/http_client.h"

namespace banyan::cli {

namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr long kOverlayfsMagic = 0x794c7630;
constexpr uint64_t kLittleSpaceBytes = uint64_t{2} << 30;

// The nearest directory that exists: what is not made yet will lie on the same disk.
std::string ExistingParent(const std::string& path) {
  std::error_code error;
  fs::path existing = path;
  while (!fs::exists(existing, error) && existing.has_relative_path()) existing = existing.parent_path();
  return existing.string();
}

// One request to `address` ("host:port"); the status, or what went wrong.
Result<int> GetStatus(const std::string& address, const std::string& target) {
  BANYAN_ASSIGN(const HostPort at, ParseHostPort(address));
  net::HttpClientRequest request;
  request.address = at.host;
  request.port = at.port;
  request.target = target;
  request.stall_timeout = milliseconds(3000);

  std::mutex mutex;
  std::condition_variable ended;
  std::optional<Result<int>> result;
  int status = 0;
  net::HttpClientHandlers handlers;
  handlers.on_head = [&status](int code, const net::HeaderList&) -> Status {
    status = code;
    return {};
  };
  handlers.on_done = [&](Status done) {
    const std::lock_guard lock(mutex);
    result = done ? Result<int>(status) : Result<int>(Fail(done.error()));
    ended.notify_one();
  };
  net::HttpClient client;
  client.Start(std::move(request), std::move(handlers));
  std::unique_lock lock(mutex);
  ended.wait(lock, [&] { return result.has_value(); });
  return *result;
}

Check CheckSocket(const std::string& socket) {
  Check check{"snapshotter", Verdict::kOk, socket, ""};
  if (socket.empty()) {
    return {"snapshotter", Verdict::kFail, "off",
            fmt::format("set [snapshotter] socket = \"{}\" in the agent's configuration and restart it",
                        kDefaultSnapshotterSocket)};
  }
  if (!AnswersGrpc(socket)) {
    check.verdict = Verdict::kFail;
    check.found = socket + " does not answer";
    check.remedy = "see the agent's log (journalctl -u banyan-peer-agent)";
  }
  return check;
}

}  // namespace

std::string_view VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk:
      return "ok";
    case Verdict::kWarn:
      return "warn";
    case Verdict::kFail:
      break;
  }
  return "fail";
}

bool AnswersGrpc(const std::string& socket) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  const auto channel = grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments);
  return channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(2));
}

Check CheckMirror(const std::string& address) {
  if (address.empty()) {
    return {"mirror", Verdict::kWarn, "off: unconverted images come from the registry alone",
            fmt::format("set [mirror] address = \"{}\" in the agent's configuration and restart it", kDefaultMirror)};
  }
  const auto status = GetStatus(address, "/v2/");
  if (status && *status == 200) return {"mirror", Verdict::kOk, fmt::format("http://{}/v2/ answers", address), ""};
  return {
      "mirror", Verdict::kFail,
      fmt::format("http://{}/v2/: {}", address, status ? fmt::format("status {}", *status) : status.error().message),
      "see the agent's log (journalctl -u banyan-peer-agent)"};
}

std::vector<Check> CheckDataRoot(const std::string& data_root, const std::string& mount_root) {
  std::vector<Check> checks;
  const std::string existing = ExistingParent(data_root);
  struct statfs file_system {};
  struct statvfs space {};
  if (::statfs(existing.c_str(), &file_system) != 0 || ::statvfs(existing.c_str(), &space) != 0) {
    return {{"data root", Verdict::kFail, ErrnoError(existing, errno).message, "make it readable for this user"}};
  }
  const uint64_t free_bytes = uint64_t{space.f_bavail} * space.f_frsize;
  Check check{"data root", Verdict::kOk, fmt::format("{}, {} free", data_root, HumanBytes(free_bytes)), ""};
  if (static_cast<long>(file_system.f_type) == kOverlayfsMagic) {
    check.verdict = Verdict::kWarn;
    check.found = data_root + " is on overlayfs, from which EROFS cannot be mounted";
    check.remedy = "put the data root on a disk of the host: --data-root, or data_root of the agent's configuration";
  } else if (free_bytes < kLittleSpaceBytes) {
    check.verdict = Verdict::kWarn;
    check.remedy = "make room: chunks that do not fit are fetched again";
  }
  checks.push_back(std::move(check));

  const auto mountinfo = ReadFile("/proc/self/mountinfo");
  const std::string propagation = mountinfo ? PropagationOf(*mountinfo, ExistingParent(mount_root)) : "unknown";
  if (propagation == "shared") {
    checks.push_back({"mount propagation", Verdict::kOk, mount_root + " is on a shared mount", ""});
  } else {
    checks.push_back(
        {"mount propagation", Verdict::kWarn,
         fmt::format("{} is on a {} mount: a containerd in another mount namespace does not see images", mount_root,
                     propagation),
         fmt::format("if containerd runs apart from the agent: mount --bind {0} {0} && mount --make-rshared "
                     "{0}, before the agent starts",
                     mount_root)});
  }
  return checks;
}

std::vector<Check> CheckAgent(const std::optional<proto::agent::InfoReply>& info, const std::string& error,
                              const DoctorOptions& options) {
  std::vector<Check> checks;
  if (!info) {
    const char* const remedy =
        "start it: systemctl start banyan-peer-agent; see journalctl -u banyan-peer-agent. If its "
        "data root is another one, name it with --data-root";
    // `banyan mount` and `banyan run` start one when they need it.
    return {{"agent", options.containerd ? Verdict::kFail : Verdict::kWarn, error, remedy}};
  }
  checks.push_back({"agent", Verdict::kOk,
                    fmt::format("version {}, process {}, {} mounts, {} snapshots", info->version(), info->pid(),
                                info->mounts(), info->snapshots()),
                    ""});
  checks.push_back(info->keeper()
                       ? Check{"keeper", Verdict::kOk, "mounts survive the agent", ""}
                       : Check{"keeper", Verdict::kWarn, "none: containers lose their image when the agent ends",
                               "start banyan-keeper (systemctl enable --now banyan-keeper) and set keeper_socket"});
  if (info->form() == "tree") {
    checks.push_back({"agent's form", Verdict::kWarn, "tree: " + info->form_reason(),
                      "images work, slower than EROFS: see the EROFS check"});
  } else if (!info->form().empty()) {
    checks.push_back({"agent's form", Verdict::kOk, info->form(), ""});
  }
  if (options.containerd) {
    checks.push_back(CheckSocket(info->snapshotter_socket()));
    checks.push_back(CheckMirror(info->mirror_address()));
  }
  return checks;
}

std::string PropagationOf(std::string_view mountinfo, const std::string& path) {
  // "36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 master:2 - ext3 /dev/root rw"
  size_t longest = 0;
  std::string propagation = "unknown";
  while (!mountinfo.empty()) {
    const std::string_view line = mountinfo.substr(0, mountinfo.find('\n'));
    mountinfo.remove_prefix(std::min(mountinfo.size(), line.size() + 1));
    std::vector<std::string_view> fields;
    for (size_t begin = 0; begin < line.size();) {
      const size_t end = std::min(line.find(' ', begin), line.size());
      fields.push_back(line.substr(begin, end - begin));
      begin = end + 1;
    }
    if (fields.size() < 7) continue;
    const std::string_view point = fields[4];
    const bool above =
        point == "/" || (path.starts_with(point) && (path.size() == point.size() || path[point.size()] == '/'));
    if (!above || point.size() < longest) continue;
    longest = point.size();
    propagation = "private";
    for (size_t i = 6; i < fields.size() && fields[i] != "-"; ++i) {
      if (fields[i].starts_with("shared:")) propagation = "shared";
      if (fields[i].starts_with("master:") && propagation == "private") propagation = "slave";
    }
  }
  return propagation;
}

std::vector<Check> Diagnose(const DoctorOptions& options) {
  std::optional<proto::agent::InfoReply> info;
  std::string agent_error;
  auto agent = AgentClient::Connect(options.data_root);
  if (agent) {
    auto reply = agent->Info();
    if (reply) info = std::move(*reply);
    if (!reply) agent_error = reply.error().message;
  } else {
    agent_error = agent.error().message;
  }

  std::vector<Check> checks;
  const auto append = [&checks](std::vector<Check> more) {
    std::move(more.begin(), more.end(), std::back_inserter(checks));
  };
  append(CheckKernel(ExistingParent(options.data_root)));
  append(CheckDataRoot(options.data_root, options.data_root + "/snapshots"));
  append(CheckAgent(info, agent_error, options));
  if (!options.containerd) return checks;

  const auto config = ReadContainerdConfig(options.containerd_config);
  append(CheckContainerdConfig(config, info));
  auto containerd = ContainerdClient::Connect(options.containerd_socket);
  if (!containerd) {
    append(CheckRunningContainerd(Fail(containerd.error()), Fail(containerd.error()), config));
  } else {
    append(CheckRunningContainerd(containerd->Version(), containerd->Config(), config));
  }
  return checks;
}

}  // namespace banyan::cli
