#!/usr/bin/env bash
# Agents whose tracker cannot be reached: they learn of each other by their sessions with the tree-manager, also after it was restarted.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/swarm.sh"
command -v jq >/dev/null || { echo "needs jq"; exit $SKIP; }
for i in 2 3 4; do ip address add 10.213.77.$i/24 dev lo; done

start_registry
convert_image 8
start_manager
OPEN=$TRACKER
TRACKER=http://$ADDRESS:$(free_port)  # nobody listens there
start_agent seed swarm 10.213.77.2
pull_on seed

# from_peers NAME: it has the blob, most of it from the swarm.
from_peers() {
  check_blob "$1"
  wait_for 5 metric_over "$1" banyan_swarm_committed_bytes_total $(($(stat -c %s "$WORK/blob") / 2)) ||
    fail "$1 has $(agent_metric "$1" banyan_swarm_committed_bytes_total) bytes of peers: $(tail -5 "$WORK/$1.log")"
}
# known NODES: the tracker knows so many in each swarm.
known() {
  local peers
  peers=$(python3 -c "import urllib.request as u; print(u.urlopen('$OPEN/metrics').read().decode())" | sed -n 's/^banyan_tracker_peers //p')
  ((peers == $1 * SWARMS))
}

SWARMS=$(agent_metric seed banyan_swarm_layers)
wait_for 20 known 1 || fail "the tracker does not know the seed"

log "a second node finds the first"
# shellcheck disable=SC2034
PEER_LINES='downlink = "512KiB"'  # not by swarm: what the registry gives before the first peer is found is little
start_agent second hybrid 10.213.77.3
pull_on second
from_peers second
wait_for 20 known 2 || fail "the tracker does not know both"

log "the manager is restarted; a third node finds both"
kill "$MANAGER_PID"
wait "$MANAGER_PID" 2>/dev/null || true
NOWHERE=$TRACKER TRACKER=$OPEN
start_manager
TRACKER=$NOWHERE
start_agent third swarm 10.213.77.4
wait_for 20 known 2 || fail "the first two do not say again what they have"
pull_on third
from_peers third
log passed
