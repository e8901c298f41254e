#include "sim/links.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <utility>

#include "sim/random.h"

namespace banyan::sim {

namespace {

constexpr Nanos kWeightLasts = 100 * kMillisecond;

uint64_t EdgeKey(PeerId server, PeerId client) { return uint64_t{server} << 32 | client; }

Nanos NanosFor(uint64_t bytes, double nanos_a_byte) {
  return static_cast<Nanos>(std::llround(static_cast<double>(bytes) * nanos_a_byte));
}

}  // namespace

Links::Links(const Options& options, EventQueue& events, const image_format::ChunkTable& table,
             TransferObserver& observer)
    : options_(options), events_(events), table_(table), observer_(observer) {}

PeerId Links::AddPeer(const Rates& rates, uint32_t zone, UplinkPolicy policy) {
  const auto id = static_cast<PeerId>(peers_.size());
  peers_.emplace_back();
  peers_.back().zone = zone;
  peers_.back().policy = policy;
  names_.push_back(std::to_string(id));
  SetRates(id, rates);
  if (policy == UplinkPolicy::kAgent) peers_.back().uplink = std::make_unique<fetch::Uplink>(options_.uplink);
  return id;
}

void Links::SetRates(PeerId peer, const Rates& rates) {
  peers_[peer].rates = rates;
  peers_[peer].up_nanos = 1e9 / rates.up;
  peers_[peer].down_nanos = 1e9 / rates.down;
}

Nanos Links::LatencyBetween(PeerId a, PeerId b) const {
  return options_.latency + (peers_[a].zone == peers_[b].zone ? 0 : options_.zone_latency);
}

// Two connections from a server to a client: demand, and the rest.
uint32_t Links::ConnectionOf(const Answer& answer) {
  const bool demand = answer.priority == fetch::Priority::kDemand;
  const bool by_class = peers_[answer.server].policy == UplinkPolicy::kCoarse;
  const auto level = static_cast<uint8_t>(by_class ? static_cast<uint8_t>(answer.priority) : (demand ? 0 : 1));
  const uint64_t key = uint64_t{answer.server} << 2 | level;
  auto& known = peers_[answer.client].connections;
  for (const auto& [other, connection] : known) {
    if (other == key) return connection;
  }
  const auto id = static_cast<uint32_t>(connections_.size());
  Connection& connection = connections_.emplace_back();
  connection.server = answer.server;
  connection.client = answer.client;
  connection.level = by_class ? level : 0;
  known.emplace_back(key, id);
  return id;
}

void Links::Weigh(Connection& connection) const {
  const Nanos draw = events_.now() / kWeightLasts;
  if (options_.unfairness == 0 || connection.weighed == draw) return;
  connection.weighed = draw;
  const uint64_t edge = EdgeKey(connection.server, connection.client) + (uint64_t{connection.level} << 63);
  Random random(Mix(options_.seed ^ edge) + static_cast<uint64_t>(draw));
  connection.weight = std::exp(options_.unfairness * random.Normal());
}

TransferId Links::Send(const Answer& answer) {
  TransferId id = 0;
  if (free_.empty()) {
    id = static_cast<TransferId>(transfers_.size());
    transfers_.emplace_back();
  } else {
    id = free_.back();
    free_.pop_back();
    transfers_[id] = {};
  }
  Transfer& transfer = transfers_[id];
  transfer.answer = answer;
  transfer.connection = ConnectionOf(answer);
  transfer.sending = transfer.arriving = answer.chunks.begin;
  const uint64_t bytes =
      table_[answer.chunks.end - 1].blob_range().end - table_[answer.chunks.begin].blob_range().begin;
  transfer.live = true;
  ++live_;
  Peer& server = peers_[answer.server];
  if (server.uplink == nullptr) {
    Grant(id, bytes);
  } else {
    transfer.ungranted = bytes;
    transfer.ticket = server.uplink->Add(names_[answer.client], std::to_string(answer.function), answer.priority, bytes,
                                         false, Time());
    server.tickets.emplace(transfer.ticket, id);
    TakeGrants(answer.server);
  }
  SendNext(answer.server);
  return id;
}

void Links::TakeGrants(PeerId id) {
  Peer& server = peers_[id];
  for (;;) {
    const fetch::Uplink::Turn turn = server.uplink->Next(Time());
    if (turn.grant) {
      const TransferId transfer = server.tickets.at(turn.grant->ticket);
      transfers_[transfer].ungranted -= turn.grant->bytes;
      server.granted.push_back(transfer);
      Grant(transfer, turn.grant->bytes);
      EndGrants(id);
      continue;
    }
    if (turn.ask_again == fetch::Clock::time_point::max()) return;
    const Nanos at = std::chrono::nanoseconds(turn.ask_again.time_since_epoch()).count();
    if (at < server.asks_at) {
      server.asks_at = at;
      events_.At(at, EventKind::kUplinkAsks, id);
    }
    return;
  }
}

void Links::OnUplinkAsks(PeerId id) {
  Peer& server = peers_[id];
  if (server.silent || server.asks_at > events_.now()) return;
  server.asks_at = kNever;
  TakeGrants(id);
  SendNext(id);
}

void Links::Grant(TransferId id, uint64_t bytes) {
  Transfer& transfer = transfers_[id];
  if (transfer.granted == 0) connections_[transfer.connection].queue.push_back(id);
  transfer.granted += bytes;
  peers_[transfer.answer.server].backlog += bytes;
  List(transfer.connection);
}

// A grant is done when the kernel has taken its bytes: it takes what the link will send within `backlog`.
void Links::EndGrants(PeerId id) {
  Peer& server = peers_[id];
  const auto room = static_cast<uint64_t>(static_cast<double>(options_.backlog) / server.up_nanos);
  std::erase_if(server.granted, [&](TransferId each) {
    Transfer& transfer = transfers_[each];
    if ((transfer.granted > 0 || server.sending == each) && server.backlog > room) return false;
    server.uplink->Done(transfer.ticket, Time());
    if (transfer.ungranted == 0) {
      server.uplink->Remove(transfer.ticket, Time());
      server.tickets.erase(transfer.ticket);
      transfer.ticket = 0;
    }
    return true;
  });
}

void Links::List(uint32_t id) {
  Connection& connection = connections_[id];
  if (connection.listed || connection.queue.empty() || connection.out >= options_.window_bytes) return;
  Peer& server = peers_[connection.server];
  // Who comes back has saved up nothing; the window alone is no absence.
  if (connection.out == 0) connection.served = std::max(connection.served, server.clock);
  connection.listed = true;
  const Ready ready{connection.level, connection.served, id};
  server.ready.insert(std::lower_bound(server.ready.begin(), server.ready.end(), ready, std::greater<>()), ready);
}

void Links::Unlist(uint32_t id) {
  Connection& connection = connections_[id];
  if (!connection.listed) return;
  connection.listed = false;
  std::vector<Ready>& ready = peers_[connection.server].ready;
  ready.erase(
      std::lower_bound(ready.begin(), ready.end(), Ready{connection.level, connection.served, id}, std::greater<>()));
}

void Links::SendNext(PeerId server_id) {
  Peer& server = peers_[server_id];
  if (server.sending != UINT32_MAX || server.silent || server.ready.empty()) return;
  const uint32_t connection_id = std::get<2>(server.ready.back());
  server.ready.pop_back();
  Connection& connection = connections_[connection_id];
  connection.listed = false;
  const TransferId id = connection.queue.front();
  Transfer& transfer = transfers_[id];
  const uint64_t left_of_chunk = table_[transfer.sending].compressed_bytes - transfer.sent_of_chunk;
  const uint64_t slice = options_.whole_chunks ? left_of_chunk : options_.slice_bytes;
  const uint64_t bytes = std::min({slice, transfer.granted, left_of_chunk});
  const bool ends_chunk = bytes == left_of_chunk;
  transfer.granted -= bytes;
  if (transfer.granted == 0) connection.queue.erase(connection.queue.begin());
  transfer.sent_of_chunk += bytes;
  if (ends_chunk) {
    ++transfer.sending;
    transfer.sent_of_chunk = 0;
  }
  ++transfer.slices_out;
  server.clock = connection.served;
  Weigh(connection);
  connection.served += static_cast<double>(bytes) / connection.weight;
  connection.out += bytes;
  server.sent += bytes;
  if (options_.count_edges) edges_[EdgeKey(server_id, connection.client)] += bytes;
  server.sending = id;
  server.slice = bytes;

  const Nanos now = events_.now();
  const uint64_t burst = options_.burst_bytes;
  server.up_free = std::max(now - NanosFor(burst, server.up_nanos), server.up_free) + NanosFor(bytes, server.up_nanos);
  const Nanos sent = std::max(now, server.up_free);
  const Nanos latency = LatencyBetween(server_id, connection.client);
  Peer& client = peers_[connection.client];
  const Nanos through = std::max(now + latency - NanosFor(burst, client.down_nanos), client.down_free) +
                        NanosFor(bytes, client.down_nanos);
  const Nanos arrives = std::max(sent + latency, through);
  client.down_free = burst == 0 ? arrives : through;
  events_.At(sent, EventKind::kSliceSent, server_id);
  events_.At(arrives, EventKind::kSliceArrives, id, bytes);
}

void Links::OnSliceSent(PeerId server_id) {
  Peer& server = peers_[server_id];
  const TransferId id = server.sending;
  server.sending = UINT32_MAX;
  server.backlog -= std::exchange(server.slice, 0);
  if (id != UINT32_MAX) EndSlice(server_id, id);
  SendNext(server_id);
}

void Links::EndSlice(PeerId server_id, TransferId id) {
  Transfer& transfer = transfers_[id];
  if (!transfer.live) return;
  if (peers_[server_id].uplink != nullptr) {
    EndGrants(server_id);
    TakeGrants(server_id);
  }
  List(transfer.connection);
}

void Links::OnSliceArrives(TransferId id, uint64_t bytes) {
  Transfer& transfer = transfers_[id];
  const uint32_t connection_id = transfer.connection;
  const PeerId server = transfer.answer.server;
  connections_[connection_id].out -= bytes;
  --transfer.slices_out;
  if (transfer.cancelled) {
    lost_ += bytes;
    if (transfer.slices_out == 0) Free(id);
  } else {
    peers_[transfer.answer.client].received += bytes;
    transfer.arrived_of_chunk += bytes;
    if (transfer.arrived_of_chunk == table_[transfer.arriving].compressed_bytes) {
      const ChunkIndex chunk = transfer.arriving++;
      transfer.arrived_of_chunk = 0;
      const bool last = transfer.arriving == transfer.answer.chunks.end;
      const uint32_t cookie = transfer.answer.cookie;
      if (last) Free(id);
      observer_.OnChunkArrived(cookie, chunk, last);
    }
  }
  List(connection_id);
  SendNext(server);
}

void Links::Drop(TransferId id) {
  Transfer& transfer = transfers_[id];
  transfer.cancelled = true;
  Connection& connection = connections_[transfer.connection];
  std::erase(connection.queue, id);
  if (connection.queue.empty()) Unlist(transfer.connection);
  Peer& server = peers_[transfer.answer.server];
  server.backlog -= std::exchange(transfer.granted, 0);
  std::erase(server.granted, id);
  if (transfer.ticket != 0) {
    server.uplink->Remove(transfer.ticket, Time());
    server.tickets.erase(transfer.ticket);
    transfer.ticket = 0;
  }
  lost_ += transfer.arrived_of_chunk;
  peers_[transfer.answer.client].received -= transfer.arrived_of_chunk;
  if (transfer.slices_out == 0) Free(id);
}

void Links::Cancel(TransferId id) {
  const PeerId server = transfers_[id].answer.server;
  Drop(id);
  if (peers_[server].uplink != nullptr) TakeGrants(server);
  SendNext(server);
}

void Links::Free(TransferId id) {
  transfers_[id].live = false;
  free_.push_back(id);
  --live_;
}

void Links::PrefetchPeer(PeerId peer) const {
  __builtin_prefetch(&peers_[peer]);
  __builtin_prefetch(&peers_[peer].ready);
}

void Links::Prefetch(TransferId id) const {
  const Transfer& transfer = transfers_[id];
  __builtin_prefetch(&connections_[transfer.connection]);
  PrefetchPeer(transfer.answer.server);
  PrefetchPeer(transfer.answer.client);
}

void Links::Silence(PeerId peer) {
  std::set<PeerId> servers;
  for (TransferId id = 0; id < transfers_.size(); ++id) {
    const Transfer& transfer = transfers_[id];
    if (!transfer.live || transfer.cancelled) continue;
    if (transfer.answer.server != peer && transfer.answer.client != peer) continue;
    servers.insert(transfer.answer.server);
    Drop(id);
  }
  peers_[peer].silent = true;
  for (PeerId server : servers) {
    if (server == peer) continue;
    if (peers_[server].uplink != nullptr) TakeGrants(server);
    SendNext(server);
  }
}

void Links::Revive(PeerId peer) {
  peers_[peer].silent = false;
  peers_[peer].asks_at = kNever;
}

}  // namespace banyan::sim
