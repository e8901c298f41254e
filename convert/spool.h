// A directory for files that a command makes on its way: <data root>/spool/<random>. It is removed with its contents
// when the command ends, and by the next command if it could not (kill -9): a lock tells the living from the dead.
#pragma once

#include <string>
#include <utility>

#include "common/result.h"
#include "common/unique_fd.h"

namespace banyan::convert {

// Movable. Externally synchronised, except for Path().
class Spool {
 public:
  // Also removes what dead commands left.
  static Result<Spool> Open(const std::string& data_root);
  ~Spool();
  Spool(Spool&& other) noexcept : directory_(std::exchange(other.directory_, {})), lock_(std::move(other.lock_)) {}
  Spool& operator=(Spool&&) = delete;

  const std::string& directory() const { return directory_; }
  // A file in it; `name` is one path component.
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }

 private:
  Spool(std::string directory, UniqueFd lock) : directory_(std::move(directory)), lock_(std::move(lock)) {}

  std::string directory_;
  UniqueFd lock_;
};

// Removes a directory tree without following symlinks; what cannot be removed stays.
void RemoveTree(const std::string& path);

}  // namespace banyan::convert
