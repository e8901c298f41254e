// A line diff for people who shall agree to a change of a file before it is made.
#pragma once

#include <string>
#include <string_view>

namespace banyan::cli {

// "--- name / +++ name" and the changed lines with up to three lines of context, as diff -u writes them; empty when the
// texts are equal. For configuration files: time and memory grow with the product of the line counts, so texts of more
// than 4,000 lines are shown as wholly replaced.
std::string UnifiedDiff(std::string_view name, std::string_view before, std::string_view after);

}  // namespace banyan::cli
