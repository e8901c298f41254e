#include "common/metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
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

// Since the epoch: the time since boot of the process, field 22 of /proc/self/stat, on the clock of now.
double StartSeconds() {
  std::ifstream file("/proc/self/stat");
  std::string stat((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  stat.erase(0, stat.rfind(')') + 1);  // the program's name may hold spaces
  std::istringstream fields(stat);
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  timespec boot{};
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &boot);
  ::clock_gettime(CLOCK_REALTIME, &now);
  const double booted =
      static_cast<double>(now.tv_sec - boot.tv_sec) + static_cast<double>(now.tv_nsec - boot.tv_nsec) / 1e9;
  return booted + std::strtod(field.c_str(), nullptr) / static_cast<double>(::sysconf(_SC_CLK_TCK));
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
  Gauge("process_start_time_seconds", "When the process began, since the epoch.", StartSeconds());
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
