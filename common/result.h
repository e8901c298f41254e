// Errors as values.
//
// Every operation that can fail returns Result<T> (or Status, when there is nothing to return). An Error carries one of
// gRPC's canonical codes, so that the three edges of the system (errno for FUSE, grpc::Status, HTTP status) translate
// it without guessing, and a message that says what failed and to what: "chunk 17 of layer sha256:9c1d…: digest
// mismatch".
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <tl/expected.hpp>

namespace banyan {

// gRPC's canonical codes, by their numbers.
enum class Code {
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

// "NOT_FOUND" and so on; static storage.
std::string_view CodeName(Code code);

struct Error {
  Code code = Code::kUnknown;
  std::string message;

  // The same error with "<context>: " put before its message.
  Error WithContext(std::string_view context) const;
};

template <typename T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

// Makes the error alternative of any Result: `return Fail(Code::kNotFound, fmt::format(…));`
[[nodiscard]] inline tl::unexpected<Error> Fail(Code code, std::string message) {
  return tl::unexpected<Error>(Error{code, std::move(message)});
}
[[nodiscard]] inline tl::unexpected<Error> Fail(Error error) { return tl::unexpected<Error>(std::move(error)); }

// An Error for `error_number` (an errno value): "<what>: No space left on device", with the fitting code
// (ENOSPC and EDQUOT: kResourceExhausted, ENOENT: kNotFound, EEXIST: kAlreadyExists, EACCES and EPERM:
// kPermissionDenied …).
Error ErrnoError(std::string_view what, int error_number);
[[nodiscard]] inline tl::unexpected<Error> FailErrno(std::string_view what, int error_number) {
  return tl::unexpected<Error>(ErrnoError(what, error_number));
}
// The reverse, for the FUSE edge; EIO for whatever has no errno of its own.
int ErrnoOf(const Error& error);

}  // namespace banyan

#define BANYAN_CONCAT_INNER(a, b) a##b
#define BANYAN_CONCAT(a, b) BANYAN_CONCAT_INNER(a, b)

// BANYAN_TRY(expr): returns expr's error from the enclosing function, if it has one.
#define BANYAN_TRY(...)                                                           \
  do {                                                                            \
    if (auto banyan_status = (__VA_ARGS__); !banyan_status) {                     \
      return ::tl::unexpected<::banyan::Error>(std::move(banyan_status).error()); \
    }                                                                             \
  } while (false)

// BANYAN_ASSIGN(auto x, expr): declares (or assigns) x from expr's value, or returns its error.
#define BANYAN_ASSIGN(lhs, ...) BANYAN_ASSIGN_INNER(BANYAN_CONCAT(banyan_result_, __LINE__), lhs, __VA_ARGS__)
#define BANYAN_ASSIGN_INNER(tmp, lhs, ...)                            \
  auto tmp = (__VA_ARGS__);                                           \
  if (!tmp) {                                                         \
    return ::tl::unexpected<::banyan::Error>(std::move(tmp).error()); \
  }                                                                   \
  lhs = std::move(tmp).value()
