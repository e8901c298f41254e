// What the tree-manager sends, from raw bytes to what the fetch path is given: whatever it says, routes stay within
// bounds and never lead to this node, the state file is read again, and only functions that were joined are known.
//
// Input: messages, each after its length in two bytes.
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include <spdlog/spdlog.h>

#include "common/file_io.h"
#include "peer-agent/functions.h"

namespace {

using banyan::peer_agent::BlobFunctions;
using banyan::peer_agent::Functions;

const std::string kJoined = "f";

void Check(Functions& functions) {
  if (functions.RoutesOf("another")) std::abort();
  const auto routes = functions.RoutesOf(kJoined);
  if (!routes) return;
  if (routes->stripes.empty() || routes->stripes.size() > 2 || routes->holders.size() > 16) std::abort();
  const auto is_self = [](const banyan::fetch::PeerAddress& peer) { return peer.node == "me"; };
  if (std::any_of(routes->holders.begin(), routes->holders.end(), is_self)) std::abort();
  for (const auto& stripe : routes->stripes) {
    if (stripe.spares.size() > 16 || std::any_of(stripe.spares.begin(), stripe.spares.end(), is_self)) std::abort();
  }
}

void Deliver(Functions& functions, const uint8_t* data, size_t size) {
  banyan::proto::tree::ManagerMessage message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return;
  if (message.has_welcome()) functions.SetFleetSwitch(message.welcome().settings().peer_to_peer());
  if (message.has_settings()) functions.SetFleetSwitch(message.settings().peer_to_peer());
  if (message.has_assignments()) functions.Apply(message.assignments());
  if (message.has_profile()) functions.Apply(message.profile());
  if (message.has_holders()) functions.Apply(message.holders());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  spdlog::set_level(spdlog::level::off);
  static const banyan::TempDir directory = banyan::TempDir::Make("manager-message-fuzz").value();
  BlobFunctions blobs;
  const std::string state = directory.path() + "/trees.pb";
  Functions functions("me", state, blobs, [](const banyan::proto::tree::NodeMessage&) {});
  functions.Join(kJoined, "docker://registry.example/app:1");
  while (size > 2) {
    const size_t length = std::min(data[0] + 256 * size_t{data[1]}, size - 2);
    Deliver(functions, data + 2, length);
    data += 2 + length;
    size -= 2 + length;
    Check(functions);
    (void)functions.Joins();
    (void)functions.TakeHoldings();
    (void)functions.Tick();
  }
  functions.SetFleetSwitch(true);
  const auto before = functions.RoutesOf(kJoined);
  functions.Save();
  Functions again("me", state, blobs, [](const banyan::proto::tree::NodeMessage&) {});
  again.Load();
  Check(again);
  const auto after = again.RoutesOf(kJoined);
  if (before && (!after || before->stripes.size() != after->stripes.size())) std::abort();
  ::unlink(state.c_str());
  return 0;
}
