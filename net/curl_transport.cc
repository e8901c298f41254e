#include "net/curl_transport.h"

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include <curl/curl.h>
#include <fmt/format.h>

#include "net/url.h"

namespace banyan::net {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxHeadBytes = 64 * 1024;  // all header lines of a transfer, 1xx answers and trailers included
constexpr long kReceiveBufferBytes = 512 * 1024;
constexpr int kIdlePollMs = 3600 * 1000;

struct EasyCleanup {
  void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
struct ListCleanup {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

// One request in flight. The curl callbacks get a pointer to it.
struct Transfer {
  CurlTransport::TransferId id = 0;
  TransferRequest request;
  std::shared_ptr<TransferHandler> handler;
  std::unique_ptr<CURL, EasyCleanup> easy;
  std::unique_ptr<curl_slist, ListCleanup> header_lines;
  char error_text[CURL_ERROR_SIZE] = {};

  int status = 0;
  HeaderList headers;
  size_t head_bytes = 0;
  bool head_complete = false;

  uint64_t upload_offset = 0;
  std::string failure;  // of our own callbacks
  bool request_sent = false;
  bool paused = false;
  bool stopped = false;
  bool cancelled = false;
  Clock::time_point last_activity = Clock::now();
};

std::string_view TrimLine(std::string_view line) {
  while (!line.empty() && static_cast<unsigned char>(line.back()) <= ' ') line.remove_suffix(1);
  while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
  return line;
}

size_t OnHeaderLine(char* data, size_t, size_t size, void* pointer) {
  auto& transfer = *static_cast<Transfer*>(pointer);
  transfer.last_activity = Clock::now();
  transfer.head_bytes += size;
  if (transfer.head_bytes > kMaxHeadBytes) {
    transfer.failure = fmt::format("the answer's header is larger than {} bytes", kMaxHeadBytes);
    return 0;
  }
  if (transfer.head_complete) return size;  // a trailer
  const std::string_view line = TrimLine(std::string_view(data, size));
  if (line.starts_with("HTTP/")) {
    transfer.headers = {};
    return size;
  }
  if (line.empty()) {
    long status = 0;
    curl_easy_getinfo(transfer.easy.get(), CURLINFO_RESPONSE_CODE, &status);
    if (status < 200) return size;  // 100, 102, 103: the real answer follows
    transfer.status = static_cast<int>(status);
    transfer.head_complete = true;
    transfer.handler->OnHead(transfer.status, transfer.headers);
    return size;
  }
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return size;
  std::string name(line.substr(0, colon));
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  transfer.headers.Add(std::move(name), std::string(TrimLine(line.substr(colon + 1))));
  return size;
}

size_t OnBody(char* data, size_t, size_t size, void* pointer) {
  auto& transfer = *static_cast<Transfer*>(pointer);
  transfer.last_activity = Clock::now();
  switch (transfer.handler->OnData(std::as_bytes(std::span(data, size)))) {
    case Take::kTaken:
      return size;
    case Take::kPause:
      transfer.paused = true;
      return CURL_WRITEFUNC_PAUSE;
    case Take::kStop:
      break;
  }
  transfer.stopped = true;
  return CURL_WRITEFUNC_ERROR;
}

size_t OnReadBody(char* buffer, size_t, size_t capacity, void* pointer) {
  auto& transfer = *static_cast<Transfer*>(pointer);
  transfer.last_activity = Clock::now();
  const uint64_t rest = transfer.request.body->size_bytes - transfer.upload_offset;
  if (rest == 0) return 0;
  const auto span = std::as_writable_bytes(std::span(buffer, std::min<uint64_t>(rest, capacity)));
  const Result<size_t> count = transfer.request.body->read_at(transfer.upload_offset, span);
  if (!count || *count == 0) {
    transfer.failure = count ? "the data to upload ends early" : count.error().message;
    return CURL_READFUNC_ABORT;
  }
  transfer.upload_offset += *count;
  return *count;
}

int OnSeekBody(void* pointer, curl_off_t offset, int origin) {
  if (origin != SEEK_SET || offset < 0) return CURL_SEEKFUNC_CANTSEEK;
  static_cast<Transfer*>(pointer)->upload_offset = static_cast<uint64_t>(offset);
  return CURL_SEEKFUNC_OK;
}

int OnConnected(void* pointer, char*, char*, int, int) {
  auto& transfer = *static_cast<Transfer*>(pointer);
  transfer.request_sent = true;
  transfer.last_activity = Clock::now();
  return CURL_PREREQFUNC_OK;
}

TransferEnd EndOf(CURLcode code) {
  switch (code) {
    case CURLE_OK:
      return TransferEnd::kComplete;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:  // only the connection has a timeout of curl's
      return TransferEnd::kConnect;
    case CURLE_SSL_CONNECT_ERROR:
      return TransferEnd::kTlsHandshake;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_ISSUER_ERROR:
      return TransferEnd::kCertificate;
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
      return TransferEnd::kCut;
    default:
      return TransferEnd::kOther;
  }
}

TransferResult ResultOf(const Transfer& transfer, CURLcode code) {
  if (transfer.stopped) return {TransferEnd::kComplete, {}};
  if (!transfer.failure.empty()) return {TransferEnd::kOther, transfer.failure};
  const TransferEnd end = EndOf(code);
  const bool detail =
      end == TransferEnd::kConnect || end == TransferEnd::kTlsHandshake || end == TransferEnd::kCertificate;
  if (detail && transfer.error_text[0] != '\0') return {end, transfer.error_text};
  return {end, end == TransferEnd::kComplete ? std::string() : curl_easy_strerror(code)};
}

void SetMethodAndBody(Transfer& transfer) {
  CURL* easy = transfer.easy.get();
  const TransferRequest& request = transfer.request;
  if (request.method == "GET") {
    curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
    return;
  }
  if (request.method == "HEAD") {
    curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    return;
  }
  if (request.body != nullptr && request.body->size_bytes > 0) {
    curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request.body->size_bytes));
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, &OnReadBody);
    curl_easy_setopt(easy, CURLOPT_READDATA, &transfer);
    curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, &OnSeekBody);
    curl_easy_setopt(easy, CURLOPT_SEEKDATA, &transfer);
    curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, 256L * 1024);
  } else {
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, "");
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, 0L);
  }
  curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request.method.c_str());
}

void SetHeaders(Transfer& transfer) {
  curl_slist* list = nullptr;
  bool has_content_type = false;
  for (const std::string& line : transfer.request.headers) {
    has_content_type = has_content_type || line.starts_with("Content-Type:");
    list = curl_slist_append(list, line.c_str());
  }
  list = curl_slist_append(list, "Expect:");
  if (!has_content_type) list = curl_slist_append(list, "Content-Type:");  // else curl's own for an empty POST
  transfer.header_lines.reset(list);
  curl_easy_setopt(transfer.easy.get(), CURLOPT_HTTPHEADER, list);
}

void Configure(Transfer& transfer, const CurlTransport::Options& options) {
  CURL* easy = transfer.easy.get();
  curl_easy_setopt(easy, CURLOPT_URL, transfer.request.url.c_str());
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  curl_easy_setopt(easy, CURLOPT_USERAGENT, "banyan/0.1");
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(easy, CURLOPT_HTTP_CONTENT_DECODING, 0L);
  curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, kReceiveBufferBytes);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options.connect_timeout.count()));
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer.error_text);
  curl_easy_setopt(easy, CURLOPT_PRIVATE, &transfer);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, &OnHeaderLine);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, &transfer);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &OnBody);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, &OnConnected);
  curl_easy_setopt(easy, CURLOPT_PREREQDATA, &transfer);
  if (!options.ca_file.empty()) {
    curl_easy_setopt(easy, CURLOPT_CAINFO, options.ca_file.c_str());
    curl_easy_setopt(easy, CURLOPT_CAPATH, nullptr);
  }
  if (const Result<Url> url = Url::Parse(transfer.request.url); url && IsLoopbackHost(url->host())) {
    curl_easy_setopt(easy, CURLOPT_PROXY, "");  // $http_proxy cannot mean this machine
  }
  SetMethodAndBody(transfer);
  SetHeaders(transfer);
}

}  // namespace

struct CurlTransport::Loop {
  Options options;
  CURLM* multi = nullptr;
  std::thread thread;

  std::mutex mutex;
  std::deque<std::function<void()>> posted;  // guarded by mutex
  bool stop_requested = false;               // guarded by mutex
  bool ended = false;                        // guarded by mutex
  std::recursive_mutex late_tasks;           // stands in for the thread when that has ended; tasks post tasks

  // The loop thread's own.
  bool stopping = false;
  TransferId next_id = 1;
  std::map<TransferId, std::unique_ptr<Transfer>> transfers;

  ~Loop() {
    if (multi != nullptr) curl_multi_cleanup(multi);
  }

  void Run();
  bool RunPosted();
  void Finish(TransferId id, const TransferResult& result);
  void FinishEnded();
  void FinishCancelledAndStalled();
  int PollTimeoutMs() const;
};

// Returns false when it is time to end.
bool CurlTransport::Loop::RunPosted() {
  std::deque<std::function<void()>> tasks;
  {
    const std::lock_guard lock(mutex);
    tasks.swap(posted);
    stopping = stop_requested;
    ended = stopping && tasks.empty() && transfers.empty();
    if (ended) return false;
  }
  for (const auto& task : tasks) task();
  return true;
}

void CurlTransport::Loop::Finish(TransferId id, const TransferResult& result) {
  const auto found = transfers.find(id);
  if (found == transfers.end()) return;
  const std::unique_ptr<Transfer> transfer = std::move(found->second);
  transfers.erase(found);
  curl_multi_remove_handle(multi, transfer->easy.get());
  transfer->handler->OnDone(result);
}

void CurlTransport::Loop::FinishEnded() {
  int left = 0;
  while (CURLMsg* message = curl_multi_info_read(multi, &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    const CURLcode code = message->data.result;
    Transfer* transfer = nullptr;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
    Finish(transfer->id, ResultOf(*transfer, code));
  }
}

void CurlTransport::Loop::FinishCancelledAndStalled() {
  const Clock::time_point now = Clock::now();
  std::vector<std::pair<TransferId, TransferResult>> finished;
  for (const auto& [id, transfer] : transfers) {
    if (transfer->cancelled || stopping) {
      finished.emplace_back(id, TransferResult{TransferEnd::kCancelled, "cancelled"});
    } else if (transfer->request_sent && !transfer->paused &&
               now - transfer->last_activity > transfer->request.stall_timeout) {
      finished.emplace_back(
          id, TransferResult{TransferEnd::kStalled,
                             fmt::format("no byte moved for {} ms", transfer->request.stall_timeout.count())});
    }
  }
  for (const auto& [id, result] : finished) Finish(id, result);
}

int CurlTransport::Loop::PollTimeoutMs() const {
  int timeout = kIdlePollMs;
  for (const auto& [id, transfer] : transfers) {
    const int64_t quarter = transfer->request.stall_timeout.count() / 4;
    timeout = std::min(timeout, static_cast<int>(std::clamp<int64_t>(quarter, 10, 500)));
  }
  return timeout;
}

void CurlTransport::Loop::Run() {
  while (RunPosted()) {
    int running = 0;
    curl_multi_perform(multi, &running);
    FinishEnded();
    FinishCancelledAndStalled();
    bool idle;
    {
      const std::lock_guard lock(mutex);
      idle = posted.empty() && !stop_requested;
    }
    if (idle) curl_multi_poll(multi, nullptr, 0, PollTimeoutMs(), nullptr);
  }
}

CurlTransport::CurlTransport(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}

Result<std::unique_ptr<CurlTransport>> CurlTransport::Create(const Options& options) {
  static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
  auto loop = std::make_unique<Loop>();
  loop->options = options;
  loop->multi = initialised == CURLE_OK ? curl_multi_init() : nullptr;
  if (loop->multi == nullptr) return Fail(Code::kInternal, "libcurl cannot be initialised");
  curl_multi_setopt(loop->multi, CURLMOPT_MAXCONNECTS, static_cast<long>(options.kept_connections));
  curl_multi_setopt(loop->multi, CURLMOPT_PIPELINING, static_cast<long>(CURLPIPE_NOTHING));
  Loop* const raw = loop.get();
  raw->thread = std::thread([raw] { raw->Run(); });
  return std::unique_ptr<CurlTransport>(new CurlTransport(std::move(loop)));
}

CurlTransport::~CurlTransport() { Shutdown(); }

void CurlTransport::Shutdown() {
  if (!loop_->thread.joinable()) return;
  {
    const std::lock_guard lock(loop_->mutex);
    loop_->stop_requested = true;
  }
  curl_multi_wakeup(loop_->multi);
  loop_->thread.join();
}

void CurlTransport::Post(std::function<void()> task) {
  std::unique_lock lock(loop_->mutex);
  if (loop_->ended) {
    lock.unlock();
    const std::lock_guard turn(loop_->late_tasks);
    return task();
  }
  loop_->posted.push_back(std::move(task));
  lock.unlock();
  curl_multi_wakeup(loop_->multi);
}

CurlTransport::TransferId CurlTransport::Start(TransferRequest request, std::shared_ptr<TransferHandler> handler) {
  auto transfer = std::make_unique<Transfer>();
  transfer->id = loop_->next_id++;
  transfer->request = std::move(request);
  transfer->handler = std::move(handler);
  transfer->easy.reset(curl_easy_init());
  const TransferId id = transfer->id;
  Configure(*transfer, loop_->options);
  curl_multi_add_handle(loop_->multi, transfer->easy.get());
  loop_->transfers.emplace(id, std::move(transfer));
  return id;
}

void CurlTransport::Cancel(TransferId id) {
  if (const auto found = loop_->transfers.find(id); found != loop_->transfers.end()) {
    found->second->cancelled = true;
    Post([] {});  // so that the loop looks before it sleeps
  }
}

void CurlTransport::Resume(TransferId id) {
  const auto found = loop_->transfers.find(id);
  if (found == loop_->transfers.end() || !found->second->paused) return;
  found->second->paused = false;
  found->second->last_activity = Clock::now();
  curl_easy_pause(found->second->easy.get(), CURLPAUSE_CONT);
}

bool CurlTransport::stopping() const { return loop_->stopping; }

}  // namespace banyan::net
