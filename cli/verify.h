// `banyan verify`: everything that a converted image claims, checked from the bytes up.
//
//   documents  artifact, map, metadata and layer indexes against their digests and against each other
//   metadata   the EROFS structure, and its device table against the map
//   data       every data blob streamed: its digest, and both digests of every chunk
//   layers     the original layers against their digests and diff IDs
//   view       every name of the mounted view against what the original layers mean
//   mount      (asked for) the same with a real mount, by system calls
//
// A wrong digest or a difference is a finding; verification goes on as far as it can. Memory: the two trees (about 250
// bytes a file each), never contents.
#pragma once

#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/progress.h"
#include "common/result.h"

namespace banyan::cli {

struct VerifyOptions {
  std::string reference;
  std::string original;  // where the original image is, if not beside the artifact
  std::string platform;
  bool mount = false;
  std::string form = "auto";  // of the mount
};

struct Finding {
  std::string check;  // "data", "view", …
  std::string what;
};

struct VerifyReport {
  std::vector<Finding> findings;  // at most kMaxFindings
  uint64_t finding_count = 0;
  uint64_t blobs = 0;
  uint64_t chunks = 0;
  uint64_t bytes = 0;  // of blobs, read
  uint64_t inodes = 0;
  uint64_t names = 0;
  std::string mount_form;  // that was checked; empty: none

  static constexpr size_t kMaxFindings = 10'000;
};

// Where the image is mounted meanwhile.
std::string VerifyMountPoint(const std::string& spool_directory);

// Errors are for what kept it from checking (unreachable, not found, denied, stopped). `spool_directory` holds the
// devices for a mount.
Result<VerifyReport> VerifyImage(const VerifyOptions& options, const GlobalOptions& globals,
                                 const std::string& spool_directory, Progress& progress, std::stop_token stop);

}  // namespace banyan::cli
