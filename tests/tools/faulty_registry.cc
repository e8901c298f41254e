// A proxy in front of a registry that breaks what it is told to break.
//
//   faulty_registry --upstream HOST:PORT --faults FILE --port-file FILE
//
// Listens on a free loopback port, which it writes to --port-file. FILE is read again for each request; each line is a
// fault, the first that matches and is not used up acts:
//
//   status=503 | cut=BYTES | stall=BYTES | flip=OFFSET | hang | whole     what happens (see Fault)
//     [method=GET] [path=TEXT] [range]                                    to which requests (TEXT: part of the target)
//     [skip=N] [times=N]                                                  how many go well before, how many fail
//
// Counts begin anew when the text of FILE changes. On standard output stands a line for each request, its fault at the
// end. Bodies are held in memory whole.
#include <signal.h>

#include <array>
#include <cstdio>
#include <iterator>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "common/file_io.h"
#include "common/settings.h"
#include "net/http_client.h"
#include "net/http_server.h"
#include "net/range_header.h"

namespace banyan::tests {
namespace {

using Headers = std::vector<std::pair<std::string, std::string>>;

constexpr std::array kRequestHeaders = {"accept", "authorization", "content-range", "content-type", "range"};
constexpr std::array kResponseHeaders = {
    "accept-ranges", "content-range", "content-type", "docker-content-digest", "docker-upload-uuid", "link",
    "location",      "oci-subject",   "range",        "www-authenticate"};

struct Fault {
  enum class Kind {
    kStatus,  // answers `value` without asking upstream
    kCut,     // closes the connection after `value` bytes of the body
    kStall,   // sends nothing more after `value` bytes of the body
    kFlip,    // inverts one bit of the body's byte `value` (the last, if it is shorter)
    kHang,    // never answers
    kWhole,   // ignores the Range header
  };
  Kind kind = Kind::kStatus;
  uint64_t value = 0;
  std::string method;
  std::string path;
  bool range_only = false;
  uint64_t skip = 0;
  uint64_t times = std::numeric_limits<uint64_t>::max();
  std::string text;

  bool Matches(const net::HttpRequest& request) const {
    return (method.empty() || method == request.method) && request.target.find(path) != std::string::npos &&
           (!range_only || request.headers.Find("range") != nullptr);
  }
  bool ActsOnBody() const { return kind == Kind::kCut || kind == Kind::kStall || kind == Kind::kFlip; }
};

// False: no such word.
bool ReadWord(const std::string& word, Fault& fault) {
  static const std::vector<std::pair<std::string_view, Fault::Kind>> kinds = {
      {"status", Fault::Kind::kStatus}, {"cut", Fault::Kind::kCut},   {"stall", Fault::Kind::kStall},
      {"flip", Fault::Kind::kFlip},     {"hang", Fault::Kind::kHang}, {"whole", Fault::Kind::kWhole}};
  const std::string key = word.substr(0, word.find('='));
  const std::string value = word.size() > key.size() ? word.substr(key.size() + 1) : "";
  const uint64_t number = net::ParseDecimal(value).value_or(0);
  for (const auto& [name, kind] : kinds) {
    if (key != name) continue;
    fault.kind = kind;
    fault.value = number;
    return true;
  }
  if (key == "method") fault.method = value;
  if (key == "path") fault.path = value;
  if (key == "range") fault.range_only = true;
  if (key == "skip") fault.skip = number;
  if (key == "times") fault.times = number;
  return key == "method" || key == "path" || key == "range" || key == "skip" || key == "times";
}

Fault ReadFault(const std::string& line) {
  Fault fault;
  fault.text = line;
  std::istringstream words(line);
  for (std::string word; words >> word;) {
    if (ReadWord(word, fault)) continue;
    fmt::print(stderr, "faulty_registry: '{}' in '{}' is no fault\n", word, line);
    std::exit(2);
  }
  return fault;
}

// The file of faults. Internally synchronised.
class Faults {
 public:
  explicit Faults(std::string path) : path_(std::move(path)) {}

  std::optional<Fault> Take(const net::HttpRequest& request) {
    const std::lock_guard lock(mutex_);
    ReadAgain();
    for (Fault& fault : faults_) {
      if (!fault.Matches(request)) continue;
      if (fault.skip > 0) {
        --fault.skip;
        continue;
      }
      if (fault.times == 0) continue;
      --fault.times;
      return fault;
    }
    return std::nullopt;
  }

 private:
  void ReadAgain() {
    const auto text = ReadFile(path_, kMiB);
    if (!text || *text == text_) return;
    text_ = *text;
    faults_.clear();
    std::istringstream lines(text_);
    for (std::string line; std::getline(lines, line);) {
      if (!line.empty() && line[0] != '#') faults_.push_back(ReadFault(line));
    }
  }

  const std::string path_;
  std::mutex mutex_;
  std::string text_;           // guarded by mutex_
  std::vector<Fault> faults_;  // guarded by mutex_
};

// A request on its way: what upstream answers is collected, then sent on, or what the fault leaves of it.
struct Exchange {
  net::HttpRequest request;
  std::shared_ptr<net::HttpReply> reply;
  std::optional<Fault> fault;
  int status = 502;
  Headers headers;
  uint64_t told_bytes = 0;
  std::string body;
};

class Proxy {
 public:
  Proxy(std::string address, uint16_t port, const std::string& faults)
      : address_(std::move(address)), port_(port), faults_(faults) {}

  Result<uint16_t> Start() {
    net::HttpServerOptions options;
    options.max_body_bytes = 2 * kGiB;
    options.request_timeout = std::chrono::milliseconds(60'000);
    options.stop_grace = std::chrono::milliseconds(0);
    BANYAN_ASSIGN(server_, net::HttpServer::Start(options, [this](net::HttpRequest request, auto reply) {
                    Handle(std::move(request), std::move(reply));
                  }));
    return server_->port();
  }

 private:
  void Handle(net::HttpRequest request, std::shared_ptr<net::HttpReply> reply) {
    auto exchange = std::make_shared<Exchange>();
    exchange->fault = faults_.Take(request);
    exchange->request = std::move(request);
    exchange->reply = std::move(reply);
    if (exchange->fault && exchange->fault->kind == Fault::Kind::kHang) return Keep(*exchange);
    if (exchange->fault && exchange->fault->kind == Fault::Kind::kStatus) {
      exchange->status = static_cast<int>(exchange->fault->value);
      exchange->body = R"({"errors":[{"code":"FAULT","message":"as the test wants it"}]})";
      return Answer(*exchange);
    }
    Forward(exchange);
  }

  void Forward(const std::shared_ptr<Exchange>& exchange) {
    const bool whole = exchange->fault && exchange->fault->kind == Fault::Kind::kWhole;
    net::HttpClientRequest out;
    out.address = address_;
    out.port = port_;
    out.method = exchange->request.method;
    out.target = exchange->request.target;
    out.body = std::move(exchange->request.body);
    out.stall_timeout = std::chrono::milliseconds(120'000);
    for (const char* name : kRequestHeaders) {
      if (whole && std::string_view(name) == "range") continue;
      for (const std::string& value : exchange->request.headers.FindAll(name)) out.headers.emplace_back(name, value);
    }
    // So that the registry's Locations lead here again.
    if (const std::string* host = exchange->request.headers.Find("host")) {
      out.headers.emplace_back("X-Forwarded-Host", *host);
    }
    net::HttpClientHandlers handlers;
    handlers.on_head = [exchange](int status, const net::HeaderList& headers) -> Status {
      exchange->status = status;
      for (const char* name : kResponseHeaders) {
        for (const std::string& value : headers.FindAll(name)) exchange->headers.emplace_back(name, value);
      }
      const std::string* length = headers.Find("content-length");
      exchange->told_bytes = length != nullptr ? net::ParseDecimal(*length).value_or(0) : 0;
      return {};
    };
    handlers.on_data = [exchange](std::span<const std::byte> data) -> Status {
      exchange->body.append(reinterpret_cast<const char*>(data.data()), data.size());
      return {};
    };
    handlers.on_done = [this, exchange](const Status& status) {
      if (!status) *exchange = Exchange{exchange->request, exchange->reply, exchange->fault, 502, {}, 0, {}};
      Answer(*exchange);
    };
    client_.Start(std::move(out), std::move(handlers));
  }

  void Answer(Exchange& exchange) {
    Log(exchange);
    net::HttpReply& reply = *exchange.reply;
    if (exchange.request.method == "HEAD") {
      // Of a body that is not sent only the length counts.
      const uint64_t bytes = exchange.body.empty() ? exchange.told_bytes : exchange.body.size();
      return reply.Send({exchange.status, exchange.headers, net::FileRange{-1, {0, bytes}, nullptr}});
    }
    const auto& fault = exchange.fault;
    if (!fault || !fault->ActsOnBody() || exchange.status >= 300) {
      return reply.Send({exchange.status, exchange.headers, std::move(exchange.body)});
    }
    if (fault->kind == Fault::Kind::kFlip) {
      if (!exchange.body.empty()) exchange.body[std::min<uint64_t>(fault->value, exchange.body.size() - 1)] ^= 0x10;
      return reply.Send({exchange.status, exchange.headers, std::move(exchange.body)});
    }
    const bool cut = fault->kind == Fault::Kind::kCut;
    reply.SendHead(exchange.status, exchange.headers, exchange.body.size());
    reply.Write(exchange.body.substr(0, fault->value), [reply = exchange.reply, cut](bool) {
      if (cut) reply->Abort();
    });
    if (!cut) Keep(exchange);
  }

  // An answer that is never ended, and whose connection is not closed either.
  void Keep(const Exchange& exchange) {
    if (exchange.fault->kind == Fault::Kind::kHang) Log(exchange);
    const std::lock_guard lock(mutex_);
    kept_.push_back(exchange.reply);
  }

  void Log(const Exchange& exchange) {
    const std::string* range = exchange.request.headers.Find("range");
    const std::lock_guard lock(mutex_);
    fmt::print("{} {} {} -> {} {}{}\n", exchange.request.method, exchange.request.target,
               range != nullptr ? *range : "-", exchange.status, exchange.body.size(),
               exchange.fault ? " FAULT " + exchange.fault->text : "");
    std::fflush(stdout);
  }

  const std::string address_;
  const uint16_t port_;
  Faults faults_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<net::HttpReply>> kept_;  // guarded by mutex_
  net::HttpClient client_;
  std::unique_ptr<net::HttpServer> server_;  // last: its thread uses the members above
};

int Main(int argc, char** argv) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);

  std::string upstream, faults, port_file;
  CLI::App app("A proxy in front of a registry that breaks what it is told to break.", "faulty_registry");
  app.add_option("--upstream", upstream)->required();
  app.add_option("--faults", faults)->required();
  app.add_option("--port-file", port_file)->required();
  CLI11_PARSE(app, argc, argv);
  const auto at = ParseHostPort(upstream);
  if (!at) {
    fmt::print(stderr, "faulty_registry: --upstream: {}\n", at.error().message);
    return 2;
  }
  Proxy proxy(at->host, at->port, faults);
  const auto listening = proxy.Start();
  const Status told =
      listening ? WriteFileDurably(port_file, fmt::format("{}\n", *listening)) : Fail(listening.error());
  if (!told) {
    fmt::print(stderr, "faulty_registry: {}\n", told.error().message);
    return 1;
  }
  int signal = 0;
  ::sigwait(&signals, &signal);
  return 0;
}

}  // namespace
}  // namespace banyan::tests

int main(int argc, char** argv) { return banyan::tests::Main(argc, argv); }
