// Header fields of a parsed HTTP message.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace banyan::net {

// In order, names in lower case. Externally synchronised.
class HeaderList {
 public:
  // `name` must be in lower case already.
  void Add(std::string name, std::string value) { fields_.emplace_back(std::move(name), std::move(value)); }
  // The first of that name (lower case); nullptr when absent.
  const std::string* Find(std::string_view name) const {
    for (const auto& [key, value] : fields_) {
      if (key == name) return &value;
    }
    return nullptr;
  }
  std::vector<std::string> FindAll(std::string_view name) const {
    std::vector<std::string> values;
    for (const auto& [key, value] : fields_) {
      if (key == name) values.push_back(value);
    }
    return values;
  }
  const std::vector<std::pair<std::string, std::string>>& fields() const { return fields_; }

 private:
  std::vector<std::pair<std::string, std::string>> fields_;
};

}  // namespace banyan::net
