#include "net/range_fetcher.h"

#include <algorithm>

#include <fmt/format.h>

#include "net/range_header.h"

namespace banyan::net {

namespace {

// A registry that ignores Range sends the blob from its start; so much of it is read and thrown away, not more.
constexpr uint64_t kMaxSkipBytes = 16 * kMiB;

uint64_t ContentLength(const HeaderList& headers, uint64_t when_absent) {
  const std::string* text = headers.Find("content-length");
  return text != nullptr ? ParseDecimal(*text).value_or(when_absent) : when_absent;
}

}  // namespace

struct RangeFetcher::Job {
  uint64_t id = 0;
  Digest digest;
  ByteRange range;
  std::string priority;
  Repository::OnData on_data;
  Repository::OnDone on_done;

  uint64_t to_skip = 0;
  uint64_t delivered = 0;
  bool whole_blob = false;  // a 200: more follows than was asked for
  bool too_long = false;

  std::string What() const { return fmt::format("blob {} bytes {}-{}", digest.ToString(), range.begin, range.end); }
  Status OnHead(int http_status, const HeaderList& headers);
  Take OnBytes(std::span<const std::byte> data);
  Status Conclude(const Status& status, const std::string& name) const;
};

Status RangeFetcher::Job::OnHead(int http_status, const HeaderList& headers) {
  if (http_status == 206) {
    const std::string* header = headers.Find("content-range");
    if (header == nullptr) return Fail(Code::kDataLoss, "206 without Content-Range");
    BANYAN_ASSIGN(const ContentRange got, ParseContentRange(*header));
    if (got.range != range) {
      return Fail(Code::kDataLoss,
                  fmt::format("the registry sent bytes {}-{} instead", got.range.begin, got.range.end));
    }
    if (ContentLength(headers, range.size()) != range.size())
      return Fail(Code::kDataLoss, "Content-Length and Content-Range disagree");
    return {};
  }
  if (http_status != 200)
    return Fail(Code::kUnavailable, fmt::format("unexpected answer {} to a range request", http_status));
  const uint64_t length = ContentLength(headers, UINT64_MAX);
  if (length < range.end) {
    return Fail(Code::kOutOfRange, fmt::format("the registry's blob has only {} bytes", length));
  }
  if (range.begin > kMaxSkipBytes) return Fail(Code::kUnimplemented, "the registry ignores the Range header");
  to_skip = range.begin;
  whole_blob = true;
  return {};
}

Take RangeFetcher::Job::OnBytes(std::span<const std::byte> data) {
  const uint64_t skipped = std::min<uint64_t>(to_skip, data.size());
  to_skip -= skipped;
  data = data.subspan(skipped);
  const uint64_t wanted = std::min<uint64_t>(range.size() - delivered, data.size());
  too_long = wanted < data.size() && !whole_blob;
  if (too_long) return Take::kStop;
  if (wanted > 0) on_data(data.first(wanted));
  delivered += wanted;
  return whole_blob && delivered == range.size() ? Take::kStop : Take::kTaken;
}

Status RangeFetcher::Job::Conclude(const Status& status, const std::string& name) const {
  if (!status) return status;
  if (too_long) return Fail(Code::kDataLoss, fmt::format("{}: {}: the answer is longer than asked for", name, What()));
  if (delivered != range.size()) {
    return Fail(Code::kDataLoss, fmt::format("{}: {}: the answer ended after {} bytes", name, What(), delivered));
  }
  return {};
}

uint64_t RangeFetcher::Fetch(const Digest& digest, ByteRange range, std::string_view priority,
                             Repository::OnData on_data, Repository::OnDone on_done) {
  auto job = std::make_shared<Job>();
  job->id = next_id_++;
  job->digest = digest;
  job->range = range;
  job->priority = priority;
  job->on_data = std::move(on_data);
  job->on_done = std::move(on_done);
  const uint64_t id = job->id;
  session_.Post([this, job = std::move(job)] { Add(job); });
  return id;
}

void RangeFetcher::Cancel(uint64_t id) {
  session_.Post([this, id] {
    if (const auto active = active_.find(id); active != active_.end()) return session_.Cancel(active->second);
    const auto waiting = std::find_if(waiting_.begin(), waiting_.end(), [&](const auto& job) { return job->id == id; });
    if (waiting == waiting_.end()) return;
    const std::shared_ptr<Job> job = *waiting;
    waiting_.erase(waiting);
    job->on_done(Fail(Code::kCancelled, fmt::format("{}: {}: cancelled", session_.name(), job->What())));
  });
}

void RangeFetcher::Add(std::shared_ptr<Job> job) {
  if (job->range.empty()) {
    if (job->range.begin == job->range.end) return job->on_done({});
    return job->on_done(Fail(Code::kInvalidArgument, fmt::format("{}: {}: no range", session_.name(), job->What())));
  }
  waiting_.push_back(std::move(job));
  Pump();
}

void RangeFetcher::Pump() {
  while (!waiting_.empty() && active_.size() < max_active_) {
    const std::shared_ptr<Job> job = std::move(waiting_.front());
    waiting_.pop_front();
    Begin(job);
  }
}

void RangeFetcher::Begin(const std::shared_ptr<Job>& job) {
  RegistryRequest request;
  request.target = fmt::format("{}/blobs/{}", repository_path_, job->digest.ToString());
  request.headers.push_back("Range: " + FormatRange(job->range));
  if (!job->priority.empty()) request.headers.push_back("Priority: " + job->priority);
  request.what = job->What();
  request.blob = job->digest;
  RegistryHandlers handlers;
  handlers.on_head = [job](int status, const HeaderList& headers) { return job->OnHead(status, headers); };
  handlers.on_data = [job](std::span<const std::byte> data) { return job->OnBytes(data); };
  handlers.on_done = [this, job](const RegistryOutcome& outcome) {
    active_.erase(job->id);
    const Status status = job->Conclude(outcome.status, session_.name());
    Pump();
    job->on_done(status);
  };
  active_.emplace(job->id, 0);
  active_[job->id] = session_.Start(std::move(request), std::move(handlers));
}

}  // namespace banyan::net
