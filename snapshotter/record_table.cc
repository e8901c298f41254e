#include "snapshotter/record_table.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"

namespace banyan::snapshotter {

namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxRecordBytes = 8 << 20;  // Names and labels are bounded well below.
constexpr std::string_view kSuffix = ".json";
constexpr std::string_view kDamagedSuffix = ".damaged";

int64_t ToNanoseconds(Time time) { return time.time_since_epoch().count(); }
Time FromNanoseconds(int64_t count) { return Time(std::chrono::nanoseconds(count)); }

Json ChainToJson(const LazyChain& chain) {
  return {{"image", chain.image_reference},
          {"manifest", chain.manifest_digest.ToString()},
          {"artifact", chain.artifact_digest.ToString()},
          {"map", chain.map_digest.ToString()},
          {"chain", chain.chain_id.ToString()},
          {"layers", chain.layers},
          {"image_layers", chain.image_layers}};
}

Result<LazyChain> ChainFromJson(const Json& json) {
  LazyChain chain;
  chain.image_reference = json.at("image").get<std::string>();
  BANYAN_ASSIGN(chain.manifest_digest, Digest::Parse(json.at("manifest").get<std::string>()));
  BANYAN_ASSIGN(chain.artifact_digest, Digest::Parse(json.at("artifact").get<std::string>()));
  BANYAN_ASSIGN(chain.map_digest, Digest::Parse(json.at("map").get<std::string>()));
  BANYAN_ASSIGN(chain.chain_id, Digest::Parse(json.at("chain").get<std::string>()));
  chain.layers = json.at("layers").get<uint32_t>();
  chain.image_layers = json.at("image_layers").get<uint32_t>();
  return chain;
}

Result<Kind> ParseKind(std::string_view text) {
  for (const Kind kind : {Kind::kView, Kind::kActive, Kind::kCommitted}) {
    if (text == KindName(kind)) return kind;
  }
  return Fail(Code::kDataLoss, fmt::format("unknown kind \"{}\"", text));
}

Result<Record> RecordFromJson(const Json& json) {
  Record record;
  record.id = json.at("id").get<uint64_t>();
  record.info.name = json.at("name").get<std::string>();
  record.info.parent = json.at("parent").get<std::string>();
  BANYAN_ASSIGN(record.info.kind, ParseKind(json.at("kind").get<std::string>()));
  record.info.labels = json.at("labels").get<Labels>();
  record.info.created = FromNanoseconds(json.at("created_ns").get<int64_t>());
  record.info.updated = FromNanoseconds(json.at("updated_ns").get<int64_t>());
  if (const auto usage = json.find("usage"); usage != json.end()) {
    record.usage = Usage{usage->at("bytes").get<uint64_t>(), usage->at("inodes").get<uint64_t>()};
  }
  if (const auto chain = json.find("lazy"); chain != json.end()) {
    BANYAN_ASSIGN(record.chain, ChainFromJson(*chain));
  }
  if (record.id == 0 || record.info.name.empty()) return Fail(Code::kDataLoss, "no id or no name");
  if (record.info.name == record.info.parent) return Fail(Code::kDataLoss, "is its own parent");
  return record;
}

// "17.json" with suffix ".json": 17; 0 when it is not of that form.
uint64_t IdOf(const std::string& file, std::string_view suffix) {
  if (!file.ends_with(suffix)) return 0;
  uint64_t id = 0;
  const char* const end = file.data() + file.size() - suffix.size();
  const auto [stop, error] = std::from_chars(file.data(), end, id);
  return error == std::errc() && stop == end ? id : 0;
}

}  // namespace

std::string_view KindName(Kind kind) {
  switch (kind) {
    case Kind::kView:
      return "view";
    case Kind::kActive:
      return "active";
    case Kind::kCommitted:
      return "committed";
  }
  return "unknown";
}

Result<std::string> SerializeRecord(const Record& record) {
  Json json = {{"id", record.id},
               {"name", record.info.name},
               {"parent", record.info.parent},
               {"kind", KindName(record.info.kind)},
               {"labels", record.info.labels},
               {"created_ns", ToNanoseconds(record.info.created)},
               {"updated_ns", ToNanoseconds(record.info.updated)}};
  if (record.usage) json["usage"] = {{"bytes", record.usage->bytes}, {"inodes", record.usage->inodes}};
  if (record.chain) json["lazy"] = ChainToJson(*record.chain);
  try {
    return json.dump(1);
  } catch (const Json::exception&) {
    return Fail(Code::kInvalidArgument, "a name or label is not UTF-8");
  }
}

Result<Record> ParseRecord(const std::string& text) {
  try {
    return RecordFromJson(Json::parse(text));
  } catch (const Json::exception& error) {
    return Fail(Code::kDataLoss, error.what());
  }
}

Result<RecordTable> RecordTable::Open(std::string directory) {
  BANYAN_TRY(MakeDirectories(directory, 0700));
  return RecordTable(std::move(directory));
}

std::string RecordTable::PathOf(uint64_t id) const { return fmt::format("{}/{}{}", directory_, id, kSuffix); }

Status RecordTable::Put(const Record& record) const {
  BANYAN_ASSIGN(const std::string text, SerializeRecord(record));
  return WriteFileDurably(PathOf(record.id), text, 0600);
}

Status RecordTable::Remove(uint64_t id) const {
  const std::string path = PathOf(id);
  if (::unlink(path.c_str()) != 0) return errno == ENOENT ? Status() : FailErrno("remove " + path, errno);
  BANYAN_ASSIGN(UniqueFd directory, OpenFile(directory_, O_RDONLY | O_DIRECTORY));
  if (::fsync(directory.get()) != 0) return FailErrno("fsync " + directory_, errno);
  return {};
}

Status RecordTable::SetAside(uint64_t id) const {
  const std::string path = PathOf(id);
  const std::string aside = fmt::format("{}/{}{}", directory_, id, kDamagedSuffix);
  if (::rename(path.c_str(), aside.c_str()) != 0) return FailErrno("rename " + path, errno);
  return {};
}

Result<RecordTable::Contents> RecordTable::Load() const {
  Contents contents;
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(directory_, error)) {
    const std::string path = file.path().string();
    const std::string name = file.path().filename().string();
    if (name.find(".json.tmp.") != std::string::npos) {
      ::unlink(path.c_str());
    } else if (const uint64_t aside = IdOf(name, kDamagedSuffix); aside != 0) {
      contents.damaged.push_back(aside);
    } else if (const uint64_t id = IdOf(name, kSuffix); id != 0) {
      const auto text = ReadFile(path, kMaxRecordBytes);
      auto record = text ? ParseRecord(*text) : tl::unexpected<Error>(text.error());
      if (record && record->id != id) record = Fail(Code::kDataLoss, fmt::format("is that of {}", record->id));
      if (record) {
        contents.records.push_back(std::move(*record));
      } else {
        contents.damaged.push_back(id);
        contents.notes.push_back(fmt::format("{}: {}", path, record.error().message));
      }
    }
  }
  if (error) return FailErrno("list " + directory_, error.value());
  // Only now: a directory that changes while it is listed may be listed twice.
  for (const uint64_t id : contents.damaged) {
    if (::access(PathOf(id).c_str(), F_OK) == 0) BANYAN_TRY(SetAside(id));
  }
  return contents;
}

}  // namespace banyan::snapshotter
