#include "common/metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

namespace banyan {

namespace {

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

// Pages are the second number of /proc/self/statm.
double ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  double size = 0;
  double resident = 0;
  statm >> size >> resident;
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

double OpenDescriptors() {
  std::error_code error;
  const std::filesystem::directory_iterator files("/proc/self/fd", error);
  return error ? 0 : static_cast<double>(std::distance(begin(files), end(files)));
}

}  // namespace

struct MetricsPage::Families {
  std::vector<prometheus::MetricFamily> all;

  prometheus::ClientMetric& Add(const std::string& name, const std::string& help, prometheus::MetricType type,
                                const Labels& labels) {
    auto family = std::find_if(all.begin(), all.end(), [&](const auto& known) { return known.name == name; });
    if (family == all.end()) {
      all.push_back({name, help, type, {}});
      family = all.end() - 1;
    }
    prometheus::ClientMetric& metric = family->metric.emplace_back();
    for (const auto& [label, value] : labels) metric.label.push_back({label, value});
    return metric;
  }
};

MetricsPage::MetricsPage() : families_(std::make_unique<Families>()) {}
MetricsPage::~MetricsPage() = default;

void MetricsPage::Counter(const std::string& name, const std::string& help, const Labels& labels, double value) {
  families_->Add(name, help, prometheus::MetricType::Counter, labels).counter.value = value;
}

void MetricsPage::Gauge(const std::string& name, const std::string& help, const Labels& labels, double value) {
  families_->Add(name, help, prometheus::MetricType::Gauge, labels).gauge.value = value;
}

void MetricsPage::Process(const std::string& version) {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  Gauge("banyan_build_info", "The running version, as a label.", {{"version", version}}, 1);
  Gauge("process_resident_memory_bytes", "Resident memory.", ResidentBytes());
  Gauge("process_open_fds", "Open file descriptors.", OpenDescriptors());
  Counter("process_cpu_seconds_total", "Processor time, user and system.",
          Seconds(usage.ru_utime) + Seconds(usage.ru_stime));
}

std::string MetricsPage::Text() const {
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, families_->all);
  return out.str();
}

}  // namespace banyan
