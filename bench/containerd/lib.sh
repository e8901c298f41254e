# Helpers of the scripts in this folder: `source lib.sh` after run_in_network_namespace. Not run by itself.
#
# The node is the network namespace that the script runs in; the registry has another, behind a veth pair whose ends are shaped
# with tbf. So nothing of the machine's own network is touched, and whatever was set up goes with the last process.
#
# Every measurement becomes one JSON line in $SAMPLES, {figure, case, mode, metric, unit, value}; on exit `report` prints tables of
# medians and ranges, then the same as JSON lines (report.py). Modes are compared within one run: only ratios travel.
# shellcheck shell=bash
source "$(dirname "${BASH_SOURCE[0]}")/../../tests/lib/e2e.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../../tests/lib/containerd.sh"

BENCH_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SAMPLES=$WORK/samples.jsonl
: >"$SAMPLES"
CLOCK_TICKS=$(getconf CLK_TCK)
NODE_NUMBER=0

# sample FIGURE CASE MODE METRIC UNIT VALUE
sample() {
  jq -cn --arg figure "$1" --arg case "$2" --arg mode "$3" --arg metric "$4" --arg unit "$5" --argjson value "$6" '$ARGS.named' >>"$SAMPLES"
}

# On every exit: what was measured until a failure is worth its time.
report() {
  local status=$?
  trap '' INT TERM HUP
  set +e
  ((status == 0)) || log "incomplete: the script ended with status $status"
  [[ ! -s $SAMPLES ]] || python3 -B "$BENCH_DIR/report.py" ${JSON_FILE:+--json "$JSON_FILE"} "$SAMPLES"
  (exit "$status")
  containerd_clean_up
}
trap report EXIT

drop_caches() { sync; echo 3 >/proc/sys/vm/drop_caches; }
now_ms() { echo $((${EPOCHREALTIME/./} / 1000)); }
field_ms() { jq "$1 | floor" "$2"; }

# What is far: a registry in a network namespace of its own. Sets REGISTRY, REGISTRY_LOG; the link is unshaped at first.
start_far_registry() {
  ip link set lo up
  unshare --net sleep infinity </dev/null &
  FAR=$!
  STARTED+=("$FAR")
  wait_for 20 far_is_apart || fail "no network namespace for the registry"
  ip link add eth0 type veth peer name eth0 netns "$FAR"
  ip addr add 10.99.0.1/30 dev eth0
  ip link set eth0 up
  far ip link set lo up
  far ip addr add 10.99.0.2/30 dev eth0
  far ip link set eth0 up
  REGISTRY_LOG=$WORK/registry.log
  REGISTRY=10.99.0.2:5000
  cat >"$WORK/registry.yml" <<YML
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $WORK/registry}}
http: {addr: "$REGISTRY", secret: banyan}
YML
  OTEL_TRACES_EXPORTER=none nsenter "--net=/proc/$FAR/ns/net" docker-registry serve "$WORK/registry.yml" >>"$REGISTRY_LOG" 2>&1 </dev/null &
  STARTED+=("$!")
  wait_for 10 python3 -c "import urllib.request as u; u.urlopen('http://$REGISTRY/v2/')" || fail "no registry: $(tail -3 "$REGISTRY_LOG")"
}
far_is_apart() { [[ $(readlink /proc/self/ns/net) != "$(readlink "/proc/$FAR/ns/net")" ]]; }
far() { nsenter "--net=/proc/$FAR/ns/net" "$@"; }

# shape RATE: both ends of the link; `none` unshapes it.
shape() {
  local run
  for run in "" far; do
    $run tc qdisc del dev eth0 root 2>/dev/null || true
    [[ $1 == none ]] || $run tc qdisc add dev eth0 root tbf rate "$1" burst 256kb latency 50ms
  done
}
bytes_received() { awk '$1 == "eth0:" { print $2 }' /proc/self/net/dev; }

# The registry is another machine: its disk is not what is measured.
warm_registry() { find "$WORK/registry" -type f -size +64k -exec cat {} + >/dev/null; }

# start_node MODE [TOML]: fresh containerd; for any mode but overlayfs also fresh agent and keeper, with TOML in the configuration.
start_node() {
  NODE_NUMBER=$((NODE_NUMBER + 1))
  MODE=$1
  KEEPER_PID='' AGENT_PID='' SNAPSHOTTER_SOCKET='' MIRROR=''
  if [[ $MODE != overlayfs ]]; then
    DATA_ROOT=$WORK/d$NODE_NUMBER
    rm -f "$WORK/keeper.sock" "$WORK/snapshotter.sock"
    : >"$WORK/agent.log"
    start_node_agent "${2:-}"
  fi
  if [[ $MODE == overlayfs ]]; then start_containerd overlayfs; else start_containerd banyan; fi
}

stop_node() {
  local dir=$CONTAINERD_DIR pid
  stop_containerd
  if [[ -n $AGENT_PID ]]; then
    # The agent first: a keeper alone does not start another.
    for pid in "$AGENT_PID" "$KEEPER_PID"; do
      kill "$pid" 2>/dev/null || true
      wait "$pid" 2>/dev/null || true
    done
    while read -r mount; do umount -l "$mount"; done < <(mounts_below "$DATA_ROOT")
    rm -rf --one-file-system "$DATA_ROOT"
  fi
  while read -r mount; do umount -l "$mount"; done < <(mounts_below "$dir")
  rm -rf --one-file-system "$dir"
  KEEPER_PID='' AGENT_PID=''
}

# CPU milliseconds that a process has used, with its ended children.
cpu_ms() { [[ -z $1 ]] && { echo 0; return; }; sed 's/.*) //' "/proc/$1/stat" | awk -v hz="$CLOCK_TICKS" '{ printf "%d\n", ($12 + $13 + $14 + $15) * 1000 / hz }'; }
rss_mib() { awk -v key="$2:" '$1 == key { printf "%.1f\n", $2 / 1024 }' "/proc/$1/status"; }
seconds() { awk -v ms="$1" 'BEGIN { printf "%.3f\n", ms / 1000 }'; }
mib() { awk -v bytes="$1" 'BEGIN { printf "%.2f\n", bytes / 1048576 }'; }

# Two nodes side by side: start_node A; keep_node A; start_node B; keep_node B; use_node A …
NODE_VARIABLES=(MODE DATA_ROOT KEEPER_PID AGENT_PID AGENT_CONFIG SNAPSHOTTER_SOCKET MIRROR CONTAINERD_DIR CONTAINERD_SOCKET CONTAINERD_PID
  CONTAINERD_SNAPSHOTTER)
declare -A KEPT=()
keep_node() { local name; for name in "${NODE_VARIABLES[@]}"; do KEPT[$1.$name]=${!name:-}; done; }
use_node() { local name; for name in "${NODE_VARIABLES[@]}"; do printf -v "$name" %s "${KEPT[$1.$name]}"; done; }

# push_small_images KIND COUNT [BASE]: bench/KIND:<i> in the registry, converted (small_images.py).
push_small_images() {
  local kind=$1 i=0 base=() layout
  [[ -z ${3:-} ]] || { layout=$("$SOURCE_DIR/tests/images/make_image.sh" "$3"); layout=${layout#oci:}; base=("${layout%:*}"); }
  while read -r layout; do
    push_image "$layout" "bench/$kind:$i"
    convert_image "bench/$kind:$i"
    i=$((i + 1))
  done < <(python3 -B "$BENCH_DIR/small_images.py" "$kind" "${base[@]}" "$WORK/$kind" "$2")
  ((i == $2)) || fail "only $i of $2 images were made"
  rm -rf "${WORK:?}/$kind"
}
# Of images; a mount that several of them share is not one.
agent_mounts() { banyan --json ls | jq '[.mounts[] | select(.directory | contains("/snapshots/"))] | length'; }
# The process of a container that `cri start` printed as "POD CONTAINER".
pid_of_container() { k8s_ctr tasks ls | awk -v id="$1" '$1 == id { print $2 }'; }
