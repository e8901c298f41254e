#include "image-format/oci_json.h"

#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace banyan::image_format::oci_json {
namespace {

constexpr size_t kMaxDepth = 32;
constexpr size_t kMaxValues = 1'000'000;

// Sees every token before any of it is kept; stops at the first fault.
class Guard final : public nlohmann::json_sax<json> {
 public:
  const std::string& fault() const { return fault_; }

  bool null() override { return Count(); }
  bool boolean(bool) override { return Count(); }
  bool number_integer(number_integer_t) override { return Count(); }
  bool number_unsigned(number_unsigned_t) override { return Count(); }
  bool number_float(number_float_t, const string_t&) override { return Count(); }
  bool string(string_t&) override { return Count(); }
  bool binary(binary_t&) override { return Count(); }
  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return Nest();
  }
  bool end_object() override {
    keys_.pop_back();
    return true;
  }
  bool start_array(std::size_t) override {
    keys_.emplace_back();
    return Nest();
  }
  bool end_array() override {
    keys_.pop_back();
    return true;
  }
  bool key(string_t& name) override {
    return keys_.back().insert(name).second || Stop(fmt::format("key '{}' twice", name));
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Stop(fmt::format("not JSON at byte {}", position));
  }

 private:
  bool Stop(std::string fault) {
    if (fault_.empty()) fault_ = std::move(fault);
    return false;
  }
  bool Count() { return ++values_ <= kMaxValues || Stop("too many values"); }
  bool Nest() { return keys_.size() <= kMaxDepth ? Count() : Stop("nested too deeply"); }

  std::vector<std::set<std::string>> keys_;  // of the objects that are open; arrays count as nesting
  size_t values_ = 0;
  std::string fault_;
};

tl::unexpected<Error> WrongType(const char* key, std::string_view wanted) {
  return Fail(Code::kInvalidArgument, fmt::format("field '{}' is not {}", key, wanted));
}

const json* Find(const json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

}  // namespace

Result<json> Parse(std::string_view text, uint64_t limit_bytes, std::string_view what) {
  if (text.size() > limit_bytes) {
    return Fail(Code::kResourceExhausted,
                fmt::format("{}: {} bytes, at most {} are allowed", what, text.size(), limit_bytes));
  }
  Guard guard;
  if (!json::sax_parse(text.begin(), text.end(), &guard)) {
    return Fail(Code::kInvalidArgument, fmt::format("{}: {}", what, guard.fault()));
  }
  json document = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!document.is_object()) return Fail(Code::kInvalidArgument, fmt::format("{}: not a JSON object", what));
  return document;
}

Result<std::string> String(const json& object, const char* key) {
  const json* field = Find(object, key);
  if (field == nullptr) return std::string();
  if (!field->is_string()) return WrongType(key, "a string");
  return field->get_ref<const std::string&>();
}

Result<uint64_t> Unsigned(const json& object, const char* key) {
  const json* field = Find(object, key);
  if (field == nullptr) return 0;
  if (!field->is_number_unsigned()) return WrongType(key, "a number from 0");
  return field->get<uint64_t>();
}

Result<const json*> Array(const json& object, const char* key) {
  const json* field = Find(object, key);
  if (field != nullptr && !field->is_array()) return WrongType(key, "an array");
  return field;
}

Result<const json*> Object(const json& object, const char* key) {
  const json* field = Find(object, key);
  if (field != nullptr && !field->is_object()) return WrongType(key, "an object");
  return field;
}

}  // namespace banyan::image_format::oci_json
