#include "lazyfs/testing/fake_layer.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "common/file_io.h"

namespace banyan::lazyfs::testing {

Result<std::shared_ptr<FakeLayer>> FakeLayer::OfFile(const std::string& path, Options options) {
  BANYAN_ASSIGN(UniqueFd file, OpenFile(path, O_RDONLY));
  struct stat status {};
  if (fstat(file.get(), &status) != 0) return FailErrno(path, errno);
  return std::shared_ptr<FakeLayer>(new FakeLayer(std::move(file), static_cast<uint64_t>(status.st_size), options));
}

FakeLayer::FakeLayer(UniqueFd file, uint64_t size_bytes, Options options)
    : file_(std::move(file)), size_bytes_(size_bytes), options_(options), hanging_(options.hang) {
  if (options_.delay.count() > 0 || options_.hang) thread_ = std::thread([this] { Run(); });
}

FakeLayer::~FakeLayer() {
  CancelAll();
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

fetch::ReadId FakeLayer::Read(ByteRange range, fetch::OnRead done) {
  std::unique_lock lock(mutex_);
  if (cancelled_) {
    lock.unlock();
    done(Fail(Code::kCancelled, "cancelled"));
    return 0;
  }
  if (!thread_.joinable()) {
    lock.unlock();
    Answer(range, done);
    return 0;
  }
  pending_.push_back({std::chrono::steady_clock::now() + options_.delay, range, std::move(done)});
  changed_.notify_all();
  return 1;
}

void FakeLayer::CancelAll() {
  std::vector<Pending> cancelled;
  {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    cancelled.swap(pending_);
  }
  for (const Pending& one : cancelled) one.done(Fail(Code::kCancelled, "cancelled"));
}

void FakeLayer::Release() {
  std::lock_guard lock(mutex_);
  hanging_ = false;
  changed_.notify_all();
}

size_t FakeLayer::outstanding() const {
  std::lock_guard lock(mutex_);
  return pending_.size();
}

void FakeLayer::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (hanging_ || pending_.empty()) {
      changed_.wait(lock);
      continue;
    }
    const auto due = pending_.front().due;
    if (std::chrono::steady_clock::now() < due) {
      changed_.wait_until(lock, due);
      continue;
    }
    const Pending one = std::move(pending_.front());
    pending_.erase(pending_.begin());
    lock.unlock();
    Answer(one.range, one.done);
    lock.lock();
  }
}

void FakeLayer::Answer(const ByteRange& range, const fetch::OnRead& done) {
  fetch::ReadView view;
  view.offset = range.begin;
  view.length = range.size();
  if (!options_.memory) {
    view.fd = file_.get();
    return done(std::move(view));
  }
  view.memory.resize(range.size());
  if (Status status = PreadFull(file_.get(), view.memory, range.begin, "fake layer"); !status) {
    return done(Fail(std::move(status).error()));
  }
  done(std::move(view));
}

}  // namespace banyan::lazyfs::testing
