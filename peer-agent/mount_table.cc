#include "peer-agent/mount_table.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"

namespace banyan::peer_agent {

namespace {

constexpr uint64_t kMaxRecordBytes = 4 << 20;  // An image configuration is a few KiB.

nlohmann::json ToJson(const MountRecord& record) {
  return {{"reference", record.reference},
          {"directory", record.directory},
          {"form", record.form},
          {"manifest", record.manifest_digest.ToString()},
          {"artifact", record.artifact_digest.ToString()},
          {"map", record.map_digest.ToString()},
          {"config", record.image_config},
          {"plain_http", record.plain_http},
          {"credentials_file", record.credentials_file},
          {"ca_file", record.ca_file},
          {"fill", record.fill},
          {"read_ahead_kib", record.read_ahead_kib},
          {"owner", record.owner},
          {"lower_directory", record.lower_directory},
          {"local_devices", record.local_devices}};
}

Result<MountRecord> FromJson(const std::string& text) {
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    MountRecord record;
    record.reference = json.at("reference").get<std::string>();
    record.directory = json.at("directory").get<std::string>();
    record.form = json.at("form").get<std::string>();
    BANYAN_ASSIGN(record.manifest_digest, Digest::Parse(json.at("manifest").get<std::string>()));
    BANYAN_ASSIGN(record.artifact_digest, Digest::Parse(json.at("artifact").get<std::string>()));
    BANYAN_ASSIGN(record.map_digest, Digest::Parse(json.at("map").get<std::string>()));
    record.image_config = json.at("config").get<std::string>();
    record.plain_http = json.at("plain_http").get<bool>();
    record.credentials_file = json.at("credentials_file").get<std::string>();
    record.ca_file = json.at("ca_file").get<std::string>();
    record.fill = json.at("fill").get<bool>();
    record.read_ahead_kib = json.at("read_ahead_kib").get<uint32_t>();
    record.owner = json.at("owner").get<std::string>();
    record.lower_directory = json.value("lower_directory", "");
    record.local_devices = json.at("local_devices").get<std::vector<bool>>();
    return record;
  } catch (const nlohmann::json::exception& error) {
    return Fail(Code::kDataLoss, error.what());
  }
}

}  // namespace

Result<MountTable> MountTable::Open(std::string directory) {
  BANYAN_TRY(MakeDirectories(directory, 0700));
  return MountTable(std::move(directory));
}

std::string MountTable::PathOf(const std::string& mount_directory) const {
  return fmt::format("{}/{}.json", directory_, Digest::Of(mount_directory).Hex());
}

Status MountTable::Put(const MountRecord& record) {
  // An image configuration may hold any bytes in its strings; what is not UTF-8 is replaced rather than refused.
  const std::string text = ToJson(record).dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
  return WriteFileDurably(PathOf(record.directory), text, 0600);
}

Status MountTable::Remove(const std::string& mount_directory) {
  const std::string path = PathOf(mount_directory);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return FailErrno("remove " + path, errno);
  return {};
}

Result<MountTable::Contents> MountTable::Load() const {
  Contents contents;
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(directory_, error)) {
    if (file.path().extension() != ".json") continue;
    const auto text = ReadFile(file.path().string(), kMaxRecordBytes);
    auto record = text ? FromJson(*text) : tl::unexpected<Error>(text.error());
    if (record) {
      contents.records.push_back(std::move(*record));
    } else {
      contents.damaged.push_back(fmt::format("{}: {}", file.path().string(), record.error().message));
    }
  }
  if (error) return FailErrno("list " + directory_, error.value());
  return contents;
}

}  // namespace banyan::peer_agent
