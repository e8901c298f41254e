#include "tree-manager/state_store.h"

#include <string_view>
#include <utility>

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include "common/log.h"
#include "common/units.h"

namespace banyan::tree_manager {
namespace {

using Kind = RecordChanges::Kind;

constexpr std::string_view kName = "state";
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

StateStore::StateStore(Database db) : db_(std::move(db)) {}

Result<std::unique_ptr<StateStore>> StateStore::TryOpen(const std::string& path) {
  BANYAN_ASSIGN(Database db, OpenDatabase({.name = kName, .log_bytes = 16 * kMiB}, path));
  std::unique_ptr<StateStore> store(new StateStore(std::move(db)));
  if (const auto state = store->Read(); !state) return Fail(state.error());  // damage that only reading shows
  return store;
}

Result<std::unique_ptr<StateStore>> StateStore::Open(const std::string& path) {
  auto store = TryOpen(path);
  if (store || store.error().code != Code::kDataLoss) return store;
  spdlog::warn("{}; set aside, the trees are made anew of what the agents say", store.error().message);
  BANYAN_TRY(SetDatabaseAside(path));
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
  if (!status.ok()) return Fail(DatabaseError(kName, "write", status));
  return {};
}

Result<StoredState> StateStore::Read() {
  StoredState state;
  size_t senseless = 0;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(rocksdb::ReadOptions()));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    if (it->key().empty() || !Take(it->key().ToStringView(), it->value().ToString(), state)) ++senseless;
  }
  if (!it->status().ok()) return Fail(DatabaseError(kName, "read", it->status()));
  if (senseless > 0) spdlog::warn("state: {} records make no sense", senseless);
  return state;
}

}  // namespace banyan::tree_manager
