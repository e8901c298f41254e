#include "tree-manager/state_store.h"

#include <array>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <string_view>
#include <system_error>

#include <fmt/format.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include "common/log.h"
#include "common/units.h"

namespace banyan::tree_manager {
namespace {

using Kind = RecordChanges::Kind;

constexpr char kSettingsKey = 'E';
constexpr char kDrainedKey = 'D';
constexpr char kNodeKey = 'N';
constexpr char kFunctionKey = 'F';
constexpr char kProfileKey = 'C';
constexpr char kMemberKey = 'M';

std::string KeyOf(const RecordChanges::Change& change) {
  switch (change.kind) {
    case Kind::kSettings:
      return std::string(1, kSettingsKey);
    case Kind::kDrained:
      return kDrainedKey + change.name;
    case Kind::kNode:
      return kNodeKey + change.name;
    case Kind::kFunction:
      return kFunctionKey + change.name;
    case Kind::kProfile:
      return kProfileKey + change.name;
    case Kind::kMember:
      return kMemberKey + change.name + '\0' + change.node;
  }
  return {};
}

Error StoreError(std::string_view what, const rocksdb::Status& status) {
  Code code = Code::kUnavailable;
  if (status.IsCorruption()) code = Code::kDataLoss;
  if (status.IsNoSpace()) code = Code::kResourceExhausted;
  return Error{code, fmt::format("state: {}: {}", what, status.ToString())};
}

// RocksDB's own log file would be one more file that a full disk refuses: Debian's build aborts then.
class LogForwarder final : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char* format, va_list arguments) override { Logv(rocksdb::WARN_LEVEL, format, arguments); }
  void Logv(const rocksdb::InfoLogLevel level, const char* format, va_list arguments) override {
    if (level < rocksdb::WARN_LEVEL || level == rocksdb::HEADER_LEVEL) return;
    std::array<char, 512> line{};
    std::vsnprintf(line.data(), line.size(), format, arguments);
    spdlog::debug("rocksdb: {}", line.data());
  }
};

rocksdb::Options DatabaseOptions() {
  rocksdb::Options options;
  options.info_log = std::make_shared<LogForwarder>();
  options.create_if_missing = true;
  options.write_buffer_size = 4 * kMiB;
  options.max_total_wal_size = 16 * kMiB;
  options.max_open_files = 64;
  options.max_background_jobs = 2;
  options.manifest_preallocation_size = 64 * kKiB;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(4 * kMiB);
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

// Damage, as against a disk that is full, a directory that may not be entered, or another manager's lock.
bool IsDamage(const rocksdb::Status& status) {
  if (status.IsCorruption() || status.IsInvalidArgument() || status.IsNotFound() || status.IsNotSupported()) {
    return true;
  }
  return status.IsIOError() && (status.IsPathNotFound() || status.ToString().find("No such file") != std::string::npos);
}

Status SetAside(const std::string& path) {
  for (int n = 1;; ++n) {
    const std::string aside = fmt::format("{}.damaged-{}", path, n);
    if (std::filesystem::exists(aside)) continue;
    std::error_code error;
    std::filesystem::rename(path, aside, error);
    if (error) return FailErrno("set aside " + path, error.value());
    return {};
  }
}

// Whether the record made sense.
bool Take(std::string_view key, const std::string& value, StoredState& state) {
  const std::string name(key.substr(1));
  switch (key.front()) {
    case kSettingsKey:
      return state.settings.emplace().ParseFromString(value);
    case kDrainedKey:
      state.drained.push_back(name);
      return true;
    case kNodeKey:
      return state.nodes.emplace_back(name, proto::tree_state::Node()).second.ParseFromString(value);
    case kFunctionKey:
      return state.functions.emplace_back(name, proto::tree_state::Function()).second.ParseFromString(value);
    case kProfileKey:
      return state.profiles.emplace_back(name, proto::tree::ChunkList()).second.ParseFromString(value);
    case kMemberKey: {
      const size_t end = name.find('\0');
      if (end == std::string::npos) return false;
      state.members.push_back({name.substr(0, end), name.substr(end + 1), {}});
      return state.members.back().value.ParseFromString(value);
    }
    default:
      return false;
  }
}

}  // namespace

StateStore::StateStore(std::unique_ptr<rocksdb::DB> db) : db_(std::move(db)) {}

StateStore::~StateStore() {
  db_->Flush(rocksdb::FlushOptions());
  db_->Close();
}

Result<std::unique_ptr<StateStore>> StateStore::TryOpen(const std::string& path) {
  // RocksDB makes a new database where CURRENT is missing, beside the files of the old one.
  std::error_code error;
  if (!std::filesystem::exists(path + "/CURRENT", error)) {
    for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
      const std::string extension = entry.path().extension().string();
      if (extension == ".sst" || extension == ".log") return Fail(Code::kDataLoss, path + ": CURRENT is missing");
    }
  }
  rocksdb::DB* opened = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(DatabaseOptions(), path, &opened);
  if (!status.ok()) {
    Error failure = StoreError("open " + path, status);
    failure.code = IsDamage(status) ? Code::kDataLoss : Code::kUnavailable;
    return Fail(std::move(failure));
  }
  std::unique_ptr<StateStore> store(new StateStore(std::unique_ptr<rocksdb::DB>(opened)));
  if (const auto state = store->Read(); !state) return Fail(state.error());  // damage that only reading shows
  return store;
}

Result<std::unique_ptr<StateStore>> StateStore::Open(const std::string& path) {
  auto store = TryOpen(path);
  if (store || store.error().code != Code::kDataLoss) return store;
  spdlog::warn("{}; set aside, the trees are made anew of what the agents say", store.error().message);
  BANYAN_TRY(SetAside(path));
  return TryOpen(path);
}

Status StateStore::Write(const RecordChanges& changes, bool sync) {
  rocksdb::WriteBatch batch;
  for (const RecordChanges::Change& change : changes.changes) {
    if (change.value) {
      batch.Put(KeyOf(change), *change.value);
    } else {
      batch.Delete(KeyOf(change));
    }
  }
  rocksdb::WriteOptions options;
  options.sync = sync;
  rocksdb::Status status = db_->Write(options, &batch);
  if (!status.ok()) {
    db_->Resume();  // after an error RocksDB refuses writes until told to go on
    status = db_->Write(options, &batch);
  }
  if (!status.ok()) return Fail(StoreError("write", status));
  return {};
}

Result<StoredState> StateStore::Read() {
  StoredState state;
  size_t senseless = 0;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(rocksdb::ReadOptions()));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    if (it->key().empty() || !Take(it->key().ToStringView(), it->value().ToString(), state)) ++senseless;
  }
  if (!it->status().ok()) return Fail(StoreError("read", it->status()));
  if (senseless > 0) spdlog::warn("state: {} records make no sense", senseless);
  return state;
}

}  // namespace banyan::tree_manager
