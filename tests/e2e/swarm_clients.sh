#!/usr/bin/env bash
# Ordinary BitTorrent clients and agents in one swarm: aria2c and transmission-cli, unmodified, take the .torrent from the
# proxy, ask the tree-manager's tracker, download from an agent, and an agent downloads from aria2c. The agents have the blob
# from the registry at first: nobody is born a seed.
#
# In a network namespace of its own, with an address that is not loopback, since Transmission calls no loopback peers.
if [[ -z ${SWARM_NAMESPACE:-} ]]; then exec unshare --net env SWARM_NAMESPACE=1 "${BASH_SOURCE[0]}" "$@"; fi
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"
for program in aria2c transmission-cli jq ip; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit $SKIP; }
done
ADDRESS=10.213.77.1
ip link set lo up
ip address add $ADDRESS/24 dev lo

TOKEN=secret-of-the-cluster
printf '%s\n' "$TOKEN" >"$WORK/token"
start_registry
make_oci "$WORK/oci" 1 seed 24 >/dev/null
push_image "oci:$WORK/oci:1" app:1
"$BANYAN_BIN/banyan" --data-root "$WORK/convert" --plain-http convert --quiet "docker://$REGISTRY/app:1" >/dev/null

MANAGER=$ADDRESS:$(free_port)
TRACKER=http://$ADDRESS:$(free_port)
cat >"$WORK/manager.toml" <<TOML
listen = "$MANAGER"
http = "${TRACKER#http://}"
data_root = "$WORK/manager"
token_file = "$WORK/token"
TOML
start_manager() {
  "$BANYAN_BIN/banyan-tree-manager" --config "$WORK/manager.toml" >>"$WORK/manager.log" 2>&1 </dev/null &
  MANAGER_PID=$!
  STARTED+=("$MANAGER_PID")
  wait_for 20 python3 -c "import urllib.request as u; u.urlopen('$TRACKER/readyz')" || fail "no manager: $(tail -3 "$WORK/manager.log")"
}
start_manager
start_proxy <<TOML
[convert]
enabled = false
[swarm]
tracker = "$TRACKER"
token_file = "$WORK/token"
[upstreams."$REGISTRY"]
endpoints = ["http://$REGISTRY"]
TOML

# The artifact's largest data blob, and what it is.
SUBJECT=$(skopeo_ inspect --tls-verify=false --raw "docker://$REGISTRY/app:1" | sha256sum | cut -d' ' -f1)
ARTIFACT=$(registry_get "/v2/app/manifests/sha256-$SUBJECT" | jq -r '.manifests[0].digest')
registry_get "/v2/app/manifests/$ARTIFACT" >"$WORK/artifact.json"
BLOB=$(jq -r '[.layers[] | select(.mediaType == "application/vnd.banyan.layer.v1")] | max_by(.size).digest' "$WORK/artifact.json")
registry_get "/v2/app/blobs/$BLOB" >"$WORK/blob"
INFO_HASH=$(jq -r --arg blob "$BLOB" '.layers[] | select(.mediaType == "application/x-bittorrent" and
  .annotations["vnd.banyan.layer.blob"] == $blob).annotations["vnd.banyan.torrent.info-hash"]' "$WORK/artifact.json")
log "blob of $(stat -c %s "$WORK/blob") bytes, info-hash $INFO_HASH"

log "the proxy makes the same torrent of the blob as the conversion did"
expect 200 GET "/v2/app/blobs/$BLOB.torrent?ns=$REGISTRY"
cp "$WORK/body" "$WORK/blob.torrent"
[[ $(header banyan-info-hash) == "$INFO_HASH" ]] || fail "info-hash $(header banyan-info-hash)"
transmission-show "$WORK/blob.torrent" >"$WORK/shown"
grep -i "hash: $INFO_HASH" "$WORK/shown" >/dev/null || fail "transmission reads something else: $(cat "$WORK/shown")"
grep "$TRACKER/" "$WORK/shown" >/dev/null || fail "no tracker in it: $(cat "$WORK/shown")"
expect 404 GET "/v2/app/blobs/sha256:$(printf nothing | sha256sum | cut -d' ' -f1).torrent?ns=$REGISTRY"
LAYER=$(skopeo_ inspect --tls-verify=false --raw "docker://$REGISTRY/app:1" | jq -r '.layers[1].digest')
expect 200 GET "/v2/app/blobs/$LAYER.torrent?ns=$REGISTRY"  # of a layer that is no data blob

# start_agent NAME: with a data root of its own.
start_agent() {
  local port mirror
  port=$(free_port)
  mirror=127.0.0.1:$(free_port)
  cat >"$WORK/$1.toml" <<TOML
data_root = "$WORK/$1"
[mirror]
address = "$mirror"
[peer]
address = "$ADDRESS:$(free_port)"
token_file = "$WORK/token"
node = "$1"
[tree]
manager = "$MANAGER"
[swarm]
transport = "${2:-hybrid}"
address = "$ADDRESS:$port"
tracker = "$TRACKER"
[registries."$REGISTRY"]
plain_http = true
TOML
  "$BANYAN_BIN/banyan-peer-agent" --config "$WORK/$1.toml" >"$WORK/$1.log" 2>&1 </dev/null &
  STARTED+=("$!")
  wait_for 20 test -S "$WORK/$1/agent.sock" || fail "no agent: $(tail -3 "$WORK/$1.log")"
  declare -g "MIRROR_$1=$mirror" "PID_$1=$!"
}
# agent_metric NAME METRIC
agent_metric() {
  local mirror=MIRROR_$1
  python3 - "${!mirror}" "$2" <<'PY'
import sys, urllib.request
for line in urllib.request.urlopen(f"http://{sys.argv[1]}/metrics").read().decode().splitlines():
    if line.split(" ")[0] == sys.argv[2]: print(int(float(line.split(" ")[1])))
PY
}
pull_on() { "$BANYAN_BIN/banyan" --data-root "$WORK/$1" --plain-http prefetch "docker://$REGISTRY/app:1" </dev/null; }
same() { [[ $(sha "$1") == "${BLOB#sha256:}" ]]; }
NAME=${BLOB#sha256:}

log "an agent brings the blob into the swarm"
start_agent one
pull_on one >/dev/null
[[ $(agent_metric one banyan_swarm_supplied_bytes_total) -gt 0 ]] || fail "not by way of the swarm: $(tail -5 "$WORK/one.log")"

log "aria2c downloads from it"
ARIA_PORT=$(free_port)
mkdir "$WORK/aria"
aria2c --quiet --dir="$WORK/aria" --listen-port="$ARIA_PORT" --enable-dht=false --enable-dht6=false --bt-enable-lpd=false \
  --seed-ratio=0.0 --file-allocation=none --bt-tracker-interval=5 --summary-interval=0 "$WORK/blob.torrent" \
  >"$WORK/aria.log" 2>&1 </dev/null &
ARIA_PID=$!
STARTED+=("$ARIA_PID")
wait_for 90 same "$WORK/aria/$NAME" || fail "aria2c has not the blob: $(tail -5 "$WORK/aria.log")"

log "transmission-cli downloads too"
mkdir "$WORK/transmission"
transmission-cli --config-dir "$WORK/transmission/config" --no-portmap --no-blocklist --port "$(free_port)" \
  --download-dir "$WORK/transmission" "$WORK/blob.torrent" >"$WORK/transmission.log" 2>&1 </dev/null &
STARTED+=("$!")
wait_for 120 same "$WORK/transmission/$NAME" || fail "transmission has not the blob: $(tail -c 300 "$WORK/transmission.log")"

log "the tracker is restarted, the first agent ends, and an agent downloads from those clients"
kill "$MANAGER_PID"
wait "$MANAGER_PID" || true
start_manager
# shellcheck disable=SC2154
kill "$PID_one"
wait "$PID_one" || true
BEFORE=$(registry_log_lines)
start_agent two swarm
sleep 6  # aria2c announces again
pull_on two >/dev/null
GOT=$(agent_metric two banyan_swarm_committed_bytes_total)
log "by swarm: $GOT bytes; from the registry: $(registry_bytes "$BEFORE")"
((GOT > $(stat -c %s "$WORK/blob") / 2)) || fail "little came by swarm: $(tail -5 "$WORK/two.log")"
"$BANYAN_BIN/banyan" --data-root "$WORK/two" scrub >"$WORK/scrub" 2>&1 </dev/null || fail "scrub: $(cat "$WORK/scrub")"
cmp "$WORK/two/store/blobs/sha256/$NAME" "$WORK/blob" || fail "the second agent's blob is another"
log "a third node is told to bring the image, and says how far it is"
start_agent three hybrid
preheat() { "$BANYAN_BIN/banyan" --json --plain-http preheat --manager "$MANAGER" --token-file "$WORK/token" "$@" </dev/null; }
registered() { "$BANYAN_BIN/banyan" --json nodes --manager "$MANAGER" --token-file "$WORK/token" </dev/null |
  jq -e '[.nodes[] | select(.node == "three" and .state == "live")] | length == 1'; }
wait_for 20 registered || fail "the third node is not here"
preheat "$REGISTRY/app:1" --nodes three >"$WORK/preheated" || fail "preheat: $(cat "$WORK/preheated")"
jq -e '.ended and .nodes[0].state == "done" and .nodes[0].present_bytes == .nodes[0].total_bytes' "$WORK/preheated" >/dev/null ||
  fail "preheated: $(cat "$WORK/preheated")"
cmp "$WORK/three/store/blobs/sha256/$NAME" "$WORK/blob" || fail "the third agent's blob is another"
if preheat "$REGISTRY/none:1" --nodes three >"$WORK/preheated"; then fail "an image that is not there: $(cat "$WORK/preheated")"; fi
jq -e '.nodes[0].state == "failed" and .nodes[0].error != ""' "$WORK/preheated" >/dev/null || fail "$(cat "$WORK/preheated")"
log "passed"
