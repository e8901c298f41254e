// A page of metrics in Prometheus' text format, made out of counters that the code keeps anyway.
//
//   MetricsPage page;
//   page.Counter("banyan_reads_total", "Reads of mounted images.", stats.reads);
//   page.Counter("banyan_fetched_bytes_total", "Compressed bytes fetched.", {{"source", "registry"}}, bytes);
//   reply->Send({.headers = {{"Content-Type", MetricsPage::kContentType}}, .body = page.Text()});
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace banyan {

// Externally synchronised. Names obey Prometheus' rules ([a-z_:][a-z0-9_:]*, a unit as suffix, counters end in
// _total); values of one name come with the same label names.
class MetricsPage {
 public:
  static constexpr const char* kContentType = "text/plain; version=0.0.4; charset=utf-8";
  using Labels = std::vector<std::pair<std::string, std::string>>;

  MetricsPage();
  ~MetricsPage();
  MetricsPage(const MetricsPage&) = delete;
  MetricsPage& operator=(const MetricsPage&) = delete;

  void Counter(const std::string& name, const std::string& help, double value) { Counter(name, help, {}, value); }
  void Counter(const std::string& name, const std::string& help, const Labels& labels, double value);
  void Gauge(const std::string& name, const std::string& help, double value) { Gauge(name, help, {}, value); }
  void Gauge(const std::string& name, const std::string& help, const Labels& labels, double value);

  // What every process of ours shows: version, start time, resident memory, processor time, open descriptors.
  void Process(const std::string& version);

  std::string Text() const;

 private:
  struct Families;
  std::unique_ptr<Families> families_;
};

}  // namespace banyan
