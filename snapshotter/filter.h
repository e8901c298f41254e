// containerd's filter language over snapshots: `kind==committed,labels."a.b/c"~=/^x/`.
//
//   filter   := selector ("," selector)*                all must hold; the empty filter always does
//   selector := field ("." field)* [operator value]     without operator: the field is there
//   field    := [A-Za-z0-9_]+ | "…"                     name, parent, kind, labels.<key> (dots of the key included)
//   operator := == | != | ~=                            ~= is RE2's syntax, which is Go's; matches anywhere
//   value    := "…" with Go's escapes | what ends at a comma or space; for ~= also /…/ and |…|
//
// Of several filters one has to hold. Expressions run in linear time and bounded memory.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "snapshotter/snapshot.h"

namespace re2 {
class RE2;
}

namespace banyan::snapshotter {

// Immutable.
class Filter {
 public:
  // No filter at all: everything matches. kInvalidArgument, with the place, when one cannot be read.
  static Result<Filter> Parse(const std::vector<std::string>& filters);

  bool Matches(const SnapshotInfo& info) const;

 private:
  enum class Operator { kPresent, kEqual, kNotEqual, kMatches };
  struct Selector {
    std::vector<std::string> path;
    Operator op = Operator::kPresent;
    std::string value;
    std::shared_ptr<const re2::RE2> expression;  // kMatches; shared by copies of the filter
  };
  using Conjunction = std::vector<Selector>;
  class Parser;

  static bool Holds(const Selector& selector, const SnapshotInfo& info);

  std::vector<Conjunction> alternatives_;
};

}  // namespace banyan::snapshotter
