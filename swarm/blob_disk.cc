#include "swarm/blob_disk.h"

#include <cstring>
#include <exception>
#include <utility>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#include <boost/asio/post.hpp>
#include <libtorrent/file_storage.hpp>
#include <libtorrent/operations.hpp>
#include <libtorrent/peer_request.hpp>
#pragma GCC diagnostic pop

#include "common/log.h"

namespace banyan::swarm {
namespace {

namespace lt = libtorrent;
using image_format::InfoHash;

InfoHash FromLibtorrent(const lt::sha1_hash& hash) {
  InfoHash result;
  std::memcpy(result.bytes.data(), hash.data(), InfoHash::kBytes);
  return result;
}

lt::storage_error ErrorOf(const Error& error, lt::operation_t operation) {
  return {lt::error_code(ErrnoOf(error), boost::system::generic_category()), lt::file_index_t{0}, operation};
}

lt::storage_error NotSupported() {
  return {lt::error_code(boost::system::errc::operation_not_supported, boost::system::generic_category()),
          lt::operation_t::unknown};
}

uint64_t OffsetOf(const lt::peer_request& request) {
  return static_cast<uint64_t>(static_cast<int>(request.piece)) * image_format::kPieceBytes +
         static_cast<uint64_t>(request.start);
}

// What the stage threw (out of memory) as an error, so that libtorrent gets its answer all the same.
template <typename Call>
auto Caught(Call call) -> decltype(call()) {
  try {
    return call();
  } catch (const std::exception& error) {
    spdlog::error("swarm: a disk job threw: {}", error.what());
    return Fail(Code::kInternal, error.what());
  }
}

Error NoStage() { return {Code::kNotFound, "the torrent's stage is gone"}; }

}  // namespace

void StageTable::Put(std::shared_ptr<BlobStage> stage) {
  const MutexLock lock(mutex_);
  stages_[stage->torrent().info_hash] = std::move(stage);
}

void StageTable::Erase(const InfoHash& info_hash) {
  const MutexLock lock(mutex_);
  stages_.erase(info_hash);
}

std::shared_ptr<BlobStage> StageTable::Find(const InfoHash& info_hash) const {
  const MutexLock lock(mutex_);
  const auto found = stages_.find(info_hash);
  return found == stages_.end() ? nullptr : found->second;
}

BlobDisk::BlobDisk(lt::io_context& network, std::shared_ptr<const StageTable> table)
    : network_(network), table_(std::move(table)), answers_due_(network.get_executor()), thread_([this] { Work(); }) {}

BlobDisk::~BlobDisk() { abort(true); }

lt::storage_holder BlobDisk::new_torrent(const lt::storage_params& params, const std::shared_ptr<void>&) {
  auto stage = table_->Find(FromLibtorrent(params.info_hash));
  lt::storage_index_t index(static_cast<uint32_t>(storages_.size()));
  if (free_.empty()) {
    storages_.push_back(std::move(stage));
  } else {
    index = free_.back();
    free_.pop_back();
    storages_[static_cast<uint32_t>(index)] = std::move(stage);
  }
  return {index, *this};
}

void BlobDisk::remove_torrent(lt::storage_index_t storage) {
  storages_[static_cast<uint32_t>(storage)].reset();
  free_.push_back(storage);
}

std::shared_ptr<BlobStage> BlobDisk::StageOf(lt::storage_index_t storage) const {
  const auto index = static_cast<uint32_t>(storage);
  return index < storages_.size() ? storages_[index] : nullptr;
}

void BlobDisk::async_read(lt::storage_index_t storage, const lt::peer_request& request,
                          std::function<void(lt::disk_buffer_holder, const lt::storage_error&)> handler,
                          lt::disk_job_flags_t) {
  Post([this, stage = StageOf(storage), request, handler = std::move(handler)] {
    // Copyable, as answers are; it owns the buffer until libtorrent does.
    auto buffer = std::make_shared<std::unique_ptr<char[]>>(new char[static_cast<size_t>(request.length)]);
    const std::span<char> bytes(buffer->get(), static_cast<size_t>(request.length));
    const Status read = Caught([&] {
      return stage ? stage->Read(OffsetOf(request), std::as_writable_bytes(bytes)) : Status(Fail(NoStage()));
    });
    lt::storage_error error;
    if (!read) error = ErrorOf(read.error(), lt::operation_t::file_read);
    Reply([this, buffer, request, handler, error] {
      if (error) return handler(lt::disk_buffer_holder(), error);
      handler(lt::disk_buffer_holder(*this, buffer->release(), request.length), error);
    });
  });
}

bool BlobDisk::async_write(lt::storage_index_t storage, const lt::peer_request& request, const char* data,
                           std::shared_ptr<lt::disk_observer> observer,
                           std::function<void(const lt::storage_error&)> handler, lt::disk_job_flags_t) {
  const auto* begin = reinterpret_cast<const std::byte*>(data);
  auto bytes = std::make_shared<const std::vector<std::byte>>(begin, begin + request.length);
  bool full = false;
  {
    const MutexLock lock(mutex_);
    queued_bytes_ += bytes->size();
    full = queued_bytes_ > kMaxQueuedBytes;
    if (full && observer) waiting_.push_back(observer);
  }
  Post([this, stage = StageOf(storage), request, bytes, handler = std::move(handler)] {
    const Status written =
        Caught([&] { return stage ? stage->Write(OffsetOf(request), *bytes) : Status(Fail(NoStage())); });
    lt::storage_error error;
    if (!written) error = ErrorOf(written.error(), lt::operation_t::file_write);
    NoteWritten(bytes->size());
    Reply([handler, error] { handler(error); });
  });
  return full;
}

void BlobDisk::NoteWritten(size_t bytes) {
  std::vector<std::weak_ptr<lt::disk_observer>> ready;
  {
    const MutexLock lock(mutex_);
    queued_bytes_ -= bytes;
    if (queued_bytes_ <= kMaxQueuedBytes / 2) ready.swap(waiting_);
  }
  if (ready.empty()) return;
  Reply([ready] {
    for (const auto& waiting : ready) {
      if (const auto observer = waiting.lock()) observer->on_disk();
    }
  });
}

void BlobDisk::async_hash(
    lt::storage_index_t storage, lt::piece_index_t piece, lt::span<lt::sha256_hash>, lt::disk_job_flags_t,
    std::function<void(lt::piece_index_t, const lt::sha1_hash&, const lt::storage_error&)> handler) {
  Post([this, stage = StageOf(storage), piece, handler = std::move(handler)] {
    const auto hash = Caught([&]() -> Result<InfoHash> {
      if (!stage) return Fail(NoStage());
      return stage->HashPiece(static_cast<uint32_t>(static_cast<int>(piece)));
    });
    lt::storage_error error;
    lt::sha1_hash answer;
    if (hash) {
      answer = lt::sha1_hash(reinterpret_cast<const char*>(hash->bytes.data()));
    } else {
      spdlog::warn("swarm: {}", hash.error().message);
      error = ErrorOf(hash.error(), lt::operation_t::file_write);
    }
    Reply([handler, piece, answer, error] { handler(piece, answer, error); });
  });
}

// Only version 1 torrents are added.
void BlobDisk::async_hash2(
    lt::storage_index_t, lt::piece_index_t piece, int, lt::disk_job_flags_t,
    std::function<void(lt::piece_index_t, const lt::sha256_hash&, const lt::storage_error&)> handler) {
  Reply([handler = std::move(handler), piece] { handler(piece, lt::sha256_hash(), NotSupported()); });
}

void BlobDisk::async_move_storage(
    lt::storage_index_t, std::string path, lt::move_flags_t,
    std::function<void(lt::status_t, const std::string&, const lt::storage_error&)> handler) {
  Reply([handler = std::move(handler), path = std::move(path)] {
    handler(lt::status_t::fatal_disk_error, path, NotSupported());
  });
}

void BlobDisk::async_release_files(lt::storage_index_t, std::function<void()> handler) {
  if (handler) Post([this, handler = std::move(handler)] { Reply(handler); });
}

// What is here was checked when it came: nothing is hashed again.
void BlobDisk::async_check_files(lt::storage_index_t storage, const lt::add_torrent_params*,
                                 lt::aux::vector<std::string, lt::file_index_t>,
                                 std::function<void(lt::status_t, const lt::storage_error&)> handler) {
  const bool known = StageOf(storage) != nullptr;
  Reply([handler = std::move(handler), known] {
    if (known) return handler(lt::status_t::no_error, lt::storage_error());
    handler(lt::status_t::fatal_disk_error, ErrorOf(NoStage(), lt::operation_t::check_resume));
  });
}

void BlobDisk::async_stop_torrent(lt::storage_index_t, std::function<void()> handler) {
  if (handler) Post([this, handler = std::move(handler)] { Reply(handler); });
}

void BlobDisk::async_rename_file(
    lt::storage_index_t, lt::file_index_t index, std::string name,
    std::function<void(const std::string&, lt::file_index_t, const lt::storage_error&)> handler) {
  Reply([handler = std::move(handler), index, name = std::move(name)] { handler(name, index, NotSupported()); });
}

// Nothing is deleted: the store's blobs are not libtorrent's.
void BlobDisk::async_delete_files(lt::storage_index_t, lt::remove_flags_t,
                                  std::function<void(const lt::storage_error&)> handler) {
  Reply([handler = std::move(handler)] { handler(lt::storage_error()); });
}

void BlobDisk::async_set_file_priority(
    lt::storage_index_t, lt::aux::vector<lt::download_priority_t, lt::file_index_t> priorities,
    std::function<void(const lt::storage_error&, lt::aux::vector<lt::download_priority_t, lt::file_index_t>)> handler) {
  Reply(
      [handler = std::move(handler), priorities = std::move(priorities)] { handler(lt::storage_error(), priorities); });
}

// Answered by the job thread, so behind the piece's writes.
void BlobDisk::async_clear_piece(lt::storage_index_t, lt::piece_index_t piece,
                                 std::function<void(lt::piece_index_t)> handler) {
  Post([this, piece, handler = std::move(handler)] { Reply([handler, piece] { handler(piece); }); });
}

void BlobDisk::update_stats_counters(lt::counters&) const {}

std::vector<lt::open_file_state> BlobDisk::get_status(lt::storage_index_t) const { return {}; }

void BlobDisk::abort(bool wait) {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (wait && thread_.joinable()) thread_.join();
}

void BlobDisk::Post(Job job) {
  {
    const MutexLock lock(mutex_);
    if (!stopping_) {
      jobs_.push_back(std::move(job));
      wake_.notify_one();
      return;
    }
  }
  job();
}

void BlobDisk::Reply(Job answer) { boost::asio::post(network_, std::move(answer)); }

void BlobDisk::Work() {
  while (true) {
    Job job;
    {
      MutexLock lock(mutex_);
      while (jobs_.empty() && !stopping_) lock.Wait(wake_);
      if (jobs_.empty()) break;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    try {
      job();
    } catch (const std::exception& error) {
      spdlog::error("swarm: a disk job threw: {}", error.what());
    }
  }
  answers_due_.reset();
}

}  // namespace banyan::swarm
