// The node's part in the swarms of its layers: libtorrent, fenced in.
//
// A layer that is added is downloaded from and uploaded to whoever the tracker names, until it is removed. What is in
// the store already is offered at once, without hashing it again; what comes into the store by other ways (the trees,
// other layers) is noticed within kTick and offered as soon as it makes a piece. Chunks that come by swarm are in the
// store as soon as they are checked (BlobStage), so readers and tree children see them like any other.
//
// Only the cluster's tracker is asked: DHT, local discovery, peer exchange, UPnP and NAT-PMP are off, and µTP too.
//
// libtorrent's failures stay here. Its network thread is ours, and goes on after an exception; a torrent that fails (a
// full disk, a chunk that was evicted) is taken out, counted, and put in again after a while; a session that cannot
// listen still calls others; one that cannot begin is an error of Start(). Nothing else of the agent waits for any of
// it.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "common/units.h"
#include "image-format/torrent.h"
#include "store/node_store.h"

namespace banyan::swarm {

enum class Encryption : uint8_t { kOff, kPrefer, kRequire };

struct SessionOptions {
  std::string listen;                      // "10.0.0.7:4642", "[::1]:0"; port 0: any
  std::string announce_url;                // of the tracker, with passkey and zone; empty: none (tests)
  std::string stage_directory;             // where blobs are staged, on the store's file system; made if it is missing
  uint64_t upload_bytes_per_second = 0;    // 0: no limit
  uint64_t download_bytes_per_second = 0;  // 0: no limit
  uint32_t max_connections = 200;
  uint32_t max_connections_per_blob = 50;
  uint32_t upload_slots = 8;
  Encryption encryption = Encryption::kOff;
  std::chrono::milliseconds retry_after{10'000};  // a torrent that failed; doubled up to 32 times
};

struct BlobProgress {
  Digest blob;
  image_format::InfoHash info_hash;
  uint64_t blob_bytes = 0;
  uint64_t have_bytes = 0;  // that can be given to peers
  bool complete = false;
  uint32_t peers = 0;
  uint64_t download_bytes_per_second = 0;
  uint64_t upload_bytes_per_second = 0;
  std::string trouble;  // why it is out for a while; else empty
};

struct SessionStats {
  uint64_t downloaded_bytes = 0;  // payload
  uint64_t uploaded_bytes = 0;    // payload
  uint64_t failed_bytes = 0;      // of pieces that did not pass their check
  uint64_t redundant_bytes = 0;   // that were here already
  uint64_t committed_bytes = 0;   // of chunks that came by swarm into the store
  uint64_t failures = 0;          // exceptions, torrents that failed, addresses that could not be listened on
  uint64_t connections = 0;       // now
  bool listening = false;
};

// What nobody that this node is connected to has: the chunks of each such piece, some of which may be here. Each piece
// is some agent's to bring, by a rule that all follow without asking each other (rendezvous hashing over peer ids).
struct Lack {
  std::vector<ChunkRange> ours;
  std::vector<ChunkRange> others;
  uint32_t swarm_nodes = 0;  // how many the tracker knows, this one included; 0: it has not answered
};

// Internally synchronised. Calls wait for libtorrent's network thread, but for no network.
class Session {
 public:
  static constexpr std::chrono::milliseconds kTick{250};

  static Result<std::unique_ptr<Session>> Start(SessionOptions options);
  // Tells the tracker, for a second at most.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Joins the swarm of the layer's blob; nothing if it has. kDataLoss, kInvalidArgument: the torrent is not the blob's.
  // The store must keep compressed forms of chunks that come by other ways, or they cannot be given.
  Status Add(std::shared_ptr<store::StoredLayer> layer, const image_format::Torrent& torrent);
  void Remove(const Digest& blob);
  bool Has(const Digest& blob) const;

  // Somebody waits for these chunks, or for what follows them: their pieces come first from now on.
  void Raise(const Digest& blob, ChunkRange chunks);

  // The pieces that neither this node nor one of its peers has: they can come only from outside of the swarm. None
  // while the blob is out, or is not known. In a swarm of which this node sees a part only, a piece may be several
  // nodes' to bring, three on average.
  Lack Lacking(const Digest& blob) const;

  // Tells the session of a peer, as the tracker would.
  void AddPeer(const Digest& blob, const std::string& address, uint16_t port);

  std::vector<BlobProgress> Progress() const;
  SessionStats stats() const;
  // 0 while it listens nowhere.
  uint16_t port() const;
  // This node's in all swarms; 20 bytes.
  const std::string& peer_id() const;

 private:
  friend struct SessionTestAccess;
  // Runs it on libtorrent's network thread, as libtorrent's own work is.
  void OnNetwork(std::function<void()> job);

  struct Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace banyan::swarm
