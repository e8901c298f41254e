// libtorrent's disk: each torrent's file is a BlobStage, nothing else is on it.
//
// libtorrent calls on its network thread and must not be kept there, so each operation is a job of one thread of ours,
// in order; answers go back by the session's io_context. What is written waits in memory until the thread has it:
// beyond kMaxQueuedBytes peers are told to stop. Errors of a stage become errors of the torrent, which stop it alone.
//
// The only header that includes libtorrent.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wpedantic"
#include <boost/asio/executor_work_guard.hpp>
#include <libtorrent/add_torrent_params.hpp>
#include <libtorrent/disk_buffer_holder.hpp>
#include <libtorrent/disk_interface.hpp>
#include <libtorrent/disk_observer.hpp>
#include <libtorrent/error_code.hpp>
#include <libtorrent/io_context.hpp>
#include <libtorrent/storage_defs.hpp>
#pragma GCC diagnostic pop

#include "common/mutex.h"
#include "swarm/blob_stage.h"

namespace banyan::swarm {

// The stages of torrents that may be added. Internally synchronised. Outlives the disk.
class StageTable {
 public:
  void Put(std::shared_ptr<BlobStage> stage);
  void Erase(const image_format::InfoHash& info_hash);
  std::shared_ptr<BlobStage> Find(const image_format::InfoHash& info_hash) const;

 private:
  mutable Mutex mutex_;
  std::map<image_format::InfoHash, std::shared_ptr<BlobStage>> stages_ BANYAN_GUARDED_BY(mutex_);
};

// Made by the session, called on its network thread.
class BlobDisk final : public libtorrent::disk_interface, private libtorrent::buffer_allocator_interface {
 public:
  static constexpr size_t kMaxQueuedBytes = 16 * kMiB;

  BlobDisk(libtorrent::io_context& network, std::shared_ptr<const StageTable> table);
  ~BlobDisk() override;

  libtorrent::storage_holder new_torrent(const libtorrent::storage_params& params,
                                         const std::shared_ptr<void>& torrent) override;
  void remove_torrent(libtorrent::storage_index_t storage) override;
  void async_read(libtorrent::storage_index_t storage, const libtorrent::peer_request& request,
                  std::function<void(libtorrent::disk_buffer_holder, const libtorrent::storage_error&)> handler,
                  libtorrent::disk_job_flags_t flags) override;
  bool async_write(libtorrent::storage_index_t storage, const libtorrent::peer_request& request, const char* data,
                   std::shared_ptr<libtorrent::disk_observer> observer,
                   std::function<void(const libtorrent::storage_error&)> handler,
                   libtorrent::disk_job_flags_t flags) override;
  void async_hash(
      libtorrent::storage_index_t storage, libtorrent::piece_index_t piece,
      libtorrent::span<libtorrent::sha256_hash> v2, libtorrent::disk_job_flags_t flags,
      std::function<void(libtorrent::piece_index_t, const libtorrent::sha1_hash&, const libtorrent::storage_error&)>
          handler) override;
  void async_hash2(
      libtorrent::storage_index_t storage, libtorrent::piece_index_t piece, int offset,
      libtorrent::disk_job_flags_t flags,
      std::function<void(libtorrent::piece_index_t, const libtorrent::sha256_hash&, const libtorrent::storage_error&)>
          handler) override;
  void async_move_storage(
      libtorrent::storage_index_t storage, std::string path, libtorrent::move_flags_t flags,
      std::function<void(libtorrent::status_t, const std::string&, const libtorrent::storage_error&)> handler) override;
  void async_release_files(libtorrent::storage_index_t storage, std::function<void()> handler) override;
  void async_check_files(libtorrent::storage_index_t storage, const libtorrent::add_torrent_params* resume_data,
                         libtorrent::aux::vector<std::string, libtorrent::file_index_t> links,
                         std::function<void(libtorrent::status_t, const libtorrent::storage_error&)> handler) override;
  void async_stop_torrent(libtorrent::storage_index_t storage, std::function<void()> handler) override;
  void async_rename_file(
      libtorrent::storage_index_t storage, libtorrent::file_index_t index, std::string name,
      std::function<void(const std::string&, libtorrent::file_index_t, const libtorrent::storage_error&)> handler)
      override;
  void async_delete_files(libtorrent::storage_index_t storage, libtorrent::remove_flags_t options,
                          std::function<void(const libtorrent::storage_error&)> handler) override;
  void async_set_file_priority(
      libtorrent::storage_index_t storage,
      libtorrent::aux::vector<libtorrent::download_priority_t, libtorrent::file_index_t> priorities,
      std::function<void(const libtorrent::storage_error&,
                         libtorrent::aux::vector<libtorrent::download_priority_t, libtorrent::file_index_t>)>
          handler) override;
  void async_clear_piece(libtorrent::storage_index_t storage, libtorrent::piece_index_t piece,
                         std::function<void(libtorrent::piece_index_t)> handler) override;
  void update_stats_counters(libtorrent::counters& counters) const override;
  std::vector<libtorrent::open_file_state> get_status(libtorrent::storage_index_t storage) const override;
  void abort(bool wait) override;
  void submit_jobs() override {}
  void settings_updated() override {}

 private:
  using Job = std::function<void()>;

  void free_disk_buffer(char* buffer) override { delete[] buffer; }
  std::shared_ptr<BlobStage> StageOf(libtorrent::storage_index_t storage) const;
  // On the job thread; after abort(), at once.
  void Post(Job job);
  // On the network thread, some time.
  void Reply(Job answer);
  void NoteWritten(size_t bytes);
  void Work();

  libtorrent::io_context& network_;
  const std::shared_ptr<const StageTable> table_;
  // Of the network thread.
  std::vector<std::shared_ptr<BlobStage>> storages_;
  std::vector<libtorrent::storage_index_t> free_;

  mutable Mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_ BANYAN_GUARDED_BY(mutex_);
  size_t queued_bytes_ BANYAN_GUARDED_BY(mutex_) = 0;
  std::vector<std::weak_ptr<libtorrent::disk_observer>> waiting_ BANYAN_GUARDED_BY(mutex_);
  bool stopping_ BANYAN_GUARDED_BY(mutex_) = false;
  // Of the thread: the network thread does not end before all jobs have been answered.
  boost::asio::executor_work_guard<libtorrent::io_context::executor_type> answers_due_;
  std::thread thread_;
};

}  // namespace banyan::swarm
