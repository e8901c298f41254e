#!/usr/bin/env bash
# From a fresh Debian 12 machine to containers that start before their image has arrived: `scripts/quickstart.sh`.
#
# Installs and builds; makes an image out of Debian packages (python3 with numpy) and pushes it to a docker-registry on
# loopback; converts it there; then lets containerd and runc start the same command on it, each time with cold caches: pulled
# and unpacked by containerd's own overlayfs snapshotter, and through Banyan's snapshotter, the first time and once more. Prints the
# time from the pull to the command's output and the bytes that the registry sent, by its own access log. At last three nodes in a
# lab of network namespaces (docs/lab.md) start it at once and feed each other. containerd runs
# privately, below a temporary directory. Nothing is left behind but packages, build/ and the image's cache.
# Needs root. QUICKSTART_SKIP_BUILD=1 uses the programs in $BANYAN_BIN as they are.
set -euo pipefail
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
started=$SECONDS

if [[ -z ${QUICKSTART_SKIP_BUILD:-} ]]; then
  "$scripts/install-deps.sh"
  "$scripts/build.sh" release banyan banyan-peer-agent banyan-keeper banyan-registry-proxy banyan-tree-manager cri_client
fi
source "$scripts/../tests/lib/e2e.sh"
source "$scripts/../tests/lib/containerd.sh"
source "$scripts/../tests/lib/lab.sh"

log "the image: python3 with numpy, out of Debian packages"
layout=$("$SOURCE_DIR/tests/images/make_image.sh" python)
command=(python3 -c 'import numpy; print("numpy", numpy.__version__)')

log "a registry, and the image in it"
start_registry
push_image "$layout" app:1
reference=$REGISTRY/app:1

log "banyan convert docker://$reference"
DATA_ROOT=$WORK/converter banyan convert "docker://$reference"  # what the conversion keeps shall not help the node

# milliseconds_since EPOCHREALTIME
milliseconds_since() { echo $(((${EPOCHREALTIME/./} - ${1/./}) / 1000)); }
run_with() {
  k8s_ctr run --rm --net-host --snapshotter "$1" --cgroup "/$CGROUP_PARENT/quickstart" "$reference" "quickstart-$RANDOM" "${command[@]}"
}
full_start() { k8s_ctr images pull --plain-http --snapshotter overlayfs "$reference" >&2 && run_with overlayfs; }
lazy_start() { banyan --quiet pull --containerd "$CONTAINERD_SOCKET" "$reference" >&2 && run_with banyan; }

# measure COMMAND…: sets `time_ms` to the first line of its output, `bytes` sent by the registry until its end, `output`.
measure() {
  local before start pid
  sync
  echo 3 >/proc/sys/vm/drop_caches
  before=$(registry_log_lines)
  start=$EPOCHREALTIME
  coproc RUN { "$@" 2>"$WORK/stderr"; }
  pid=$RUN_PID
  if ! IFS= read -r output <&"${RUN[0]}"; then cat "$WORK/stderr" >&2; fail "$* printed nothing"; fi
  time_ms=$(milliseconds_since "$start")
  wait "$pid" || { cat "$WORK/stderr" >&2; fail "$* failed"; }
  sleep 0.2  # the registry writes a line when an answer has been sent
  bytes=$(registry_bytes "$before")
}

rows=()
row() {
  log "$1: $output"
  full_ms=${full_ms:-$time_ms}
  rows+=("$(awk -v what="$1" -v ms="$time_ms" -v bytes="$bytes" -v full="$full_ms" \
    'BEGIN { printf "%-42s %9.2f s %9.1f MB %9.1f x", what, ms / 1000, bytes / 1e6, full / ms }')")
}
log "containerd with its own overlayfs snapshotter"
start_containerd overlayfs
measure full_start
row "overlayfs: full pull, unpack, run"
measure run_with overlayfs
row "overlayfs: run once more"
stop_containerd

log "containerd with Banyan's snapshotter: banyan-keeper, banyan-peer-agent"
start_node_agent
start_containerd banyan
measure lazy_start
row "banyan: pull, run, first on the node"
measure run_with banyan
row "banyan: run once more"

printf '\nWhat the cold start waited for (banyan starts):\n'
banyan starts --limit 1
stop_containerd
stop_agents

log "three nodes on links of 200 Mbit/s each, with a proxy that holds the image (scripts/lab.sh)"
lab up 3 --rate 200mbit --image python
lab_reference=docker://10.77.0.2:5000/python:1
lab_start() {
  local begin=$EPOCHREALTIME output
  output=$(lab exec "$1" banyan --quiet run "$lab_reference" -- "${command[@]}") || fail "$1 does not start"
  printf '%s: %s after %.2f s\n' "$1" "$output" "$(awk -v ms="$(milliseconds_since "$begin")" 'BEGIN { print ms / 1000 }')"
}
starts=()
for node in n1 n2 n3; do
  lab_start "$node" >"$WORK/$node.out" &
  starts+=($!)
done
for pid in "${starts[@]}"; do wait "$pid" || fail "a node does not start"; done

printf '\n%-42s %11s %12s %11s\n' "import numpy" "output after" "fetched" "faster"
printf '%s\n' "${rows[@]}"
printf '\nThree nodes start the same container at once (banyan tree):\n'
cat "$WORK"/n[123].out
lab exec manager banyan tree "$lab_reference"
printf '\nWhat each link carried:\n'
lab stats
printf '\nIn %d s altogether.\n' $((SECONDS - started))
