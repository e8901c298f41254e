// A source out of memory that does as it is told: answers at once, or only when the test says so, or wrongly.
#pragma once

#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "fetch/chunk_source.h"
#include "fetch/testing/test_layer.h"

namespace banyan::fetch::testing {

// Internally synchronised.
class FakeSource final : public ChunkSource {
 public:
  struct Asked {
    ChunkRequest request;
    OnChunk on_chunk;
  };
  // Decides a chunk's answer; by default the right bytes.
  using Answerer = std::function<Result<ChunkBytes>(const ChunkRequest&, ChunkIndex)>;

  explicit FakeSource(const TestLayer& layer, std::string_view name = "fake") : layer_(layer), name_(name) {}
  ~FakeSource() override {
    for (const Asked& asked : TakeHeld()) AnswerAll(asked, Fail(Code::kCancelled, "the source is gone"));
  }

  // From now on requests wait for TakeHeld().
  void Hold(bool hold) {
    const std::lock_guard lock(mutex_);
    hold_ = hold;
  }
  void SetAnswerer(Answerer answerer) {
    const std::lock_guard lock(mutex_);
    answerer_ = std::move(answerer);
  }
  std::vector<Asked> TakeHeld() {
    const std::lock_guard lock(mutex_);
    return std::exchange(held_, {});
  }
  std::vector<ChunkRequest> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

  void Fetch(ChunkRequest request, OnChunk on_chunk) override {
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
      if (hold_) {
        held_.push_back({std::move(request), std::move(on_chunk)});
        return;
      }
    }
    Answer({std::move(request), std::move(on_chunk)});
  }
  std::string_view name() const override { return name_; }

  // Answers as the answerer says.
  void Answer(const Asked& asked) {
    for (ChunkIndex chunk = asked.request.chunks.begin; chunk < asked.request.chunks.end; ++chunk) {
      AnswerChunk(asked, chunk);
    }
  }
  void AnswerChunk(const Asked& asked, ChunkIndex chunk) {
    Answerer answerer;
    {
      const std::lock_guard lock(mutex_);
      answerer = answerer_;
    }
    asked.on_chunk(chunk, answerer ? answerer(asked.request, chunk) : Result<ChunkBytes>(layer_.Compressed(chunk)));
  }
  static void AnswerAll(const Asked& asked, const Result<ChunkBytes>& answer) {
    for (ChunkIndex chunk = asked.request.chunks.begin; chunk < asked.request.chunks.end; ++chunk) {
      asked.on_chunk(chunk, answer);
    }
  }

 private:
  const TestLayer layer_;
  const std::string_view name_;
  mutable std::mutex mutex_;
  bool hold_ = false;                   // guarded by mutex_
  Answerer answerer_;                   // guarded by mutex_
  std::vector<Asked> held_;             // guarded by mutex_
  std::vector<ChunkRequest> requests_;  // guarded by mutex_
};

}  // namespace banyan::fetch::testing
