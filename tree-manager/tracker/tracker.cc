#include "tree-manager/tracker/tracker.h"

#include <arpa/inet.h>

#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/format.h>

namespace banyan::tree_manager {
namespace {

constexpr std::string_view kAnnounce = "/announce";
constexpr std::string_view kScrape = "/scrape";
constexpr std::chrono::seconds kExpiryRound{10};
constexpr size_t kPortBytes = 2;

std::string Bencode(std::string_view text) { return fmt::format("{}:{}", text.size(), text); }

net::HttpResponse Plain(std::string body) { return {200, {{"Content-Type", "text/plain"}}, std::move(body)}; }

net::HttpResponse Failure(std::string_view reason) {
  return Plain(fmt::format("d14:failure reason{}e", Bencode(reason)));
}

// "10.0.0.7" and 6881 in network order; nullopt when it is no address.
std::optional<std::string> EndpointOf(std::string_view client, uint16_t port) {
  const std::string text(client);
  in6_addr address{};
  std::string endpoint;
  if (::inet_pton(AF_INET, text.c_str(), &address) == 1) {
    endpoint.assign(reinterpret_cast<const char*>(&address), 4);
  } else if (::inet_pton(AF_INET6, text.c_str(), &address) == 1) {
    const bool mapped = IN6_IS_ADDR_V4MAPPED(&address);
    endpoint.assign(reinterpret_cast<const char*>(&address) + (mapped ? 12 : 0), mapped ? 4 : 16);
  } else {
    return std::nullopt;
  }
  endpoint += static_cast<char>(port >> 8);
  endpoint += static_cast<char>(port & 0xff);
  return endpoint;
}

bool IsV4(std::string_view endpoint) { return endpoint.size() == 4 + kPortBytes; }
std::string_view AddressIn(std::string_view endpoint) { return endpoint.substr(0, endpoint.size() - kPortBytes); }

std::string AddressText(std::string_view endpoint) {
  char text[INET6_ADDRSTRLEN] = {};
  ::inet_ntop(IsV4(endpoint) ? AF_INET : AF_INET6, endpoint.data(), text, sizeof(text));
  return text;
}

unsigned PortIn(std::string_view endpoint) {
  const auto byte = [&](size_t from_end) {
    return static_cast<unsigned>(static_cast<unsigned char>(endpoint[endpoint.size() - from_end]));
  };
  return byte(2) * 256 + byte(1);
}

}  // namespace

Tracker::Tracker(Options options)
    : options_(std::move(options)), random_(options_.seed != 0 ? options_.seed : std::random_device{}()) {}

bool Tracker::Knows(const net::HttpRequest& request) const {
  return request.path().ends_with(kAnnounce) || request.path().ends_with(kScrape);
}

net::HttpResponse Tracker::Answer(const net::HttpRequest& request) {
  const std::string_view path = request.path();
  const bool announce = path == options_.path + std::string(kAnnounce);
  if (request.method != "GET" || (!announce && path != options_.path + std::string(kScrape))) {
    return {404, {{"Content-Type", "text/plain; charset=utf-8"}}, "not this tracker's path\n"};
  }
  std::string_view query = request.target;
  query.remove_prefix(std::min(query.size(), path.size() + 1));
  if (announce) {
    const auto asked = ParseAnnounce(query);
    return asked ? AnswerAnnounce(*asked, request.client) : Failure(asked.error().message);
  }
  const auto hashes = ParseScrape(query);
  return hashes ? Scrape(*hashes) : Failure(hashes.error().message);
}

Result<std::vector<Tracker::PeerAt>> Tracker::Announce(const AnnounceQuery& query, std::string_view address) {
  const auto endpoint = EndpointOf(address, query.port);
  if (!endpoint) return Fail(Code::kInvalidArgument, fmt::format("'{}' is no address", address));
  const MutexLock lock(mutex_);
  BANYAN_ASSIGN(const Swarm* const swarm, Take(query, *endpoint));
  std::vector<PeerAt> peers;
  if (swarm == nullptr) return peers;
  for (const Endpoint& peer : Choose(*swarm, query, *endpoint)) {
    peers.push_back({AddressText(peer), static_cast<uint16_t>(PortIn(peer))});
  }
  return peers;
}

Result<Tracker::Swarm*> Tracker::Take(const AnnounceQuery& query, const Endpoint& endpoint) {
  ++announces_;
  Expire(Now());
  const auto known = swarms_.find(query.info_hash);
  if (query.event == AnnounceEvent::kStopped) {
    if (known == swarms_.end()) return nullptr;
    peers_ -= known->second.peers.erase(endpoint);
    if (known->second.peers.empty()) swarms_.erase(known);
    return nullptr;
  }
  if (query.port == 0) return known == swarms_.end() ? nullptr : &known->second;
  if (known == swarms_.end() && (swarms_.size() >= options_.max_swarms || peers_ >= options_.max_peers)) {
    ++refused_;
    return Fail(Code::kResourceExhausted, "the tracker is full");
  }
  Swarm& swarm = swarms_[query.info_hash];
  if (Status entered = Enter(swarm, query, endpoint); !entered) {
    ++refused_;
    return Fail(std::move(entered.error()));
  }
  return &swarm;
}

net::HttpResponse Tracker::AnswerAnnounce(const AnnounceQuery& query, std::string_view client) {
  const auto endpoint = EndpointOf(client, query.port);
  if (!endpoint) return Failure("your address is not known");
  const MutexLock lock(mutex_);
  const auto taken = Take(query, *endpoint);
  if (!taken) return Failure(taken.error().message);
  if (*taken == nullptr) return Plain(fmt::format("d8:intervali{}e5:peers0:e", Interval().count()));
  const Swarm& swarm = **taken;
  const auto seeds = static_cast<size_t>(
      std::count_if(swarm.peers.begin(), swarm.peers.end(), [](const auto& item) { return item.second.seed; }));
  std::string body = fmt::format("d8:completei{}e10:incompletei{}e8:intervali{}e12:min intervali{}e", seeds,
                                 swarm.peers.size() - seeds, Interval().count(), options_.least_interval.count() / 2);
  std::string list;
  std::string list6;
  for (const Endpoint& peer : Choose(swarm, query, *endpoint)) {
    if (query.compact) {
      (IsV4(peer) ? list : list6) += peer;
      continue;
    }
    list += fmt::format("d2:ip{}", Bencode(AddressText(peer)));
    if (!query.no_peer_id) list += fmt::format("7:peer id{}", Bencode(swarm.peers.at(peer).id));
    list += fmt::format("4:porti{}ee", PortIn(peer));
  }
  body += query.compact ? fmt::format("5:peers{}", Bencode(list)) : fmt::format("5:peersl{}e", list);
  if (!list6.empty()) body += fmt::format("6:peers6{}", Bencode(list6));
  return Plain(body + "e");
}

Status Tracker::Enter(Swarm& swarm, const AnnounceQuery& query, const Endpoint& endpoint) {
  auto known = swarm.peers.find(endpoint);
  if (known == swarm.peers.end()) {
    const auto same_address = std::count_if(swarm.peers.begin(), swarm.peers.end(), [&](const auto& item) {
      return AddressIn(item.first) == AddressIn(endpoint);
    });
    if (peers_ >= options_.max_peers) return Fail(Code::kResourceExhausted, "the tracker is full");
    if (static_cast<size_t>(same_address) >= options_.max_peers_per_address) {
      return Fail(Code::kResourceExhausted, "too many peers of your address");
    }
    known = swarm.peers.emplace(endpoint, Peer{}).first;
    ++peers_;
  }
  Peer& peer = known->second;
  if (query.event == AnnounceEvent::kCompleted && !peer.seed) ++swarm.completed;
  peer.id = query.peer_id;
  peer.zone = ZoneOf(swarm, query, endpoint);
  peer.seed = query.left == 0;
  peer.expires = Now() + 2 * Interval() + options_.least_interval;
  return {};
}

std::string Tracker::ZoneOf(const Swarm& swarm, const AnnounceQuery& query, const Endpoint& asker) const {
  if (!query.zone.empty()) return query.zone;
  for (const auto& [endpoint, peer] : swarm.peers) {
    if (AddressIn(endpoint) == AddressIn(asker) && !peer.zone.empty()) return peer.zone;
  }
  return {};
}

std::vector<Tracker::Endpoint> Tracker::Choose(const Swarm& swarm, const AnnounceQuery& query, const Endpoint& asker) {
  const size_t wanted =
      query.numwant < 0 ? options_.usually_given : std::min<uint64_t>(options_.most_given, query.numwant);
  const std::string zone = ZoneOf(swarm, query, asker);
  std::vector<Endpoint> near;
  std::vector<Endpoint> far;
  for (const auto& [endpoint, peer] : swarm.peers) {
    if (endpoint == asker || (query.left == 0 && peer.seed)) continue;
    (peer.zone == zone ? near : far).push_back(endpoint);
  }
  std::shuffle(near.begin(), near.end(), random_);
  std::shuffle(far.begin(), far.end(), random_);
  near.insert(near.end(), far.begin(), far.end());
  near.resize(std::min(near.size(), wanted));
  return near;
}

net::HttpResponse Tracker::Scrape(const std::vector<std::string>& hashes) {
  const MutexLock lock(mutex_);
  ++scrapes_;
  Expire(Now());
  std::map<std::string, std::string> files;  // a dictionary's keys are sorted, and each is there once
  for (const std::string& hash : hashes) {
    const auto swarm = swarms_.find(hash);
    if (swarm == swarms_.end()) continue;
    const auto& peers = swarm->second.peers;
    const auto seeds = static_cast<size_t>(
        std::count_if(peers.begin(), peers.end(), [](const auto& item) { return item.second.seed; }));
    files[hash] = fmt::format("d8:completei{}e10:downloadedi{}e10:incompletei{}ee", seeds, swarm->second.completed,
                              peers.size() - seeds);
  }
  std::string body = "d5:filesd";
  for (const auto& [hash, counts] : files) body += Bencode(hash) + counts;
  return Plain(body + "ee");
}

void Tracker::Expire(Clock::time_point now) {
  if (now < next_expiry_) return;
  next_expiry_ = now + kExpiryRound;
  for (auto swarm = swarms_.begin(); swarm != swarms_.end();) {
    peers_ -= std::erase_if(swarm->second.peers, [now](const auto& item) { return item.second.expires <= now; });
    swarm = swarm->second.peers.empty() ? swarms_.erase(swarm) : std::next(swarm);
  }
}

std::chrono::seconds Tracker::interval() const {
  const MutexLock lock(mutex_);
  return Interval();
}

std::chrono::seconds Tracker::Interval() const {
  const std::chrono::seconds fair(peers_ / options_.announces_per_second);
  return std::clamp(fair, options_.least_interval, options_.longest_interval);
}

void Tracker::AddMetrics(MetricsPage& page) const {
  const MutexLock lock(mutex_);
  page.Gauge("banyan_tracker_swarms", "Blobs that someone announces.", static_cast<double>(swarms_.size()));
  page.Gauge("banyan_tracker_peers", "Peers of all swarms.", static_cast<double>(peers_));
  page.Counter("banyan_tracker_announces_total", "Announces answered.", static_cast<double>(announces_));
  page.Counter("banyan_tracker_scrapes_total", "Scrapes answered.", static_cast<double>(scrapes_));
  page.Counter("banyan_tracker_refused_total", "Announces refused because a limit was reached.",
               static_cast<double>(refused_));
}

}  // namespace banyan::tree_manager
