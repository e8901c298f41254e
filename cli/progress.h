// Progress of tasks that run side by side: bars on a terminal, plain lines otherwise.
//
// On a terminal the running tasks hold the last lines of the screen, redrawn ten times a second; a task that ends
// leaves its line above them. Elsewhere each task prints one line when it ends, so that a log stays readable.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace banyan::cli {

// One bar as it stands, `width` columns wide at most. Pure.
struct BarState {
  std::string label;
  std::string phase;  // "converting"
  uint64_t done = 0;
  uint64_t total = 0;  // 0: not known
  std::chrono::milliseconds elapsed{0};
};
std::string RenderBar(const BarState& state, size_t width);

// Internally synchronised.
class Progress {
 public:
  enum class Mode { kBars, kLines, kSilent };
  using Write = std::function<void(std::string_view)>;

  // Bars if `fd` is a terminal that can move its cursor, unless `quiet`.
  static Mode ModeFor(int fd, bool quiet);

  // One thing that makes progress. Advance() may be called from any thread; the rest from one at a time. Holds no more
  // than counters: it may outlive the Progress.
  class Task {
   public:
    void Advance(uint64_t bytes) { done_.fetch_add(bytes, std::memory_order_relaxed); }
    // Begins a new phase: its own count from 0 to `total`.
    void Phase(std::string phase, uint64_t total);

   private:
    friend class Progress;
    BarState State(std::chrono::steady_clock::time_point now) const;

    std::string label_;
    std::atomic<uint64_t> done_{0};
    mutable std::mutex mutex_;
    std::string phase_;                            // guarded by mutex_
    uint64_t total_ = 0;                           // guarded by mutex_
    std::chrono::steady_clock::time_point begin_;  // guarded by mutex_
  };

  // `write` takes whole lines and cursor movements; it is called by one thread at a time.
  Progress(Mode mode, Write write);
  // Takes the bars off the screen.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  std::shared_ptr<Task> Start(std::string label, std::string phase, uint64_t total);
  // The task leaves "<label>: <outcome>" behind.
  void Finish(const std::shared_ptr<Task>& task, std::string_view outcome);
  // A line between the bars.
  void Note(std::string_view line);

 private:
  void Draw();
  void Erase();
  void Tick();

  const Mode mode_;
  const Write write_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;                     // guarded by mutex_
  size_t drawn_lines_ = 0;                    // guarded by mutex_
  std::vector<std::shared_ptr<Task>> tasks_;  // guarded by mutex_
  std::thread ticker_;
};

// Writes to standard error.
void WriteToStderr(std::string_view text);

}  // namespace banyan::cli
