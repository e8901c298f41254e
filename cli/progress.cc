#include "cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include <fmt/format.h>

#include "cli/text.h"

namespace banyan::cli {
namespace {

constexpr std::chrono::milliseconds kFrame{100};
constexpr size_t kBarColumns = 24;

size_t TerminalColumns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

std::string Gauge(uint64_t done, uint64_t total) {
  const auto filled =
      static_cast<size_t>(static_cast<double>(kBarColumns) * static_cast<double>(done) / static_cast<double>(total));
  std::string gauge(filled, '=');
  if (filled < kBarColumns) gauge += '>';
  gauge.resize(kBarColumns, ' ');
  return "[" + gauge + "]";
}

}  // namespace

std::string RenderBar(const BarState& state, size_t width) {
  const uint64_t done = state.total > 0 ? std::min(state.done, state.total) : state.done;
  std::string line = fmt::format("{:<19} {:<10} ", state.label, state.phase);
  if (state.total > 0) line += Gauge(done, state.total) + " ";
  line += HumanBytes(done);
  if (state.total > 0) line += " / " + HumanBytes(state.total);
  const double seconds = static_cast<double>(state.elapsed.count()) / 1000;
  if (done > 0 && seconds >= 0.5) {
    const double rate = static_cast<double>(done) / seconds;
    line += fmt::format("  {}/s", HumanBytes(static_cast<uint64_t>(rate)));
    if (state.total > done) {
      const double left = static_cast<double>(state.total - done) / rate * 1000;
      line += "  ETA " + HumanTime(std::chrono::milliseconds(static_cast<int64_t>(std::min(left, 1e12))));
    }
  }
  return line.substr(0, width);
}

Progress::Mode Progress::ModeFor(int fd, bool quiet) {
  if (quiet) return Mode::kSilent;
  const char* term = std::getenv("TERM");
  const bool moves = term != nullptr && std::string_view(term) != "dumb";
  return ::isatty(fd) == 1 && moves ? Mode::kBars : Mode::kLines;
}

void Progress::Task::Phase(std::string phase, uint64_t total) {
  std::lock_guard lock(mutex_);
  phase_ = std::move(phase);
  total_ = total;
  begin_ = std::chrono::steady_clock::now();
  done_.store(0, std::memory_order_relaxed);
}

BarState Progress::Task::State(std::chrono::steady_clock::time_point now) const {
  std::lock_guard lock(mutex_);
  return BarState{label_, phase_, done_.load(std::memory_order_relaxed), total_,
                  std::chrono::duration_cast<std::chrono::milliseconds>(now - begin_)};
}

Progress::Progress(Mode mode, Write write) : mode_(mode), write_(std::move(write)) {
  if (mode_ == Mode::kBars) ticker_ = std::thread([this] { Tick(); });
}

Progress::~Progress() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (ticker_.joinable()) ticker_.join();
  std::lock_guard lock(mutex_);
  Erase();
}

std::shared_ptr<Progress::Task> Progress::Start(std::string label, std::string phase, uint64_t total) {
  auto task = std::make_shared<Task>();
  task->label_ = std::move(label);
  task->Phase(std::move(phase), total);
  std::lock_guard lock(mutex_);
  tasks_.push_back(task);
  return task;
}

void Progress::Finish(const std::shared_ptr<Task>& task, std::string_view outcome) {
  std::lock_guard lock(mutex_);
  std::erase(tasks_, task);
  if (mode_ == Mode::kSilent) return;
  Erase();
  write_(fmt::format("{}: {}\n", task->label_, outcome));
  Draw();
}

void Progress::Note(std::string_view line) {
  std::lock_guard lock(mutex_);
  if (mode_ == Mode::kSilent) return;
  Erase();
  write_(fmt::format("{}\n", line));
  Draw();
}

void Progress::Draw() {
  if (mode_ != Mode::kBars || tasks_.empty()) return;
  const auto now = std::chrono::steady_clock::now();
  const size_t columns = TerminalColumns() - 1;
  std::string text;
  for (const auto& task : tasks_) text += RenderBar(task->State(now), columns) + "\n";
  drawn_lines_ = tasks_.size();
  write_(text);
}

void Progress::Erase() {
  if (drawn_lines_ == 0) return;
  // Cursor up, then clear to the end of the screen.
  write_(fmt::format("\x1b[{}A\r\x1b[J", drawn_lines_));
  drawn_lines_ = 0;
}

void Progress::Tick() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kFrame, [this] { return stopping_; })) {
    Erase();
    Draw();
  }
}

void WriteToStderr(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace banyan::cli
