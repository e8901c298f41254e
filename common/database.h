// What Banyan's RocksDB databases have in common: small ones, on disks that may be full or damaged.
//
// A database is opened, or is found damaged, or cannot be opened for a reason that says nothing about what it holds;
// only a damaged one may be set aside and begun anew. A library of its own, so that only those who keep a database link
// RocksDB.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/result.h"
#include "common/units.h"

namespace rocksdb {
class DB;
class Status;
}  // namespace rocksdb

namespace banyan {

// Flushes, so that the next start replays nothing, and closes.
struct CloseDatabase {
  void operator()(rocksdb::DB* database) const;
};
using Database = std::unique_ptr<rocksdb::DB, CloseDatabase>;

// Of databases of megabytes: buffers are small, files few.
struct DatabaseOptions {
  std::string_view name;  // for messages
  size_t cache_bytes = 4 * kMiB;
  uint64_t log_bytes = 8 * kMiB;  // the write-ahead log, at most about: what a start after a crash replays
  bool bloom_filters = false;     // for those who ask for single keys that are often absent
};

// Opens or makes the database in directory `path`. kDataLoss when it is damaged; kResourceExhausted when its disk is
// full; kUnavailable when it cannot be opened for another reason (no permission, another process has it). Damage that
// only reading shows is the caller's to find. RocksDB's warnings go to our log, at debug level.
Result<Database> OpenDatabase(const DatabaseOptions& options, const std::string& path);

// The same for a disk without any room: writes nothing, and takes no lock. Writes to it are refused. Valid until the
// database is opened otherwise; what is read then may be an error.
Result<Database> OpenDatabaseToRead(const DatabaseOptions& options, const std::string& path);

// Renames `path` to `path`.damaged-<n>, with the least n that is free.
Status SetDatabaseAside(const std::string& path);

// kNotFound, kDataLoss (corruption), kResourceExhausted (no space), else kUnavailable: "<name>: <what>: …".
Error DatabaseError(std::string_view name, std::string_view what, const rocksdb::Status& status);

}  // namespace banyan
