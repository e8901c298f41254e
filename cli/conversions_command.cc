// `banyan conversions`: what a registry proxy converts.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include <fmt/format.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/terminal.h"
#include "cli/text.h"
#include "proto/proxy.grpc.pb.h"

namespace banyan::cli {
namespace {

using proto::proxy::Conversion;
using proto::proxy::ConversionsReply;

struct ConversionsOptions {
  std::string address = "unix:/var/lib/banyan-proxy/status.sock";
  bool watch = false;
  size_t limit = 20;
};

constexpr const char* kFooter = R"(
Examples:
  banyan conversions
  banyan conversions --watch --proxy proxy.example:5051
  banyan conversions --json | jq '.[] | select(.state == "failed")')";

std::string StateName(const Conversion& conversion) {
  std::string name = Conversion::State_Name(conversion.state());
  std::transform(name.begin(), name.end(), name.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  return name;
}

// From its begin to its end, or to now.
std::chrono::milliseconds Elapsed(const Conversion& conversion) {
  if (conversion.began_unix_micros() == 0) return {};
  const auto now =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch());
  const uint64_t end =
      conversion.ended_unix_micros() > 0 ? conversion.ended_unix_micros() : static_cast<uint64_t>(now.count());
  const uint64_t micros = end > conversion.began_unix_micros() ? end - conversion.began_unix_micros() : 0;
  return std::chrono::milliseconds(micros / 1000);
}

nlohmann::json ToJson(const ConversionsReply& reply) {
  nlohmann::json list = nlohmann::json::array();
  for (const Conversion& conversion : reply.conversions()) {
    list.push_back({{"registry", conversion.registry()},
                    {"repository", conversion.repository()},
                    {"reference", conversion.reference()},
                    {"digest", conversion.digest()},
                    {"state", StateName(conversion)},
                    {"asks", conversion.asks()},
                    {"layers", conversion.layers()},
                    {"layers_done", conversion.layers_done()},
                    {"layers_reused", conversion.layers_reused()},
                    {"bytes", conversion.bytes()},
                    {"bytes_done", conversion.bytes_done()},
                    {"blob_bytes", conversion.blob_bytes()},
                    {"chunks", conversion.chunks()},
                    {"shared_chunks", conversion.shared_chunks()},
                    {"shared_bytes", conversion.shared_bytes()},
                    {"seconds", static_cast<double>(Elapsed(conversion).count()) / 1000},
                    {"artifact", conversion.artifact()},
                    {"message", conversion.message()}});
  }
  return list;
}

std::string Render(const ConversionsReply& reply, size_t limit) {
  std::vector<std::vector<std::string>> rows{{"IMAGE", "STATE", "LAYERS", "DONE", "SIZE", "SHARED", "TIME", "ASKED"}};
  std::string notes;
  const size_t shown = std::min<size_t>(limit, static_cast<size_t>(reply.conversions_size()));
  for (size_t i = 0; i < shown; ++i) {
    const Conversion& conversion = reply.conversions(static_cast<int>(i));
    const bool begun = conversion.layers() > 0;
    const std::string reference = conversion.reference().substr(0, 19);  // a tag, or the begin of a digest
    rows.push_back(
        {Printable(fmt::format("{}/{} {}", conversion.registry(), conversion.repository(), reference)),
         StateName(conversion), begun ? fmt::format("{}/{}", conversion.layers_done(), conversion.layers()) : "-",
         begun ? Percent(conversion.bytes_done(), conversion.bytes()) : "-",
         begun ? HumanBytes(conversion.bytes()) : "-",
         conversion.blob_bytes() > 0 ? Percent(conversion.shared_bytes(), conversion.blob_bytes()) : "-",
         conversion.began_unix_micros() > 0 ? HumanTime(Elapsed(conversion)) : "-", std::to_string(conversion.asks())});
    if (!conversion.message().empty()) {
      notes += Printable(fmt::format("{}: {}", conversion.repository(), conversion.message())) + "\n";
    }
  }
  if (reply.conversions_size() == 0) return "nothing has been converted since the proxy began\n";
  std::string text = FitTable(rows, 0, TerminalWidth(STDOUT_FILENO)) + notes;
  const auto left = static_cast<size_t>(reply.conversions_size()) - shown;
  if (left > 0) text += fmt::format("… and {} more\n", left);
  return text;
}

void Show(const ConversionsReply& reply, const ConversionsOptions& options, const GlobalOptions& globals) {
  if (globals.json) {
    PrintJson(ToJson(reply), options.watch ? -1 : 2);
  } else {
    if (options.watch && ::isatty(STDOUT_FILENO) != 0) fmt::print("\033[H\033[J");
    fmt::print("{}", Render(reply, options.limit));
  }
  std::fflush(stdout);
}

int RunConversions(const ConversionsOptions& options, const GlobalOptions& globals) {
  const auto stub =
      proto::proxy::RegistryProxy::NewStub(grpc::CreateChannel(options.address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  proto::proxy::ConversionsRequest request;
  request.set_watch(options.watch);
  const auto reader = stub->Conversions(&context, request);
  for (ConversionsReply reply; reader->Read(&reply);) Show(reply, options, globals);
  const grpc::Status status = reader->Finish();
  if (status.ok()) return kExitOk;
  const auto silence = Silence(context, status, "the proxy at " + options.address);
  return ReportError(globals, "conversions " + options.address,
                     silence ? *silence : Error{static_cast<Code>(status.error_code()), status.error_message()},
                     Asked::kProxy);
}

}  // namespace

void AddConversionsCommand(CLI::App& app, GlobalOptions& globals) {
  auto options = std::make_shared<ConversionsOptions>();
  CLI::App* command = app.add_subcommand("conversions", "Show what a registry proxy converts");
  command->footer(kFooter);
  command->add_option("--proxy", options->address, "The proxy's status address: host:port or unix:/path")
      ->envname("BANYAN_REGISTRY_PROXY")
      ->capture_default_str();
  command->add_flag("--watch", options->watch, "Go on showing, at each change");
  command->add_option("-n,--limit", options->limit, "Lines at most")->capture_default_str();
  command->callback(
      [options, &globals] { globals.action = [options, &globals] { return RunConversions(*options, globals); }; });
}

}  // namespace banyan::cli
