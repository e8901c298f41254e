#include "net/testing/docker_registry.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <thread>

#include <fmt/format.h>

namespace banyan::net::testing {

namespace {

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// Somebody else may take it before we do; then Launch() fails and says so.
Result<uint16_t> FreePort() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = Loopback(0);
  socklen_t length = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (!fd || ::bind(fd.get(), generic, length) != 0 || ::getsockname(fd.get(), generic, &length) != 0) {
    return FailErrno("find a free port", errno);
  }
  return ntohs(address.sin_port);
}

bool Accepts(uint16_t port) {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = Loopback(port);
  return fd && ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

// fork and exec; the child dies with its parent. -1 on failure.
pid_t Spawn(const std::vector<std::string>& arguments, const std::string& output_file) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const std::string output = output_file.empty() ? "/dev/null" : output_file;
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int fd = ::open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  const int null = ::open("/dev/null", O_RDONLY);
  ::dup2(null, 0);
  ::dup2(fd, 1);
  ::dup2(fd, 2);
  ::execvp(argv[0], argv.data());
  ::_exit(127);
}

Status MakeCertificate(const std::string& directory) {
  const std::string ca = directory + "/ca";
  const std::string server = directory + "/server";
  const std::string log = directory + "/openssl.log";
  BANYAN_TRY(RunProgram({"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                         "-keyout", ca + ".key", "-out", ca + ".pem", "-days", "2", "-subj", "/CN=Banyan test CA"},
                        log));
  BANYAN_TRY(RunProgram({"openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                         server + ".key", "-out", server + ".csr", "-subj", "/CN=localhost"},
                        log));
  BANYAN_TRY(WriteFileDurably(server + ".ext", "subjectAltName=DNS:localhost,IP:127.0.0.1\n"));
  return RunProgram({"openssl", "x509", "-req", "-in", server + ".csr", "-CA", ca + ".pem", "-CAkey", ca + ".key",
                     "-CAcreateserial", "-out", server + ".pem", "-days", "2", "-extfile", server + ".ext"},
                    log);
}

}  // namespace

Status RunProgram(const std::vector<std::string>& arguments, const std::string& output_file) {
  const pid_t pid = Spawn(arguments, output_file);
  int status = 0;
  while (pid > 0 && ::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (pid < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return Fail(Code::kFailedPrecondition, fmt::format("{} failed (see {})", arguments.front(), output_file));
  }
  return {};
}

Status DockerRegistry::Configure(const DockerRegistryOptions& options) {
  const std::string& root = directory_.path();
  BANYAN_ASSIGN(port_, FreePort());
  std::string config = fmt::format(
      "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n"
      "storage: {{filesystem: {{rootdirectory: {}/data}}, delete: {{enabled: true}}}}\nhttp:\n  addr: 127.0.0.1:{}\n",
      root, port_);
  if (options.tls) {
    BANYAN_TRY(MakeCertificate(root));
    config += fmt::format("  tls: {{certificate: {0}/server.pem, key: {0}/server.key}}\n", root);
  }
  if (!options.username.empty()) {
    BANYAN_TRY(RunProgram({"htpasswd", "-Bbn", options.username, options.password}, root + "/htpasswd"));
    config += fmt::format("auth: {{htpasswd: {{realm: test, path: {}/htpasswd}}}}\n", root);
  }
  return WriteFileDurably(root + "/config.yml", config);
}

Status DockerRegistry::Launch() {
  pid_ = Spawn({"docker-registry", "serve", directory_.path() + "/config.yml"}, directory_.path() + "/log");
  for (int i = 0; i < 500; ++i) {
    if (Accepts(port_)) return {};
    if (::waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = -1;
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  const Result<std::string> log = ReadFile(directory_.path() + "/log");
  return Fail(Code::kFailedPrecondition, "docker-registry does not start: " + (log ? log->substr(0, 1000) : "no log"));
}

Result<std::unique_ptr<DockerRegistry>> DockerRegistry::Start(const DockerRegistryOptions& options) {
  if (::access("/usr/bin/docker-registry", X_OK) != 0) return Fail(Code::kNotFound, "docker-registry is not installed");
  BANYAN_ASSIGN(TempDir directory, TempDir::Make("banyan-registry"));
  std::unique_ptr<DockerRegistry> registry(new DockerRegistry(std::move(directory)));
  BANYAN_TRY(registry->Configure(options));
  BANYAN_TRY(registry->Launch());
  return registry;
}

DockerRegistry::~DockerRegistry() { Stop(); }

void DockerRegistry::Stop() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

Status DockerRegistry::Restart() {
  Stop();
  return Launch();
}

}  // namespace banyan::net::testing
