// The tree-manager's memory across restarts: a RocksDB. Keys are one letter and names:
//
//   E                       settings (epoch, starts, the peer-to-peer switch)
//   D <node>                a drained node; no value
//   N <node>                a node
//   F <function>            a function
//   C <function>            its settled profile, as a ChunkList
//   M <function> NUL <node> a member and its place in the trees (names have no controls)
//
// Values are proto/tree_state.proto's, so that older and newer managers read each other's. A batch is written whole or
// not at all, and holds all that an instant's trees differ in from the one before: what is read back is always the
// trees of one instant.
#pragma once

#include <memory>
#include <string>

#include "common/database.h"
#include "common/result.h"
#include "tree-manager/membership.h"

namespace banyan::tree_manager {

// Internally synchronised.
class StateStore {
 public:
  // Opens or makes the database in directory `path`. One that is damaged is renamed to `path`.damaged-<n>, with a
  // warning, and begun anew. kUnavailable when it cannot be opened for a reason that says nothing about it (no space,
  // no permission, another manager).
  static Result<std::unique_ptr<StateStore>> Open(const std::string& path);

  // On stable storage on return, if `sync`. After an error nothing of it is written; it may be tried again.
  Status Write(const RecordChanges& changes, bool sync);
  // Records that make no sense are left out, with a warning.
  Result<StoredState> Read();

 private:
  explicit StateStore(Database db);
  static Result<std::unique_ptr<StateStore>> TryOpen(const std::string& path);

  const Database db_;
};

}  // namespace banyan::tree_manager
