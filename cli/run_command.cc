// `banyan run REF -- CMD…`: mounts the image, runs the command above it, and says at the end what was read, from where,
// and how long the first output took.
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/agent_client.h"
#include "cli/command.h"
#include "cli/container.h"
#include "cli/mount_request.h"
#include "cli/text.h"
#include "common/file_io.h"
#include "image-format/oci.h"

namespace banyan::cli {

namespace {

using std::chrono::steady_clock;

constexpr const char* kDefaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

constexpr int kExitCannotRun = 127;  // as shells say it

struct RunFlags {
  std::string reference;
  std::vector<std::string> arguments;
  std::vector<std::string> environment;
  std::string entrypoint;
  std::string working_directory;
  std::string user;
  std::string form = "auto";
  bool fill = false;
  bool inherit_output = false;
};

// <data-root>/runs/<pid>, with the mount and the overlay below it; goes with the object. What a killed run left behind
// goes with the next run.
class RunDirectory {
 public:
  static Result<RunDirectory> Make(AgentClient& client, const std::string& data_root) {
    const std::string runs = data_root + "/runs";
    BANYAN_TRY(MakeDirectories(runs, 0700));
    RemoveStale(client, runs);
    RunDirectory directory(client, fmt::format("{}/{}", runs, ::getpid()));
    BANYAN_TRY(MakeDirectories(directory.image()));
    BANYAN_TRY(MakeDirectories(directory.scratch()));
    return directory;
  }
  ~RunDirectory() {
    if (!path_.empty()) Remove(*client_, path_);
  }
  RunDirectory(RunDirectory&& other) noexcept : client_(other.client_), path_(std::exchange(other.path_, {})) {}
  RunDirectory& operator=(RunDirectory&&) = delete;

  std::string image() const { return path_ + "/image"; }
  std::string scratch() const { return path_ + "/scratch"; }

 private:
  RunDirectory(AgentClient& client, std::string path) : client_(&client), path_(std::move(path)) {}

  static void Remove(AgentClient& client, const std::string& path) {
    (void)client.Umount(path + "/image", true);  // Not mounted: nothing to do.
    std::error_code error;
    std::filesystem::remove_all(path + "/scratch", error);
    // Only empty directories are left; a mount that would not go keeps them.
    std::filesystem::remove(path + "/image", error);
    std::filesystem::remove(path, error);
  }

  static void RemoveStale(AgentClient& client, const std::string& runs) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(runs, error)) {
      const std::string name = entry.path().filename().string();
      pid_t pid = 0;
      const auto parsed = std::from_chars(name.data(), name.data() + name.size(), pid);
      if (parsed.ec != std::errc() || pid <= 0 || ::kill(pid, 0) == 0 || errno != ESRCH) continue;
      Remove(client, entry.path().string());
    }
  }

  AgentClient* client_;
  std::string path_;
};

// The image's environment with the user's on top; a later value replaces an earlier one.
std::vector<std::string> Environment(const image_format::ImageConfig& config, const std::vector<std::string>& extra) {
  std::map<std::string, std::string> values;
  const auto put = [&values](const std::string& assignment) {
    values[assignment.substr(0, assignment.find('='))] = assignment;
  };
  put(kDefaultPath);
  put("HOME=/root");
  put("HOSTNAME=banyan");
  if (const char* term = std::getenv("TERM"); term != nullptr) put(std::string("TERM=") + term);
  for (const std::string& assignment : config.env) put(assignment);
  for (const std::string& assignment : extra) put(assignment);
  std::vector<std::string> environment;
  for (auto& [name, assignment] : values) environment.push_back(assignment);
  return environment;
}

Result<ContainerSpec> MakeSpec(const RunFlags& flags, const std::string& config_json) {
  BANYAN_ASSIGN(const image_format::ImageConfig config, image_format::ParseImageConfig(config_json));
  ContainerSpec spec;
  spec.arguments = flags.entrypoint.empty() ? config.entrypoint : std::vector<std::string>{flags.entrypoint};
  const auto& command = flags.arguments.empty() && flags.entrypoint.empty() ? config.cmd : flags.arguments;
  spec.arguments.insert(spec.arguments.end(), command.begin(), command.end());
  if (spec.arguments.empty()) {
    return Fail(Code::kInvalidArgument, "the image names no command to run: give one after --");
  }
  spec.environment = Environment(config, flags.environment);
  spec.working_directory = !flags.working_directory.empty() ? flags.working_directory
                           : !config.working_dir.empty()    ? config.working_dir
                                                            : "/";
  spec.user = flags.user.empty() ? config.user : flags.user;
  spec.time_output = !flags.inherit_output;
  return spec;
}

using Sources = std::map<std::string, proto::agent::SourceStats>;

Sources SourcesOf(const proto::agent::StatsReply& stats) {
  Sources sources;
  for (const auto& source : stats.sources()) sources[source.source()] = source;
  return sources;
}

struct Report {
  ContainerResult result;
  proto::agent::MountReply mount;
  uint64_t reads = 0;
  uint64_t read_bytes = 0;
  Sources sources;  // since the run began
};

Report MakeReport(const ContainerResult& result, const proto::agent::MountReply& mount,
                  const proto::agent::StatsReply& before, const proto::agent::StatsReply& after) {
  Report report{result, mount, after.reads() - before.reads(), after.read_bytes() - before.read_bytes(),
                SourcesOf(after)};
  for (const auto& [name, earlier] : SourcesOf(before)) {
    auto& source = report.sources[name];
    source.set_requests(source.requests() - earlier.requests());
    source.set_chunks(source.chunks() - earlier.chunks());
    source.set_compressed_bytes(source.compressed_bytes() - earlier.compressed_bytes());
  }
  return report;
}

std::string Seconds(std::chrono::microseconds time) {
  return fmt::format("{:.3f} s", static_cast<double>(time.count()) / 1e6);
}

void PrintText(const Report& report) {
  const auto mounted = std::chrono::microseconds(report.mount.times().mounted());
  fmt::print(stderr, "banyan: mounted after {} (form: {}), first output after {}, done after {}\n", Seconds(mounted),
             report.mount.form(), report.result.first_output ? Seconds(*report.result.first_output) : "(none)",
             Seconds(report.result.total));
  fmt::print(stderr, "banyan: the kernel asked for {} in {} reads;", HumanBytes(report.read_bytes), report.reads);
  bool any = false;
  for (const auto& [name, source] : report.sources) {
    if (source.chunks() == 0) continue;
    fmt::print(stderr, "{} {}: {} chunks, {} compressed, {} requests", any ? ";" : "", name, source.chunks(),
               HumanBytes(source.compressed_bytes()), source.requests());
    any = true;
  }
  fmt::print(stderr, "{}\n", any ? "" : " all of it was on this node");
}

void PrintJson(const Report& report) {
  nlohmann::json sources = nlohmann::json::object();
  for (const auto& [name, source] : report.sources) {
    sources[name] = {
        {"chunks", source.chunks()}, {"compressed_bytes", source.compressed_bytes()}, {"requests", source.requests()}};
  }
  nlohmann::json json = {{"exit_code", report.result.exit_code},
                         {"form", report.mount.form()},
                         {"mounted_us", report.mount.times().mounted()},
                         {"first_output_us", nullptr},
                         {"total_us", report.result.total.count()},
                         {"reads", report.reads},
                         {"read_bytes", report.read_bytes},
                         {"sources", sources}};
  if (report.result.first_output) json["first_output_us"] = report.result.first_output->count();
  fmt::print(stderr, "{}\n", json.dump());  // Standard output is the command's.
}

int Run(const RunFlags& flags, const GlobalOptions& globals) {
  const auto started = steady_clock::now();
  const std::string subject = fmt::format("run {}", flags.reference);
  const std::string data_root = AbsolutePath(globals.data_root);
  auto client = AgentClient::ConnectOrStart(data_root);
  if (!client) return ReportError(globals, subject, client.error(), Asked::kAgent);
  Asked asked = Asked::kAgent;
  const auto run = [&]() -> Result<int> {
    BANYAN_ASSIGN(const RunDirectory directory, RunDirectory::Make(*client, data_root));
    BANYAN_ASSIGN(const auto before, client->Stats(""));
    BANYAN_ASSIGN(auto request, MakeMountRequest(globals, flags.reference, directory.image(), flags.form));
    request.set_fill(flags.fill);
    request.set_want_config(true);
    request.set_owner_pid(::getpid());
    const auto mount = client->Mount(request);
    if (!mount) {
      asked = client->asked();
      return Fail(mount.error());
    }
    BANYAN_ASSIGN(ContainerSpec spec, MakeSpec(flags, mount->image_config()));
    spec.lower = directory.image();
    spec.scratch = directory.scratch();
    const auto ran = RunContainer(spec, started);
    if (!ran) {
      ReportError(globals, subject, ran.error(), Asked::kNobody);
      return kExitCannotRun;
    }
    const ContainerResult& result = *ran;
    if (globals.json || !globals.quiet) {
      BANYAN_ASSIGN(const auto after, client->Stats(""));
      const Report report = MakeReport(result, *mount, before, after);
      globals.json ? PrintJson(report) : PrintText(report);
    }
    return result.exit_code;
  };
  const Result<int> exit_code = run();
  return exit_code ? *exit_code : ReportError(globals, subject, exit_code.error(), asked);
}

}  // namespace

void AddRunCommand(CLI::App& app, GlobalOptions& globals) {
  auto flags = std::make_shared<RunFlags>();
  CLI::App* command = app.add_subcommand("run", "Run a command on an image whose data arrive as they are read");
  command->add_option("REF", flags->reference, "The image: docker://host/name:tag or oci:directory:tag")->required();
  command->add_option("CMD", flags->arguments, "Command and arguments (after --); default: the image's own");
  command->add_option("-e,--env", flags->environment, "NAME=value for the command; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--entrypoint", flags->entrypoint, "Run this instead of the image's entry point");
  command->add_option("-w,--workdir", flags->working_directory, "Working directory; default: the image's");
  command->add_option("-u,--user", flags->user, "User or uid[:gid]; default: the image's");
  command->add_option("--form", flags->form, "How to mount: auto, file, loop, tree")
      ->check(CLI::IsMember({"auto", "file", "loop", "tree"}))
      ->capture_default_str();
  command->add_flag("--fill", flags->fill, "Fetch the rest of the image in the background");
  command->add_flag("-t,--tty", flags->inherit_output,
                    "Give the command this terminal; its first output is then not timed");
  command->footer(R"(
The command sees the image below a writable overlay that goes when it ends, in its own mount, pid, ipc and uts namespaces, with
the host's network. This shows an image at work; it is no security boundary. Needs root. Exits with the command's exit code (127: it could not be run); what
was read, and from where, is printed on standard error (with --json too:
standard output is the command's).

Examples:
  banyan run docker://registry.example/app:1
  banyan run docker://registry.example/python:3 -- python3 -c "import numpy"
  banyan run -t oci:/srv/images:app -- bash)");
  command->callback([flags, &globals] { globals.action = [flags, &globals] { return Run(*flags, globals); }; });
}

}  // namespace banyan::cli
