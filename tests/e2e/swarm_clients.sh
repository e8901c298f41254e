#!/usr/bin/env bash
# Ordinary BitTorrent clients and agents in one swarm: aria2c and transmission-cli, unmodified, take the .torrent from the
# proxy, ask the tree-manager's tracker, download from an agent, and an agent downloads from aria2c. The agents have the blob
# from the registry at first: nobody is born a seed.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/swarm.sh"
for program in aria2c transmission-cli jq; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit $SKIP; }
done

start_registry
convert_image 24
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

same() { [[ $(sha "$1") == "${BLOB#sha256:}" ]]; }
NAME=${BLOB#sha256:}

log "an agent brings the blob into the swarm"
start_agent one hybrid
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
check_blob two
log "a third node is told to bring the image, and says how far it is"
start_agent three hybrid
preheat() { "$BANYAN_BIN/banyan" --json --plain-http preheat --manager "$MANAGER" --token-file "$WORK/token" "$@" </dev/null; }
registered() { "$BANYAN_BIN/banyan" --json nodes --manager "$MANAGER" --token-file "$WORK/token" </dev/null |
  jq -e '[.nodes[] | select(.node == "three" and .state == "live")] | length == 1'; }
wait_for 20 registered || fail "the third node is not here"
preheat "$REGISTRY/app:1" --nodes three >"$WORK/preheated" || fail "preheat: $(cat "$WORK/preheated")"
on_three() { jq -e '.ended and (.nodes[0] | .node == "three" and .state == "done" and .total_bytes > 0 and .present_bytes == .total_bytes)' "$1"; }
on_three "$WORK/preheated" >/dev/null || fail "preheated: $(cat "$WORK/preheated")"
log "the same by HTTP"
http_preheat() { curl --silent --show-error --fail-with-body -H "Authorization: Bearer $TOKEN" "$@"; }
ID=$(http_preheat -H 'Content-Type: application/json' -d "{\"reference\": \"$REGISTRY/app:1\", \"nodes\": [\"three\"], \"plain_http\": true}" \
  "$TRACKER/api/v1/preheats" | jq .id) || fail "preheating by HTTP: $ID"
http_done() { http_preheat -o "$WORK/progress" "$TRACKER/api/v1/preheats/$ID" && on_three "$WORK/progress"; }
wait_for 20 http_done || fail "preheated by HTTP: $(cat "$WORK/progress")"
[[ $(curl --silent -o /dev/null -w '%{http_code}' "$TRACKER/api/v1/preheats/$ID") == 401 ]] || fail "without the token"
check_blob three
if preheat "$REGISTRY/none:1" --nodes three >"$WORK/preheated"; then fail "an image that is not there: $(cat "$WORK/preheated")"; fi
jq -e '.nodes[0].state == "failed" and .nodes[0].error != ""' "$WORK/preheated" >/dev/null || fail "$(cat "$WORK/preheated")"
log "passed"
