// The snapshotter's state on disk: one JSON file a snapshot. Whatever happens to a snapshot replaces or removes its one
// file, so there is no log, no transaction and nothing to repair; a file that cannot be read concerns one snapshot.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "snapshotter/snapshot.h"

namespace banyan::snapshotter {

struct Record {
  uint64_t id = 0;  // from 1
  SnapshotInfo info;
  std::optional<Usage> usage;      // of a committed one, once known
  std::optional<LazyChain> chain;  // of a claimed one
  friend bool operator==(const Record&, const Record&) = default;
};

// kInvalidArgument when a string is not UTF-8.
Result<std::string> SerializeRecord(const Record& record);
// kDataLoss unless it is a whole record.
Result<Record> ParseRecord(const std::string& text);

// Immutable: calls for different ids may run at once.
class RecordTable {
 public:
  // Makes the directory if needed.
  static Result<RecordTable> Open(std::string directory);

  // Durable when it returns; replaces the record of that id.
  Status Put(const Record& record) const;
  // Durable when it returns. Absent: no error.
  Status Remove(uint64_t id) const;

  struct Contents {
    std::vector<Record> records;
    std::vector<uint64_t> damaged;   // ids whose files are set aside as <id>.damaged, now or earlier
    std::vector<std::string> notes;  // messages that name each file set aside now
  };
  // Also removes what a Put() cut short has left.
  Result<Contents> Load() const;
  // Sets a record aside that contradicts another.
  Status SetAside(uint64_t id) const;

 private:
  explicit RecordTable(std::string directory) : directory_(std::move(directory)) {}
  std::string PathOf(uint64_t id) const;

  std::string directory_;
};

}  // namespace banyan::snapshotter
