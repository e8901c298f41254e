#include "common/database.h"

#include <array>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>

#include "common/log.h"

namespace banyan {
namespace {

// RocksDB's own log file is a file like any other: once a full disk has refused it a line, Debian's build (with
// assertions) aborts at the next. So its warnings go where ours go.
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

// As against a disk that is full, a directory that may not be entered, or another process's lock. RocksDB calls a
// missing file an IOError.
bool IsDamage(const rocksdb::Status& status) {
  if (status.IsCorruption() || status.IsInvalidArgument() || status.IsNotFound() || status.IsNotSupported()) {
    return true;
  }
  return status.IsIOError() && (status.IsPathNotFound() || status.ToString().find("No such file") != std::string::npos);
}

// RocksDB makes a new database where CURRENT is missing, beside the files of the old one.
bool LacksCurrent(const std::string& path) {
  std::error_code error;
  if (std::filesystem::exists(path + "/CURRENT", error)) return false;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".sst" || extension == ".log") return true;
  }
  return false;
}

rocksdb::Options RocksdbOptions(const DatabaseOptions& wanted) {
  rocksdb::Options options;
  options.info_log = std::make_shared<LogForwarder>();
  options.create_if_missing = true;
  options.write_buffer_size = 4 * kMiB;
  options.max_write_buffer_number = 3;
  options.max_total_wal_size = wanted.log_bytes;
  options.max_open_files = 64;
  options.max_background_jobs = 2;
  options.manifest_preallocation_size = 64 * kKiB;
  rocksdb::BlockBasedTableOptions table;
  if (wanted.bloom_filters) table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.block_cache = rocksdb::NewLRUCache(wanted.cache_bytes);
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

Error OpenError(const DatabaseOptions& options, const std::string& path, const rocksdb::Status& status) {
  Error failure = DatabaseError(options.name, "open " + path, status);
  if (IsDamage(status)) failure.code = Code::kDataLoss;
  return failure;
}

}  // namespace

void CloseDatabase::operator()(rocksdb::DB* database) const {
  database->Flush(rocksdb::FlushOptions());
  database->Close();
  delete database;
}

Result<Database> OpenDatabase(const DatabaseOptions& options, const std::string& path) {
  if (LacksCurrent(path)) return Fail(Code::kDataLoss, fmt::format("{}: {}: CURRENT is missing", options.name, path));
  rocksdb::DB* opened = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(RocksdbOptions(options), path, &opened);
  if (status.ok()) return Database(opened);
  return Fail(OpenError(options, path, status));
}

Result<Database> OpenDatabaseToRead(const DatabaseOptions& options, const std::string& path) {
  rocksdb::DB* opened = nullptr;
  const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(RocksdbOptions(options), path, &opened);
  if (status.ok()) return Database(opened);
  return Fail(OpenError(options, path, status));
}

Status SetDatabaseAside(const std::string& path) {
  for (int n = 1;; ++n) {
    const std::string aside = fmt::format("{}.damaged-{}", path, n);
    if (std::filesystem::exists(aside)) continue;
    std::error_code error;
    std::filesystem::rename(path, aside, error);
    if (error) return FailErrno("set aside " + path, error.value());
    return {};
  }
}

Error DatabaseError(std::string_view name, std::string_view what, const rocksdb::Status& status) {
  Code code = Code::kUnavailable;
  if (status.IsNotFound()) code = Code::kNotFound;
  if (status.IsCorruption()) code = Code::kDataLoss;
  if (status.IsNoSpace()) code = Code::kResourceExhausted;
  return Error{code, fmt::format("{}: {}: {}", name, what, status.ToString())};
}

}  // namespace banyan
