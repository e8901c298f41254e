// banyan-keeper: holds the FUSE descriptors and request journals of a node's agent, so that mounts outlive the agent,
// and (with --supervise) starts the agent and starts it again when it dies.
//
// It must never need an update or a restart of its own: one thread, no configuration, no libraries, about a megabyte.
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "common/unique_fd.h"
#include "lazyfs/keeper_server.h"

namespace {

using banyan::UniqueFd;
using banyan::lazyfs::keeper::Server;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr char kUsage[] =
    R"(Usage: banyan-keeper --socket PATH [--supervise -- COMMAND [ARG…]]

Holds the descriptors of FUSE sessions for a process that may die, and gives them
to its successor. While the keeper lives, readers of a dead server's mounts wait;
they do not fail.

  --socket PATH   unix socket to listen on (made with mode 0600; only processes
                  of this user are served; at most 107 bytes)
  --supervise     start COMMAND with BANYAN_KEEPER_SOCKET=PATH in its environment;
                  start it again, after 0.1 s growing to 5 s, when it dies by a
                  signal or with a status other than 0; end when it ends with 0
  --help          print this and exit
  --version       print the version and exit

SIGTERM and SIGINT go to COMMAND, and the keeper ends with it; without --supervise
they end the keeper. When the keeper ends, mounts whose server is dead are lost:
stop the server first, or let it unmount. Under systemd use KillMode=mixed, or run
keeper and agent as two units.
)";

constexpr milliseconds kFirstBackoff{100};
constexpr milliseconds kLastBackoff{5000};
// A command that ran this long had started well: back to the first backoff.
constexpr milliseconds kHealthyAfter{10'000};

struct Arguments {
  std::string socket_path;
  bool supervise = false;
  std::vector<char*> command;  // ends with a null pointer
};

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "banyan-keeper: %s\n", message.c_str());
  std::exit(2);
}

Arguments ParseArguments(int argc, char** argv) {
  Arguments arguments;
  int i = 1;
  for (; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--help" || word == "-h") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    }
    if (word == "--version") {
      std::puts("banyan-keeper " BANYAN_VERSION);
      std::exit(0);
    }
    if (word == "--") {
      ++i;
      break;
    }
    if (word == "--supervise") {
      arguments.supervise = true;
    } else if (word == "--socket" && i + 1 < argc) {
      arguments.socket_path = argv[++i];
    } else if (word.rfind("--socket=", 0) == 0) {
      arguments.socket_path = word.substr(std::strlen("--socket="));
    } else {
      Die("unknown or incomplete argument " + word + " (see --help)");
    }
  }
  for (; i < argc; ++i) arguments.command.push_back(argv[i]);
  if (arguments.socket_path.empty()) Die("--socket is missing (see --help)");
  if (arguments.supervise == arguments.command.empty())
    Die("--supervise and a command after -- go together (see --help)");
  arguments.command.push_back(nullptr);
  return arguments;
}

// The supervised command's life.
class Supervisor {
 public:
  explicit Supervisor(std::vector<char*> command) : command_(std::move(command)) {}

  void Start() {
    started_ = Clock::now();
    restart_at_.reset();
    const pid_t keeper = getpid();
    pid_ = fork();
    if (pid_ == 0) {
      sigset_t none;
      sigemptyset(&none);
      sigprocmask(SIG_SETMASK, &none, nullptr);
      if (getppid() != keeper) _exit(1);
      execvp(command_[0], command_.data());
      std::fprintf(stderr, "banyan-keeper: %s: %s\n", command_[0], std::strerror(errno));
      _exit(127);
    }
    if (pid_ < 0) {
      std::fprintf(stderr, "banyan-keeper: fork: %s\n", std::strerror(errno));
      pid_ = 0;
      ScheduleRestart();
    }
  }

  // Returns the keeper's exit status when it is to end.
  std::optional<int> Reap() {
    int status = 0;
    while (pid_ > 0 && waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = 0;
      const bool clean = WIFEXITED(status) && WEXITSTATUS(status) == 0;
      if (clean) return 0;
      if (stopping_) return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      if (WIFSIGNALED(status)) {
        std::fprintf(stderr, "banyan-keeper: %s was killed by signal %d\n", command_[0], WTERMSIG(status));
      } else {
        std::fprintf(stderr, "banyan-keeper: %s ended with status %d\n", command_[0], WEXITSTATUS(status));
      }
      ScheduleRestart();
    }
    return std::nullopt;
  }

  // SIGTERM or SIGINT. Returns true when there is nothing to wait for.
  bool Stop(int signal_number) {
    stopping_ = true;
    if (pid_ <= 0) return true;
    kill(pid_, signal_number);
    return false;
  }

  int PollTimeout() const {
    if (!restart_at_) return -1;
    const auto rest = std::chrono::duration_cast<milliseconds>(*restart_at_ - Clock::now()).count();
    return static_cast<int>(std::max<long long>(rest + 1, 0));
  }

  void RestartIfDue() {
    if (restart_at_ && Clock::now() >= *restart_at_) Start();
  }

 private:
  void ScheduleRestart() {
    if (Clock::now() - started_ >= kHealthyAfter) backoff_ = kFirstBackoff;
    restart_at_ = Clock::now() + backoff_;
    backoff_ = std::min(backoff_ * 2, kLastBackoff);
  }

  std::vector<char*> command_;
  pid_t pid_ = 0;
  bool stopping_ = false;
  Clock::time_point started_;
  milliseconds backoff_ = kFirstBackoff;
  std::optional<Clock::time_point> restart_at_;
};

UniqueFd SignalDescriptor() {
  sigset_t signals;
  sigemptyset(&signals);
  for (int number : {SIGCHLD, SIGTERM, SIGINT}) sigaddset(&signals, number);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return UniqueFd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

// Returns the exit status when the keeper is to end.
std::optional<int> HandleSignals(int signal_fd, std::optional<Supervisor>& supervisor) {
  signalfd_siginfo info{};
  while (read(signal_fd, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
    const int number = static_cast<int>(info.ssi_signo);
    if (number == SIGCHLD) continue;
    if (!supervisor || supervisor->Stop(number)) return 0;
  }
  return supervisor ? supervisor->Reap() : std::nullopt;
}

int Run(const Arguments& arguments) {
  UniqueFd listener;
  if (const int error = banyan::lazyfs::keeper::Listen(arguments.socket_path, &listener); error != 0) {
    Die("listening on " + arguments.socket_path + ": " + std::strerror(error));
  }
  const UniqueFd signals = SignalDescriptor();
  if (!signals) Die(std::string("signalfd: ") + std::strerror(errno));
  setenv("BANYAN_KEEPER_SOCKET", arguments.socket_path.c_str(), 1);
  Server server(std::move(listener));
  std::optional<Supervisor> supervisor;
  if (arguments.supervise) supervisor.emplace(arguments.command).Start();
  for (;;) {
    std::vector<pollfd> polls{{signals.get(), POLLIN, 0}};
    server.AppendPolls(polls);
    if (poll(polls.data(), polls.size(), supervisor ? supervisor->PollTimeout() : -1) < 0 && errno != EINTR) {
      Die(std::string("poll: ") + std::strerror(errno));
    }
    if (supervisor) supervisor->RestartIfDue();
    if (const std::optional<int> status = HandleSignals(signals.get(), supervisor)) {
      unlink(arguments.socket_path.c_str());
      return *status;
    }
    server.Step(polls);
  }
}

}  // namespace

int main(int argc, char** argv) {
  // An agent that is short of memory must die before the one who lets it come back.
  prctl(PR_SET_NAME, "banyan-keeper");
  return Run(ParseArguments(argc, argv));
}
