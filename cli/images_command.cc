// `banyan ls`, `info`, `prefetch`, `pin`, `unpin`, `drop`: what the node has of which image, and how much of it shall
// stay.
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <memory>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/agent_client.h"
#include "cli/command.h"
#include "cli/mount_request.h"
#include "cli/progress.h"
#include "cli/terminal.h"
#include "cli/text.h"

namespace banyan::cli {

namespace {

std::vector<std::string> Strings(const google::protobuf::RepeatedPtrField<std::string>& field) {
  return {field.begin(), field.end()};
}

void PrintListJson(const proto::agent::ImagesReply& images, const proto::agent::ListReply& mounts) {
  nlohmann::json json = {{"images", nlohmann::json::array()}, {"mounts", nlohmann::json::array()}};
  for (const auto& image : images.images()) {
    json["images"].push_back({{"reference", image.reference()},
                              {"manifest", image.manifest_digest()},
                              {"artifact", image.artifact_digest()},
                              {"layers", image.layers()},
                              {"device_bytes", image.device_bytes()},
                              {"present_bytes", image.present_bytes()},
                              {"mounts", image.mounts()},
                              {"pinned", image.pinned()}});
  }
  for (const auto& mount : mounts.mounts()) {
    json["mounts"].push_back({{"reference", mount.reference()},
                              {"directory", mount.directory()},
                              {"form", mount.form()},
                              {"device_bytes", mount.device_bytes()},
                              {"present_bytes", mount.present_bytes()}});
  }
  PrintJson(json);
}

void PrintListText(const proto::agent::ImagesReply& images, const proto::agent::ListReply& mounts) {
  const size_t width = TerminalWidth(STDOUT_FILENO);
  std::vector<std::vector<std::string>> rows = {{"IMAGE", "LAYERS", "HERE", "OF", "", "MOUNTS", "PINNED"}};
  for (const auto& image : images.images()) {
    rows.push_back({Printable(image.reference()), std::to_string(image.layers()), HumanBytes(image.present_bytes()),
                    HumanBytes(image.device_bytes()), Percent(image.present_bytes(), image.device_bytes()),
                    std::to_string(image.mounts()), image.pinned() ? "yes" : "-"});
  }
  if (rows.size() > 1) fmt::print("{}\n", FitTable(rows, 0, width));
  rows = {{"DIRECTORY", "IMAGE", "FORM", "HERE", "OF"}};
  for (const auto& mount : mounts.mounts()) {
    rows.push_back({Printable(mount.directory()), Printable(mount.reference()), mount.form(),
                    HumanBytes(mount.present_bytes()), HumanBytes(mount.device_bytes())});
  }
  fmt::print("{}", FitTable(rows, 0, width));
}

int List(const GlobalOptions& globals) {
  auto client = AgentClient::Connect(AbsolutePath(globals.data_root));
  proto::agent::ListReply mounts;
  proto::agent::ImagesReply images;
  const auto ask = [&]() -> Status {
    BANYAN_ASSIGN(mounts, client->List());
    BANYAN_ASSIGN(images, client->Images());
    return {};
  };
  // No agent: nothing is mounted.
  if (!client && client.error().code != Code::kUnavailable)
    return ReportError(globals, "ls", client.error(), Asked::kAgent);
  if (client) {
    if (Status status = ask(); !status) return ReportError(globals, "ls", status.error(), Asked::kAgent);
  }
  globals.json ? PrintListJson(images, mounts) : PrintListText(images, mounts);
  return kExitOk;
}

nlohmann::json ToJson(const proto::agent::InfoReply& info) {
  return {{"version", info.version()},
          {"pid", info.pid()},
          {"started_unix_us", info.started_unix_micros()},
          {"data_root", info.data_root()},
          {"config_file", info.config_file()},
          {"snapshotter_socket", info.snapshotter_socket()},
          {"mirror_address", info.mirror_address()},
          {"peer_address", info.peer_address()},
          {"keeper", info.keeper()},
          {"form", info.form()},
          {"form_reason", info.form_reason()},
          {"store_bytes", info.store_bytes()},
          {"budget_bytes", info.budget_bytes()},
          {"mounts", info.mounts()},
          {"snapshots", info.snapshots()}};
}

int Info(const GlobalOptions& globals) {
  auto client = AgentClient::Connect(AbsolutePath(globals.data_root));
  if (!client) return ReportError(globals, "info", client.error(), Asked::kAgent);
  const auto info = client->Info();
  if (!info) return ReportError(globals, "info", info.error(), Asked::kAgent);
  if (globals.json) {
    PrintJson(ToJson(*info));
    return kExitOk;
  }
  const auto or_off = [](const std::string& text) { return text.empty() ? std::string("off") : text; };
  const auto started = static_cast<std::time_t>(info->started_unix_micros() / 1'000'000);
  std::tm local{};
  ::localtime_r(&started, &local);
  const auto line = [](std::string_view name, const std::string& value) { fmt::print("{:<14}{}\n", name, value); };
  line("agent", fmt::format("{}, process {} since {:%Y-%m-%d %H:%M:%S}", info->version(), info->pid(), local));
  line("configuration", info->config_file().empty() ? "none" : info->config_file());
  line("data root", info->data_root());
  line("store", fmt::format("{} of {} ({})", HumanBytes(info->store_bytes()), HumanBytes(info->budget_bytes()),
                            Percent(info->store_bytes(), info->budget_bytes())));
  line("mounts", fmt::format("{}, {} snapshots of containerd", info->mounts(), info->snapshots()));
  line("form", info->form().empty()          ? "not known before the first mount"
               : info->form_reason().empty() ? info->form()
                                             : fmt::format("{} ({})", info->form(), info->form_reason()));
  line("keeper", info->keeper() ? "yes: mounts survive the agent" : "no: mounts end with the agent");
  line("snapshotter", or_off(info->snapshotter_socket()));
  line("mirror", or_off(info->mirror_address()));
  line("peers", or_off(info->peer_address()));
  return kExitOk;
}

// A bare name is a registry's, as containerd and `banyan ls` write it.
std::string WithTransport(const std::string& reference) {
  const bool has = reference.starts_with("docker://") || reference.starts_with("oci:");
  return has ? reference : "docker://" + reference;
}

int Prefetch(const std::string& reference, const GlobalOptions& globals) {
  const std::string subject = fmt::format("prefetch {}", reference);
  auto client = AgentClient::Connect(AbsolutePath(globals.data_root));
  if (!client) return ReportError(globals, subject, client.error(), Asked::kAgent);
  const auto made = MakeMountRequest(globals, WithTransport(reference), "", "auto");
  if (!made) return ReportError(globals, subject, made.error(), Asked::kNobody);
  proto::agent::PrefetchRequest request;
  request.set_reference(made->reference());
  request.set_plain_http(made->plain_http());
  request.set_credentials_file(made->credentials_file());
  request.set_ca_file(made->ca_file());

  const auto begin = std::chrono::steady_clock::now();
  proto::agent::PrefetchProgress last;
  {
    Progress progress(Progress::ModeFor(STDERR_FILENO, globals.quiet || globals.json), WriteToStderr);
    std::shared_ptr<Progress::Task> task;
    const Status status = client->Prefetch(request, [&](const proto::agent::PrefetchProgress& message) {
      if (task == nullptr) task = progress.Start(reference, "fetching", message.device_bytes());
      if (message.present_bytes() > last.present_bytes()) task->Advance(message.present_bytes() - last.present_bytes());
      last = message;
    });
    if (task != nullptr) {
      progress.Finish(task, fmt::format("{} of {} on this node", HumanBytes(last.present_bytes()),
                                        HumanBytes(last.device_bytes())));
    }
    if (!status) return ReportError(globals, subject, status.error(), client->asked());
  }
  if (globals.json) {
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin);
    PrintJson({{"reference", reference},
               {"device_bytes", last.device_bytes()},
               {"present_bytes", last.present_bytes()},
               {"milliseconds", took.count()}});
  }
  return kExitOk;
}

int Pin(const std::string& reference, bool pinned, const GlobalOptions& globals) {
  const std::string subject = fmt::format("{} {}", pinned ? "pin" : "unpin", reference);
  auto client = AgentClient::Connect(AbsolutePath(globals.data_root));
  if (!client) return ReportError(globals, subject, client.error(), Asked::kAgent);
  if (Status status = client->Pin(reference, pinned); !status) {
    return ReportError(globals, subject, status.error(), Asked::kAgent);
  }
  if (globals.json) PrintJson({{"reference", reference}, {"pinned", pinned}});
  return kExitOk;
}

int Drop(const std::string& reference, const GlobalOptions& globals) {
  const std::string subject = reference.empty() ? "drop" : "drop " + reference;
  auto client = AgentClient::Connect(AbsolutePath(globals.data_root));
  if (!client) return ReportError(globals, subject, client.error(), Asked::kAgent);
  const auto reply = client->Drop(reference);
  if (!reply) return ReportError(globals, subject, reply.error(), Asked::kAgent);
  if (globals.json) {
    PrintJson({{"freed_bytes", reply->freed_bytes()}, {"kept", Strings(reply->kept())}});
  } else if (!globals.quiet) {
    for (const std::string& kept : reply->kept()) fmt::print("kept {}\n", Printable(kept));
    fmt::print("{} freed\n", HumanBytes(reply->freed_bytes()));
  }
  // Asked for one image that had to stay.
  return !reference.empty() && !reply->kept().empty() ? kExitDifferences : kExitOk;
}

}  // namespace

void AddListCommand(CLI::App& app, GlobalOptions& globals) {
  CLI::App* command = app.add_subcommand("ls", "List images and mounts, and how much of each is on this node");
  command->footer("\nExamples:\n  banyan ls\n  banyan --json ls | jq '.images[] | select(.pinned)'");
  command->callback([&globals] { globals.action = [&globals] { return List(globals); }; });
}

void AddInfoCommand(CLI::App& app, GlobalOptions& globals) {
  CLI::App* command = app.add_subcommand("info", "What the node's agent is, where it listens, what it holds");
  command->footer("\nExit code 5 when no agent answers.\n\nExample:\n  banyan --json info | jq .form");
  command->callback([&globals] { globals.action = [&globals] { return Info(globals); }; });
}

void AddPrefetchCommand(CLI::App& app, GlobalOptions& globals) {
  auto reference = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("prefetch", "Fetch a converted image whole, before it is needed");
  command->add_option("REF", *reference, "The image: registry.example/name:tag, docker://…, oci:…")->required();
  command->footer(R"(
Ends when the image is on this node. What is fetched may be evicted again when space is short: pin it to keep it.

Exit codes: 3 no such image, or it has no Banyan artifact; 5 agent or registry does not answer; 7 no room for it.

Example:
  banyan prefetch registry.example/app:1 && banyan pin registry.example/app:1)");
  command->callback(
      [reference, &globals] { globals.action = [reference, &globals] { return Prefetch(*reference, globals); }; });
}

void AddPinCommands(CLI::App& app, GlobalOptions& globals) {
  for (const bool pinned : {true, false}) {
    auto reference = std::make_shared<std::string>();
    CLI::App* command =
        app.add_subcommand(pinned ? "pin" : "unpin", pinned ? "Keep what this node has of an image, whatever the budget"
                                                            : "Let an image be evicted again");
    command->add_option("REF", *reference, "An image as `banyan ls` writes it, or a manifest's digest")->required();
    command->footer(
        fmt::format("\nExit code 3 when the node does not know the image.\n\nExample:\n  banyan {} "
                    "registry.example/app:1",
                    pinned ? "pin" : "unpin"));
    command->callback([reference, pinned, &globals] {
      globals.action = [reference, pinned, &globals] { return Pin(*reference, pinned, globals); };
    });
  }
}

void AddDropCommand(CLI::App& app, GlobalOptions& globals) {
  auto reference = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("drop", "Free the room of images that nothing uses");
  command->add_option("REF", *reference,
                      "Only this one; default: all that are neither mounted, pinned nor containerd's");
  command->footer(R"(
What containerd still lists stays: remove it there first (crictl rmi, or containerd's garbage collector).

Exit codes: 0 done; 1 the image that was named is in use; 3 the node does not know it.

Examples:
  banyan drop
  banyan drop registry.example/app:1)");
  command->callback(
      [reference, &globals] { globals.action = [reference, &globals] { return Drop(*reference, globals); }; });
}

}  // namespace banyan::cli
