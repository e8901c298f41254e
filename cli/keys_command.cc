// `banyan keys`: the Ed25519 keys with which converters sign artifacts (docs/format.md §"Signature").
//
// A directory holds them: signing.pem, the private key in use (mode 0600); public/<id>.pem, the public keys to trust:
// the current one and those before it. Rotating makes a new private key and keeps the old public one, so that what was
// signed before stays trusted until its file is removed from the nodes.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/terminal.h"
#include "cli/text.h"
#include "common/file_io.h"
#include "common/units.h"
#include "image-format/signature.h"

namespace banyan::cli {
namespace {

using image_format::PublicKey;
using image_format::SigningKey;

constexpr uint64_t kMaxKeyBytes = 16 * kKiB;

constexpr const char* kFooter = R"(
The proxy signs with <dir>/signing.pem (sign.key_file); nodes are given the files of <dir>/public.

Examples:
  banyan keys generate --dir /etc/banyan/keys
  banyan keys public --dir /etc/banyan/keys > converter.pem
  banyan keys rotate --dir /etc/banyan/keys     # then hand out <dir>/public, then restart the proxy)";

struct KeysOptions {
  std::string directory = "/etc/banyan/keys";

  std::string private_path() const { return directory + "/signing.pem"; }
  std::string public_directory() const { return directory + "/public"; }
  std::string public_path(const PublicKey& key) const { return public_directory() + "/" + key.id() + ".pem"; }
};

Result<SigningKey> LoadPrivate(const KeysOptions& options) {
  BANYAN_ASSIGN(const std::string pem, ReadFile(options.private_path(), kMaxKeyBytes));
  auto key = SigningKey::FromPem(pem);
  if (!key) return Fail(key.error().WithContext(options.private_path()));
  return key;
}

// The public key first: a private one that nobody can trust yet is of no use.
Result<PublicKey> MakeKey(const KeysOptions& options) {
  BANYAN_ASSIGN(const SigningKey key, SigningKey::Generate());
  BANYAN_ASSIGN(const std::string pem, key.ToPem());
  BANYAN_TRY(MakeDirectories(options.public_directory()));
  BANYAN_TRY(WriteFileDurably(options.public_path(key.public_key()), key.public_key().ToPem(), 0644));
  BANYAN_TRY(WriteFileDurably(options.private_path(), pem, 0600));
  return key.public_key();
}

Result<PublicKey> Generate(const KeysOptions& options) {
  if (::access(options.private_path().c_str(), F_OK) == 0) {
    return Fail(Code::kAlreadyExists, options.private_path() + " exists: `banyan keys rotate` makes a new one");
  }
  return MakeKey(options);
}

Result<PublicKey> Rotate(const KeysOptions& options) {
  BANYAN_ASSIGN(const SigningKey old, LoadPrivate(options));
  BANYAN_TRY(MakeDirectories(options.public_directory()));
  BANYAN_TRY(WriteFileDurably(options.public_path(old.public_key()), old.public_key().ToPem(), 0644));
  return MakeKey(options);
}

struct ListedKey {
  std::string id;
  std::string path;
  bool signs = false;
};

Result<std::vector<ListedKey>> List(const KeysOptions& options) {
  std::string current;
  if (const auto key = LoadPrivate(options); key) {
    current = key->public_key().id();
  } else if (key.error().code != Code::kNotFound) {
    return Fail(key.error());
  }
  std::vector<ListedKey> keys;
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(options.public_directory(), error)) {
    const std::string path = item.path().string();
    if (item.path().extension() != ".pem") continue;
    BANYAN_ASSIGN(const std::string pem, ReadFile(path, kMaxKeyBytes));
    const auto key = PublicKey::FromPem(pem);
    if (!key) return Fail(key.error().WithContext(path));
    keys.push_back({key->id(), path, key->id() == current});
  }
  if (error) return Fail(Code::kNotFound, fmt::format("{}: {}", options.public_directory(), error.message()));
  std::sort(keys.begin(), keys.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return keys;
}

int PrintMade(const GlobalOptions& globals, const KeysOptions& options, const std::string& subject,
              const Result<PublicKey>& key) {
  if (!key) return ReportError(globals, subject, key.error(), Asked::kNobody);
  if (globals.json) {
    PrintJson({{"id", key->id()}, {"private", options.private_path()}, {"public", options.public_path(*key)}}, 2);
  } else if (!globals.quiet) {
    fmt::print("key      {}\nprivate  {}\npublic   {}\n", key->id(), options.private_path(), options.public_path(*key));
  }
  return kExitOk;
}

int RunList(const GlobalOptions& globals, const KeysOptions& options) {
  const auto keys = List(options);
  if (!keys) return ReportError(globals, "keys list " + options.directory, keys.error(), Asked::kNobody);
  if (globals.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const ListedKey& key : *keys) list.push_back({{"id", key.id}, {"path", key.path}, {"signs", key.signs}});
    PrintJson(list, 2);
    return kExitOk;
  }
  std::vector<std::vector<std::string>> rows{{"KEY", "SIGNS", "FILE"}};
  for (const ListedKey& key : *keys) rows.push_back({key.id, key.signs ? "yes" : "", key.path});
  fmt::print("{}", FitTable(rows, 2, TerminalWidth(STDOUT_FILENO)));
  return kExitOk;
}

int RunPublic(const GlobalOptions& globals, const KeysOptions& options) {
  const auto key = LoadPrivate(options);
  if (!key) return ReportError(globals, "keys public " + options.directory, key.error(), Asked::kNobody);
  const std::string pem = key->public_key().ToPem();
  if (globals.json) {
    PrintJson({{"id", key->public_key().id()}, {"pem", pem}}, 2);
  } else {
    fmt::print("{}", pem);
  }
  return kExitOk;
}

}  // namespace

void AddKeysCommand(CLI::App& app, GlobalOptions& globals) {
  auto options = std::make_shared<KeysOptions>();
  CLI::App* command = app.add_subcommand("keys", "Make and rotate the keys with which artifacts are signed");
  command->footer(kFooter);
  command->require_subcommand(1);
  command->fallthrough();
  command->add_option("--dir", options->directory, "Where the keys lie")->capture_default_str();
  const auto add = [&](const char* name, const char* description, auto run) {
    command->add_subcommand(name, description)->callback([options, &globals, run] {
      globals.action = [options, &globals, run] { return run(globals, *options); };
    });
  };
  add("generate", "Make the first key", [](const GlobalOptions& g, const KeysOptions& o) {
    return PrintMade(g, o, "keys generate " + o.directory, Generate(o));
  });
  add("rotate", "Make a new key; the old one stays among the public keys",
      [](const GlobalOptions& g, const auto& o) { return PrintMade(g, o, "keys rotate " + o.directory, Rotate(o)); });
  add("list", "Show the public keys, and which one signs", RunList);
  add("public", "Print the public key of the one that signs", RunPublic);
}

}  // namespace banyan::cli
