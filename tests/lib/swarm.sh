# Helpers of the swarm_*.sh scripts: a cluster with a tracker in a network namespace of the script's own, where each agent may have
# an address that is not loopback (Transmission calls no loopback peers, and bans go by address). `source` it first; it
# brings e2e.sh and proxy.sh.
# shellcheck shell=bash
if [[ -z ${SWARM_NAMESPACE:-} ]]; then exec unshare --net env SWARM_NAMESPACE=1 "$0" "$@"; fi
source "$(dirname "${BASH_SOURCE[0]}")/e2e.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"
command -v ip >/dev/null || { echo "needs ip"; exit $SKIP; }
ADDRESS=10.213.77.1
ip link set lo up
ip address add $ADDRESS/24 dev lo
TOKEN=secret-of-the-cluster
printf '%s\n' "$TOKEN" >"$WORK/token"

# convert_image MIB: $REGISTRY/app:1, with its artifact. Sets BLOB and INFO_HASH, of its largest data blob; its bytes are in $WORK/blob.
convert_image() {
  local subject artifact
  make_oci "$WORK/oci" 1 seed "$1" >/dev/null
  push_image "oci:$WORK/oci:1" app:1
  "$BANYAN_BIN/banyan" --data-root "$WORK/convert" --plain-http convert --quiet "docker://$REGISTRY/app:1" >/dev/null
  subject=$(registry_get /v2/app/manifests/1 | sha256sum | cut -d' ' -f1)
  artifact=$(registry_get "/v2/app/manifests/sha256-$subject" | jq -r '.manifests[0].digest')
  registry_get "/v2/app/manifests/$artifact" >"$WORK/artifact.json"
  BLOB=$(jq -r '[.layers[] | select(.mediaType == "application/vnd.banyan.layer.v1")] | max_by(.size).digest' "$WORK/artifact.json")
  registry_get "/v2/app/blobs/$BLOB" >"$WORK/blob"
  INFO_HASH=$(jq -r --arg blob "$BLOB" '.layers[] | select(.mediaType == "application/x-bittorrent" and
    .annotations["vnd.banyan.layer.blob"] == $blob).annotations["vnd.banyan.torrent.info-hash"]' "$WORK/artifact.json")
  log "blob of $(stat -c %s "$WORK/blob") bytes, info-hash $INFO_HASH"
}

# start_manager: again on the same addresses and data when it is called again. Sets MANAGER, TRACKER, MANAGER_PID.
start_manager() {
  MANAGER=${MANAGER:-$ADDRESS:$(free_port)}
  TRACKER=${TRACKER:-http://$ADDRESS:$(free_port)}
  cat >"$WORK/manager.toml" <<TOML
listen = "$MANAGER"
http = "${TRACKER#http://}"
data_root = "$WORK/manager"
token_file = "$WORK/token"
TOML
  "$BANYAN_BIN/banyan-tree-manager" --config "$WORK/manager.toml" >>"$WORK/manager.log" 2>&1 </dev/null &
  MANAGER_PID=$!
  STARTED+=("$MANAGER_PID")
  wait_for 20 python3 -c "import urllib.request as u; u.urlopen('$TRACKER/readyz')" || fail "no manager: $(tail -3 "$WORK/manager.log")"
}

# start_agent NAME TRANSPORT [ADDRESS [SWARM_ADDRESS [LINES OF [swarm]]]]: with a data root of its own, $WORK/NAME, and with $PEER_LINES
# in [peer]. Sets PID_NAME and MIRROR_NAME.
start_agent() {
  local name=$1 address=${3:-$ADDRESS} mirror
  mirror=127.0.0.1:$(free_port)
  cat >"$WORK/$name.toml" <<TOML
data_root = "$WORK/$name"
[mirror]
address = "$mirror"
[peer]
address = "$address:$(free_port)"
token_file = "$WORK/token"
node = "$name"
${PEER_LINES:-}
[tree]
manager = "$MANAGER"
[registries."$REGISTRY"]
plain_http = true
[swarm]
transport = "$2"
address = "${4:-$address:$(free_port)}"
tracker = "$TRACKER"
${5:-}
TOML
  "$BANYAN_BIN/banyan-peer-agent" --config "$WORK/$name.toml" >>"$WORK/$name.log" 2>&1 </dev/null &
  STARTED+=("$!")
  declare -g "MIRROR_$name=$mirror" "PID_$name=$!"
  wait_for 20 test -S "$WORK/$name/agent.sock" || fail "no agent: $(tail -3 "$WORK/$name.log")"
}

# agent_metric NAME METRIC: its whole number.
agent_metric() {
  local mirror=MIRROR_$1
  python3 - "${!mirror}" "$2" <<'PY'
import sys, urllib.request
for line in urllib.request.urlopen(f"http://{sys.argv[1]}/metrics").read().decode().splitlines():
    if line.split(" ")[0] == sys.argv[2]: print(int(float(line.split(" ")[1])))
PY
}
metric_over() { (($(agent_metric "$1" "$2") > $3)); }
agent() { local name=$1; shift; "$BANYAN_BIN/banyan" --data-root "$WORK/$name" --plain-http "$@" </dev/null; }
pull_on() { agent "$1" --quiet prefetch "docker://$REGISTRY/app:1"; }

# check_agent NAME: all that its store holds has the right digest. check_blob NAME: and it is the whole blob.
check_agent() { agent "$1" scrub >"$WORK/scrub" 2>&1 || fail "scrub of $1: $(cat "$WORK/scrub")"; }
check_blob() {
  check_agent "$1"
  cmp "$WORK/$1/store/blobs/sha256/${BLOB#sha256:}" "$WORK/blob" || fail "the blob of $1 is another"
}
