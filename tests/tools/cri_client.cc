// A small client of the Container Runtime Interface: what the tests and benchmarks ask of containerd, without kubelet.
//
//   cri_client --socket S pull REF [--creds USER:PASSWORD]       prints the image's id
//   cri_client --socket S run REF [--name N] [--env K=V] [--timing FILE] -- CMD…
//       a pod, one container in it, the command run to its end, its output printed, all removed; exits with its exit
//       code
//   cri_client --socket S start REF [same options] -- CMD…       leaves it running; prints "POD CONTAINER"
//   cri_client --socket S wait CONTAINER | logs CONTAINER         its end and exit code; its output so far
//   cri_client --socket S rm POD…                                 stops and removes pods with all that is in them
//   cri_client --socket S rmall                                   every pod (for clean-up)
//   cri_client --socket S rmi REF… | images | ps | pods | version | config | fsinfo
//
// Pods use the host's network, pid and ipc namespaces: no CNI plugin is needed. Output comes from the container's log
// file, whose lines are "<time> stdout|stderr F|P <text>". --timing writes the milliseconds from the program's start to
// the end of each stage as JSON: pod, created, started, first_output, exited.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "proto/cri.grpc.pb.h"

namespace banyan::tests {
namespace {

namespace cri = runtime::v1;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPoll{2};
constexpr int kExitRefused = 125;  // the runtime refused; unlike any exit code that our tests' commands use

struct Flags {
  std::string socket = "/run/containerd/containerd.sock";
  std::string reference;
  std::string credentials;
  std::string name = "test";
  std::string log_root;
  std::string cgroup_parent;
  std::string timing_file;
  std::vector<std::string> environment;
  std::vector<std::string> command;
  std::vector<std::string> ids;
  uint32_t timeout_seconds = 300;
};

// What the runtime answered, for main() to print.
struct Refused {
  std::string call;
  grpc::Status status;
};

// Prints what a log file gained since the last call.
class LogReader {
 public:
  explicit LogReader(std::string path) : path_(std::move(path)) {}

  bool any() const { return any_; }

  void Print() {
    std::ifstream file(path_, std::ios::binary);
    if (!file) return;
    file.seekg(offset_);
    std::string line;
    while (std::getline(file, line) && !file.eof()) {
      offset_ += static_cast<std::streamoff>(line.size()) + 1;
      PrintLine(line);
    }
  }

 private:
  void PrintLine(const std::string& line) {
    const size_t stream = line.find(' ');
    if (stream == std::string::npos) return;
    const size_t tag = line.find(' ', stream + 1);
    const size_t text = tag == std::string::npos ? tag : line.find(' ', tag + 1);
    if (text == std::string::npos) return;
    FILE* const out = line.compare(stream + 1, 6, "stdout") == 0 ? stdout : stderr;
    std::fwrite(line.data() + text + 1, 1, line.size() - text - 1, out);
    if (line.compare(tag + 1, 1, "F") == 0) std::fputc('\n', out);
    std::fflush(out);
    any_ = true;
  }

  const std::string path_;
  std::streamoff offset_ = 0;
  bool any_ = false;
};

class Timing {
 public:
  void Mark(const char* stage) {
    const std::chrono::duration<double, std::milli> passed = Clock::now() - begin_;
    if (!stages_.contains(stage)) stages_[stage] = passed.count();
  }
  void Write(const std::string& file) const {
    if (!file.empty()) std::ofstream(file) << stages_.dump() << "\n";
  }

 private:
  const Clock::time_point begin_ = Clock::now();
  nlohmann::json stages_ = nlohmann::json::object();
};

class Client {
 public:
  explicit Client(const Flags& flags) : flags_(flags) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(64 << 20);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    const auto channel =
        grpc::CreateCustomChannel("unix:" + flags.socket, grpc::InsecureChannelCredentials(), arguments);
    images_ = cri::ImageService::NewStub(channel);
    runtime_ = cri::RuntimeService::NewStub(channel);
  }

  int Pull() {
    cri::PullImageRequest request;
    request.mutable_image()->set_image(flags_.reference);
    if (const size_t colon = flags_.credentials.find(':'); colon != std::string::npos) {
      request.mutable_auth()->set_username(flags_.credentials.substr(0, colon));
      request.mutable_auth()->set_password(flags_.credentials.substr(colon + 1));
    }
    fmt::print("{}\n", Image(&cri::ImageService::Stub::PullImage, request, "pull " + flags_.reference).image_ref());
    return 0;
  }

  int Run() {
    Timing timing;
    const cri::PodSandboxConfig pod_config = PodConfig();
    const std::string pod = RunPod(pod_config);
    timing.Mark("pod");
    const std::string container = CreateAndStart(pod, pod_config, timing);
    int exit_code = 0;
    try {
      exit_code = Follow(container, timing);
    } catch (const Refused&) {
      RemovePod(pod);
      throw;
    }
    timing.Write(flags_.timing_file);
    RemovePod(pod);
    std::filesystem::remove_all(pod_config.log_directory());
    return exit_code;
  }

  int Start() {
    Timing timing;
    const cri::PodSandboxConfig pod_config = PodConfig();
    const std::string pod = RunPod(pod_config);
    timing.Mark("pod");
    const std::string container = CreateAndStart(pod, pod_config, timing);
    timing.Write(flags_.timing_file);
    fmt::print("{} {}\n", pod, container);
    return 0;
  }

  int Wait() {
    Timing timing;
    const int exit_code = AwaitExit(flags_.ids.at(0), [] {});
    fmt::print("{}\n", exit_code);
    return exit_code;
  }

  int Logs() {
    LogReader(StatusOf(flags_.ids.at(0)).log_path()).Print();
    return 0;
  }

  int Remove() {
    for (const std::string& pod : flags_.ids) RemovePod(pod);
    return 0;
  }

  int RemoveAll() {
    const auto pods = Runtime(&cri::RuntimeService::Stub::ListPodSandbox, cri::ListPodSandboxRequest(), "list pods");
    for (const auto& pod : pods.items()) RemovePod(pod.id());
    return 0;
  }

  int RemoveImages() {
    for (const std::string& reference : flags_.ids) {
      cri::RemoveImageRequest request;
      request.mutable_image()->set_image(reference);
      Image(&cri::ImageService::Stub::RemoveImage, request, "rmi " + reference);
    }
    return 0;
  }

  int Images() {
    const auto reply = Image(&cri::ImageService::Stub::ListImages, cri::ListImagesRequest(), "images");
    for (const auto& image : reply.images()) {
      fmt::print("{} {} {}\n", image.id(), image.size(), fmt::join(image.repo_tags(), " "));
    }
    return 0;
  }

  int Containers() {
    const auto reply = Runtime(&cri::RuntimeService::Stub::ListContainers, cri::ListContainersRequest(), "ps");
    for (const auto& container : reply.containers()) {
      fmt::print("{} {} {} {}\n", container.id(), container.pod_sandbox_id(),
                 cri::ContainerState_Name(container.state()), container.image().image());
    }
    return 0;
  }

  int Pods() {
    const auto reply = Runtime(&cri::RuntimeService::Stub::ListPodSandbox, cri::ListPodSandboxRequest(), "pods");
    for (const auto& pod : reply.items()) {
      fmt::print("{} {} {}\n", pod.id(), cri::PodSandboxState_Name(pod.state()), pod.metadata().name());
    }
    return 0;
  }

  int Version() {
    const auto reply = Runtime(&cri::RuntimeService::Stub::Version, cri::VersionRequest(), "version");
    fmt::print("{} {} ({})\n", reply.runtime_name(), reply.runtime_version(), reply.runtime_api_version());
    return 0;
  }

  int Config() {
    cri::StatusRequest request;
    request.set_verbose(true);
    const auto reply = Runtime(&cri::RuntimeService::Stub::Status, request, "status");
    const auto config = reply.info().find("config");
    fmt::print("{}\n", config == reply.info().end() ? "{}" : config->second);
    return 0;
  }

  // Bytes and inodes of the images' file systems, as kubelet counts them.
  int FsInfo() {
    const auto reply = Image(&cri::ImageService::Stub::ImageFsInfo, cri::ImageFsInfoRequest(), "image file systems");
    for (const auto& usage : reply.image_filesystems()) {
      fmt::print("{} {} {}\n", usage.fs_id().mountpoint(), usage.used_bytes().value(), usage.inodes_used().value());
    }
    return 0;
  }

 private:
  template <typename Stub, typename Request, typename Reply>
  Reply Call(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
             const Request& request, const std::string& what) const {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(flags_.timeout_seconds));
    Reply reply;
    const grpc::Status status = (stub.*method)(&context, request, &reply);
    if (!status.ok()) throw Refused{what, status};
    return reply;
  }
  template <typename Request, typename Reply>
  Reply Image(grpc::Status (cri::ImageService::Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
              const Request& request, const std::string& what) const {
    return Call(*images_, method, request, what);
  }
  template <typename Request, typename Reply>
  Reply Runtime(grpc::Status (cri::RuntimeService::Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
                const Request& request, const std::string& what) const {
    return Call(*runtime_, method, request, what);
  }

  static void OnHost(cri::NamespaceOption* namespaces) {
    namespaces->set_network(cri::NODE);
    namespaces->set_pid(cri::NODE);
    namespaces->set_ipc(cri::NODE);
  }

  cri::PodSandboxConfig PodConfig() const {
    // Unique on a node: containerd reserves the name.
    const std::string unique =
        fmt::format("{}-{}-{}", flags_.name, ::getpid(), std::chrono::system_clock::now().time_since_epoch().count());
    cri::PodSandboxConfig config;
    config.mutable_metadata()->set_name(unique);
    config.mutable_metadata()->set_uid(unique);
    config.mutable_metadata()->set_namespace_("default");
    const std::string root =
        flags_.log_root.empty() ? std::filesystem::temp_directory_path().string() : flags_.log_root;
    config.set_log_directory(root + "/" + unique);
    std::filesystem::create_directories(config.log_directory());
    config.mutable_linux()->set_cgroup_parent(flags_.cgroup_parent);
    OnHost(config.mutable_linux()->mutable_security_context()->mutable_namespace_options());
    return config;
  }

  std::string RunPod(const cri::PodSandboxConfig& config) const {
    cri::RunPodSandboxRequest request;
    *request.mutable_config() = config;
    return Runtime(&cri::RuntimeService::Stub::RunPodSandbox, request, "run a pod").pod_sandbox_id();
  }

  // Removes the pod if that fails.
  std::string CreateAndStart(const std::string& pod, const cri::PodSandboxConfig& pod_config, Timing& timing) const {
    try {
      const std::string id = Create(pod, pod_config);
      timing.Mark("created");
      cri::StartContainerRequest start;
      start.set_container_id(id);
      Runtime(&cri::RuntimeService::Stub::StartContainer, start, "start a container of " + flags_.reference);
      timing.Mark("started");
      return id;
    } catch (const Refused&) {
      RemovePod(pod);
      throw;
    }
  }

  std::string Create(const std::string& pod, const cri::PodSandboxConfig& pod_config) const {
    cri::CreateContainerRequest request;
    request.set_pod_sandbox_id(pod);
    *request.mutable_sandbox_config() = pod_config;
    cri::ContainerConfig& config = *request.mutable_config();
    config.mutable_metadata()->set_name(flags_.name);
    config.mutable_image()->set_image(flags_.reference);
    for (const std::string& word : flags_.command) config.add_command(word);
    for (const std::string& assignment : flags_.environment) {
      auto* variable = config.add_envs();
      const size_t equals = assignment.find('=');
      variable->set_key(assignment.substr(0, equals));
      if (equals != std::string::npos) variable->set_value(assignment.substr(equals + 1));
    }
    config.set_log_path("log");
    OnHost(config.mutable_linux()->mutable_security_context()->mutable_namespace_options());
    return Runtime(&cri::RuntimeService::Stub::CreateContainer, request, "create a container of " + flags_.reference)
        .container_id();
  }

  cri::ContainerStatus StatusOf(const std::string& container) const {
    cri::ContainerStatusRequest request;
    request.set_container_id(container);
    return Runtime(&cri::RuntimeService::Stub::ContainerStatus, request, "status of " + container).status();
  }

  int AwaitExit(const std::string& container, const std::function<void()>& meanwhile) const {
    const auto deadline = Clock::now() + std::chrono::seconds(flags_.timeout_seconds);
    auto next_status = Clock::now();
    while (true) {
      meanwhile();
      if (Clock::now() >= next_status) {
        const auto status = StatusOf(container);
        if (status.state() == cri::CONTAINER_EXITED) {
          if (!status.message().empty()) fmt::print(stderr, "cri_client: {}\n", status.message());
          return status.exit_code();
        }
        next_status = Clock::now() + 5 * kPoll;
      }
      if (Clock::now() > deadline) {
        throw Refused{"wait for " + container, grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "still running")};
      }
      std::this_thread::sleep_for(kPoll);
    }
  }

  int Follow(const std::string& container, Timing& timing) const {
    LogReader log(StatusOf(container).log_path());
    const auto print = [&] {
      log.Print();
      if (log.any()) timing.Mark("first_output");
    };
    const int exit_code = AwaitExit(container, print);
    timing.Mark("exited");
    // The log is complete when the container has exited: containerd waits for its streams first.
    print();
    return exit_code;
  }

  void RemovePod(const std::string& pod) const {
    cri::StopPodSandboxRequest stop;
    stop.set_pod_sandbox_id(pod);
    Runtime(&cri::RuntimeService::Stub::StopPodSandbox, stop, "stop pod " + pod);
    cri::RemovePodSandboxRequest remove;
    remove.set_pod_sandbox_id(pod);
    Runtime(&cri::RuntimeService::Stub::RemovePodSandbox, remove, "remove pod " + pod);
  }

  const Flags& flags_;
  std::unique_ptr<cri::ImageService::Stub> images_;
  std::unique_ptr<cri::RuntimeService::Stub> runtime_;
};

int Main(int argc, char** argv) {
  Flags flags;
  int (Client::*action)() = nullptr;
  CLI::App app("A small client of the Container Runtime Interface, for tests.", "cri_client");
  app.require_subcommand(1);
  app.add_option("--socket", flags.socket)->capture_default_str();
  app.add_option("--timeout", flags.timeout_seconds, "Seconds for each call, and for a command's end");
  app.add_option("--log-root", flags.log_root, "Where pods' logs go");
  app.add_option("--cgroup-parent", flags.cgroup_parent);
  const auto add = [&](const char* name, int (Client::*method)()) {
    CLI::App* command = app.add_subcommand(name);
    command->callback([&action, method] { action = method; });
    return command;
  };
  CLI::App* pull = add("pull", &Client::Pull);
  pull->add_option("REF", flags.reference)->required();
  pull->add_option("--creds", flags.credentials, "USER:PASSWORD");
  for (const auto& [name, method] : {std::pair{"run", &Client::Run}, std::pair{"start", &Client::Start}}) {
    CLI::App* command = add(name, method);
    command->add_option("REF", flags.reference)->required();
    command->add_option("--name", flags.name);
    command->add_option("--env", flags.environment)->allow_extra_args(false);
    command->add_option("--timing", flags.timing_file);
    command->add_option("CMD", flags.command);
  }
  add("wait", &Client::Wait)->add_option("CONTAINER", flags.ids)->required();
  add("logs", &Client::Logs)->add_option("CONTAINER", flags.ids)->required();
  add("rm", &Client::Remove)->add_option("POD", flags.ids)->required();
  add("rmi", &Client::RemoveImages)->add_option("REF", flags.ids)->required();
  add("rmall", &Client::RemoveAll);
  add("images", &Client::Images);
  add("ps", &Client::Containers);
  add("pods", &Client::Pods);
  add("version", &Client::Version);
  add("config", &Client::Config);
  add("fsinfo", &Client::FsInfo);
  CLI11_PARSE(app, argc, argv);
  try {
    return (Client(flags).*action)();
  } catch (const Refused& refused) {
    fmt::print(stderr, "cri_client: {}: {} (code {})\n", refused.call, refused.status.error_message(),
               static_cast<int>(refused.status.error_code()));
    return kExitRefused;
  }
}

}  // namespace
}  // namespace banyan::tests

int main(int argc, char** argv) {
  try {
    return banyan::tests::Main(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "cri_client: {}\n", error.what());
    return 125;
  }
}
