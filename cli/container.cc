#include "cli/container.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <sstream>
#include <string_view>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/unique_fd.h"

namespace banyan::cli {

namespace {

using std::chrono::steady_clock;

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Result<Pipe> MakePipe() {
  std::array<int, 2> fds{};
  if (::pipe2(fds.data(), O_CLOEXEC) != 0) return FailErrno("make a pipe", errno);
  return Pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

Status Mount(const char* source, const std::string& target, const char* type, unsigned long flags, const char* data) {
  if (::mount(source, target.c_str(), type, flags, data) == 0) return {};
  return FailErrno(fmt::format("mount {} on {}", type != nullptr ? type : source, target), errno);
}

// ---- Inside the new namespaces. Each function may use the whole of the process: nothing of the parent is shared. ----

Status MountDevices(const std::string& root) {
  const std::string dev = root + "/dev";
  BANYAN_TRY(Mount("tmpfs", dev, "tmpfs", MS_NOSUID, "mode=755,size=64k"));
  for (const char* name : {"null", "zero", "full", "random", "urandom", "tty"}) {
    const std::string path = dev + "/" + name;
    BANYAN_ASSIGN(const UniqueFd file, OpenFile(path, O_CREAT | O_WRONLY, 0666));
    BANYAN_TRY(Mount((std::string("/dev/") + name).c_str(), path, nullptr, MS_BIND, nullptr));
  }
  BANYAN_TRY(MakeDirectories(dev + "/pts"));
  BANYAN_TRY(MakeDirectories(dev + "/shm"));
  BANYAN_TRY(Mount("devpts", dev + "/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"));
  BANYAN_TRY(Mount("tmpfs", dev + "/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"));
  const std::array<std::array<const char*, 2>, 5> links = {{{"pts/ptmx", "/ptmx"},
                                                            {"/proc/self/fd", "/fd"},
                                                            {"/proc/self/fd/0", "/stdin"},
                                                            {"/proc/self/fd/1", "/stdout"},
                                                            {"/proc/self/fd/2", "/stderr"}}};
  for (const auto& [target, name] : links) {
    if (::symlink(target, (dev + name).c_str()) != 0) return FailErrno("link /dev" + std::string(name), errno);
  }
  return {};
}

// A mount point the image lacks is made in the overlay's upper directory.
Status EnsureDirectory(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) == 0 && !S_ISDIR(info.st_mode)) {
    return Fail(Code::kFailedPrecondition, path + " is not a directory in this image");
  }
  return MakeDirectories(path);
}

Status EnterRoot(const ContainerSpec& spec) {
  BANYAN_TRY(Mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  const std::string merged = spec.scratch + "/merged";
  for (const char* name : {"/upper", "/work", "/merged"}) BANYAN_TRY(MakeDirectories(spec.scratch + name));
  const std::string options =
      fmt::format("lowerdir={},upperdir={}/upper,workdir={}/work", spec.lower, spec.scratch, spec.scratch);
  BANYAN_TRY(Mount("overlay", merged, "overlay", 0, options.c_str()));
  for (const char* name : {"/proc", "/dev", "/sys"}) BANYAN_TRY(EnsureDirectory(merged + name));
  BANYAN_TRY(Mount("proc", merged + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr));
  BANYAN_TRY(MountDevices(merged));
  // The host's network is shared, so its names are too, where the image has files to put them over.
  for (const char* name : {"/etc/resolv.conf", "/etc/hosts"}) {
    struct stat info {};
    if (::lstat((merged + name).c_str(), &info) != 0 || !S_ISREG(info.st_mode) || ::access(name, R_OK) != 0) continue;
    BANYAN_TRY(Mount(name, merged + name, nullptr, MS_BIND, nullptr));
  }
  // Where sysfs may not be mounted (a nested container), the command does without.
  (void)Mount("sysfs", merged + "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, nullptr);
  if (::chdir(merged.c_str()) != 0) return FailErrno("enter " + merged, errno);
  if (::syscall(SYS_pivot_root, ".", ".") != 0) return FailErrno("pivot_root to " + merged, errno);
  if (::umount2(".", MNT_DETACH) != 0) return FailErrno("leave the old root", errno);
  if (::chdir("/") != 0) return FailErrno("enter the new root", errno);
  if (::sethostname(spec.hostname.data(), spec.hostname.size()) != 0) return FailErrno("set the host name", errno);
  return {};
}

std::optional<uint32_t> Number(std::string_view text) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// The fields of the line of a passwd-like file whose field `key_field` is `key`; empty when there is none.
std::vector<std::string> FindLine(const std::string& path, size_t key_field, const std::string& key) {
  const auto text = ReadFile(path, 16 << 20);
  std::istringstream lines(text ? *text : std::string());
  for (std::string line; std::getline(lines, line);) {
    std::vector<std::string> fields;
    std::istringstream parts(line);
    for (std::string field; std::getline(parts, field, ':');) fields.push_back(field);
    if (fields.size() > key_field && fields[key_field] == key) return fields;
  }
  return {};
}

Status BecomeUser(const std::string& user) {
  if (user.empty()) return {};
  const size_t colon = user.find(':');
  const std::string name = user.substr(0, colon);
  std::optional<uint32_t> uid = Number(name);
  std::optional<uint32_t> gid;
  const auto entry = FindLine("/etc/passwd", uid ? 2 : 0, name);
  if (entry.size() > 3) {
    uid = Number(entry[2]);
    gid = Number(entry[3]);
  }
  if (colon != std::string::npos) {
    const std::string group = user.substr(colon + 1);
    gid = Number(group);
    if (const auto line = FindLine("/etc/group", 0, group); !gid && line.size() > 2) gid = Number(line[2]);
    if (!gid)
      return Fail(Code::kNotFound,
                  fmt::format("group '{}' of the image's user '{}' is not in its /etc/group", group, user));
  }
  if (!uid) return Fail(Code::kNotFound, fmt::format("the image's user '{}' is not in its /etc/passwd", user));
  const gid_t group_id = gid.value_or(0);
  if (::setgroups(1, &group_id) != 0 || ::setgid(group_id) != 0 || ::setuid(*uid) != 0) {
    return FailErrno("become user " + user, errno);
  }
  return {};
}

std::vector<char*> Pointers(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

Error Exec(const ContainerSpec& spec) {
  if (::chdir(spec.working_directory.c_str()) != 0) {
    return ErrnoError("enter the working directory " + spec.working_directory, errno);
  }
  if (Status status = BecomeUser(spec.user); !status) return status.error();
  std::vector<char*> environment = Pointers(spec.environment);
  ::environ = environment.data();  // execvp searches the PATH of this environment.
  ::execvp(spec.arguments[0].c_str(), Pointers(spec.arguments).data());
  return ErrnoError("run " + spec.arguments[0], errno);
}

std::atomic<pid_t> signal_target{0};

void PassOn(int signal) {
  if (const pid_t target = signal_target; target > 0) ::kill(target, signal);
}

void PassSignalsTo(pid_t target) {
  signal_target = target;
  struct sigaction action {};
  action.sa_handler = PassOn;
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
}

int ExitCodeOfWait(int status) { return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status); }

[[noreturn]] void FailInside(int report_fd, const Error& error) {
  (void)WriteFull(report_fd, std::as_bytes(std::span(error.message)), "report");
  ::_exit(127);
}

// Process 1 of the new pid namespace. Errors before the command runs go to `report_fd`, which exec closes.
[[noreturn]] void Init(const ContainerSpec& spec, int report_fd) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // The namespace goes when the command line does.
  if (Status status = EnterRoot(spec); !status) FailInside(report_fd, status.error());
  const pid_t command = ::fork();
  if (command < 0) FailInside(report_fd, ErrnoError("fork", errno));
  if (command == 0) FailInside(report_fd, Exec(spec));
  ::close(report_fd);
  ::close(STDOUT_FILENO);  // So that the reader sees the end when the command's own descriptors are closed.
  ::close(STDERR_FILENO);
  PassSignalsTo(command);
  int status = 0;
  for (pid_t ended = 0; ended != command;) ended = ::waitpid(-1, &status, 0);
  ::_exit(ExitCodeOfWait(status));
}

// ---- Outside. ----

// Copies both pipes to our own output until both end; returns when the first byte came.
std::optional<steady_clock::time_point> PumpOutput(int output, int errors) {
  std::optional<steady_clock::time_point> first;
  std::array<pollfd, 2> polls = {{{output, POLLIN, 0}, {errors, POLLIN, 0}}};
  std::vector<std::byte> buffer(64 * 1024);
  while (polls[0].fd >= 0 || polls[1].fd >= 0) {
    if (::poll(polls.data(), polls.size(), -1) < 0) {
      if (errno == EINTR) continue;
      break;
    }
    for (size_t i = 0; i < polls.size(); ++i) {
      if (polls[i].fd < 0 || polls[i].revents == 0) continue;
      const ssize_t count = ::read(polls[i].fd, buffer.data(), buffer.size());
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) {
        polls[i].fd = -1;
        continue;
      }
      if (!first) first = steady_clock::now();
      const int target = i == 0 ? STDOUT_FILENO : STDERR_FILENO;
      (void)WriteFull(target, std::span(buffer).first(static_cast<size_t>(count)), "output");
    }
  }
  return first;
}

std::string ReadAll(int fd) {
  std::string text;
  std::array<char, 1024> buffer{};
  while (true) {
    const ssize_t count = ::read(fd, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return text;
    text.append(buffer.data(), static_cast<size_t>(count));
  }
}

}  // namespace

Result<ContainerResult> RunContainer(const ContainerSpec& spec, steady_clock::time_point started) {
  BANYAN_ASSIGN(Pipe report, MakePipe());
  BANYAN_ASSIGN(Pipe output, MakePipe());
  BANYAN_ASSIGN(Pipe errors, MakePipe());

  // Like fork, with the new namespaces from the start: no second process is needed to be number 1 in them.
  constexpr unsigned long kFlags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD;
  const auto child = static_cast<pid_t>(::syscall(SYS_clone, kFlags, nullptr, nullptr, nullptr, nullptr));
  if (child < 0) return FailErrno("make namespaces for the command", errno);
  if (child == 0) {
    if (spec.time_output) {
      ::dup2(output.write.get(), STDOUT_FILENO);
      ::dup2(errors.write.get(), STDERR_FILENO);
    }
    Init(spec, report.write.get());
  }
  PassSignalsTo(child);
  report.write.reset();
  output.write.reset();
  errors.write.reset();

  const std::string failure = ReadAll(report.read.get());  // Ends when the command has been exec'ed.
  ContainerResult result;
  if (spec.time_output) {
    if (const auto first = PumpOutput(output.read.get(), errors.read.get())) {
      result.first_output = std::chrono::duration_cast<std::chrono::microseconds>(*first - started);
    }
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  signal_target = 0;
  if (!failure.empty()) return Fail(Code::kFailedPrecondition, failure);
  result.exit_code = ExitCodeOfWait(status);
  result.total = std::chrono::duration_cast<std::chrono::microseconds>(steady_clock::now() - started);
  return result;
}

}  // namespace banyan::cli
