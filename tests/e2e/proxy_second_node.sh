#!/usr/bin/env bash
# Three nodes behind one proxy, which is containerd's mirror and the agents' ([registries] mirrors), and an image that nobody
# converted. The first node's start pulls it as ever; the proxy converts meanwhile, told by nobody; the second node's start
# downloads no original layer. The third node's agent trusts another key, and pulls as ever.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/containerd.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"

FAULTY_REGISTRY=${FAULTY_REGISTRY:-$(dirname "$BANYAN_BIN")/tests/faulty_registry}
WANT='numpy 45'
make_pause_image
start_registry
push_test_image python team/python:1
"$BANYAN_BIN/banyan" keys generate --dir "$WORK/keys" --quiet
"$BANYAN_BIN/banyan" keys generate --dir "$WORK/other-keys" --quiet
start_proxy <<TOML
[sign]
key_file = "$WORK/keys/signing.pem"
[upstreams."$REGISTRY"]
TOML

# start_node NAME KEY-DIRECTORY: keeper, agent and containerd, all below $WORK/NAME. What they ask the proxy for goes through a
# forwarder of their own, which writes each request to $WORK/NAME/asked.
start_node() {
  local root=$WORK
  local WORK=$root/$1
  mkdir -p "$WORK"
  cp -r "$root/pause" "$WORK/pause"
  : >"$WORK/faults"
  "$FAULTY_REGISTRY" --upstream "$PROXY" --faults "$WORK/faults" --port-file "$WORK/port" >"$WORK/asked" 2>&1 </dev/null &
  STARTED+=("$!")
  wait_for 10 test -s "$WORK/port"
  local proxy
  proxy=127.0.0.1:$(cat "$WORK/port")
  DATA_ROOT=$WORK/data
  start_node_agent "mirrors = [\"http://$proxy\"]
[trust]
keys = [\"$(echo "$root/$2"/public/*.pem)\"]"
  MIRROR=$proxy
  start_containerd banyan
  NODE=$WORK
}

# How many of the image's own layers the node has asked for, by any path.
layers_asked() {
  comm -12 <(layer_digests team/python:1 | sort -u) <(grep -o '/blobs/sha256:[0-9a-f]*' "$NODE/asked" | cut -d/ -f3 | sort -u) | wc -l
}

# start_image: pulls and runs it on the current node; its output must be right.
start_image() {
  local begin=$EPOCHREALTIME got
  pull_cri team/python:1 >/dev/null
  got=$(run_container team/python:1 -- python3 -c 'import numpy; print("numpy", numpy.arange(10).sum())')
  [[ $got == "$WANT" ]] || fail "got '$got', want '$WANT'"
  log "$got after $(((${EPOCHREALTIME/./} - ${begin/./}) / 1000)) ms; $(layers_asked) original layers asked for"
}

log "the first node: a plain pull through the proxy"
start_node one keys
LAYERS=$(layer_digests team/python:1 | sort -u | wc -l)
start_image
[[ $(layers_asked) == "$LAYERS" ]] || fail "the first node has not pulled the image through the proxy: $(cat "$NODE/asked")"
stop_containerd

log "the proxy converts, told by nobody"
conversions() { "$BANYAN_BIN/banyan" conversions --proxy "$STATUS" --json; }
converted() { conversions | jq -e 'length == 1 and .[0].state == "done"'; }
wait_for 120 converted || fail "not converted: $(conversions)"
DIGEST=$(conversions | jq -r '.[0].digest')
expect 200 GET "/v2/team/python/referrers/$DIGEST?ns=$REGISTRY"
jq -e '[.manifests[] | select(.annotations | has("vnd.banyan.signature"))] | length == 1' "$WORK/body" >/dev/null ||
  fail "no signed artifact: $(cat "$WORK/body")"

log "the second node: lazy"
LINE=$(registry_log_lines)
start_node two keys
start_image
[[ $(layers_asked) == 0 ]] || fail "the second node asked for original layers: $(grep /blobs/ "$NODE/asked")"
banyan --json ls | jq -e '.images | length == 1' >/dev/null || fail "the second node's agent has no image: $(banyan ls)"
sleep 0.3  # the registry writes a line when an answer has been sent
[[ $(layers_fetched team/python:1 "$LINE") == 0 ]] || fail "the upstream was asked: $(tail -n "+$((LINE + 1))" "$REGISTRY_LOG")"
stop_containerd

log "the third node trusts another key: a plain pull"
start_node three other-keys
start_image
[[ $(layers_asked) == "$LAYERS" ]] || fail "the third node took an artifact that its keys have not signed: $(cat "$NODE/asked")"
banyan --json ls | jq -e '.images | length == 0' >/dev/null || fail "the third node mounts it: $(banyan ls)"
stop_containerd
log "passed"
