#!/usr/bin/env bash
# A node at work: `find /`, memory with 50 images mounted, CPU when idle, and what a dead registry does to other images.
#
#   bench/containerd/node.sh [--json FILE] [SECTION …]      find images hung; default: all
#
# find: in a container of the scipy image, -xdev, after dropped caches and again; both snapshotters in turns.
# images: RSS of agent and keeper with 50 images mounted, of one base with a layer of one file each (each has a running container), then
#   with 50 unrelated ones of 1.5 MB more (mounted, and one file of each read). CPU over 60 idle seconds: containers sleep, containerd polls
#   (Stat of every snapshot each 10 s); and over 20 s with containerd stopped, which is the agent's own.
# hung: second starts of the python image before, and while 500 reads of another image wait for a registry that is stopped; then how long
#   the hung image's container and the image take to be removed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ -z ${BANYAN_BENCH_NET:-} ]]; then
  for image in base scipy python; do "$here/../../tests/images/make_image.sh" $image >/dev/null; done  # may need the network
  BANYAN_BENCH_NET=1 exec unshare --net "${BASH_SOURCE[0]}" "$@"
fi
JSON_FILE='' sections=()
while (($#)); do
  case $1 in
    --json) JSON_FILE=$(realpath -m "$2"); shift 2 ;;
    *) sections+=("$1"); shift ;;
  esac
done
((${#sections[@]})) || sections=(find images hung)
source "$here/lib.sh"

section_find() {
  local mode i image=bench/scipy:1 out
  push_test_image scipy $image
  convert_image $image
  for mode in overlayfs banyan; do
    start_node $mode
    keep_node $mode
    pull_cri $image >/dev/null
  done
  for i in 1 2 3 4 5; do
    for mode in overlayfs banyan; do
      use_node $mode
      drop_caches
      # Wall time and CPU time (user and system) of two runs in one container.
      out=$(run_container $image -- bash -c 'TIMEFORMAT="%R %U %S"; for i in 1 2 3; do time find / -xdev >/dev/null; done; find / -xdev | wc -l' 2>&1)
      [[ $(wc -l <<<"$out") == 4 ]] || fail "find: $out"
      put() { sample "find /" "" $mode "$@"; }
      put "first, caches dropped" s "$(awk 'NR == 1 { print $1 }' <<<"$out")"
      put "first, CPU" s "$(awk 'NR == 1 { print $2 + $3 }' <<<"$out")"
      put "entries" "" "$(tail -n 1 <<<"$out")"
      put "cached" s "$(awk 'NR == 3 { print $1 }' <<<"$out")"
      put "cached, CPU" s "$(awk 'NR == 3 { print $2 + $3 }' <<<"$out")"
    done
  done
  for mode in overlayfs banyan; do use_node $mode; stop_node; done
}

put_memory() {
  sample "images mounted" "" banyan "$1: mounts" "" "$(agent_mounts)"
  sample "images mounted" "" banyan "$1: agent RSS" MiB "$(rss_mib "$AGENT_PID" VmRSS)"
  sample "images mounted" "" banyan "$1: of it anonymous" MiB "$(rss_mib "$AGENT_PID" RssAnon)"
  sample "images mounted" "" banyan "$1: keeper RSS" MiB "$(rss_mib "$KEEPER_PID" VmRSS)"
}

put_idle() {
  local agent keeper daemon
  sleep 5
  agent=$(cpu_ms "$AGENT_PID") keeper=$(cpu_ms "$KEEPER_PID") daemon=$(cpu_ms "$CONTAINERD_PID")
  sleep 60
  sample "idle" "" banyan "$1: agent CPU, 60 s" ms $(($(cpu_ms "$AGENT_PID") - agent))
  sample "idle" "" banyan "$1: keeper CPU, 60 s" ms $(($(cpu_ms "$KEEPER_PID") - keeper))
  sample "idle" "" banyan "$1: containerd CPU, 60 s" ms $(($(cpu_ms "$CONTAINERD_PID") - daemon))
}

put_idle_alone() {
  local agent
  kill -STOP "$CONTAINERD_PID"
  # Whatever becomes of this script: clean-up waits for containerd.
  { sleep 24; kill -CONT "$CONTAINERD_PID"; } &
  sleep 2
  agent=$(cpu_ms "$AGENT_PID")
  sleep 20
  sample "idle" "" banyan "$1: agent CPU, 20 s with containerd stopped" ms $(($(cpu_ms "$AGENT_PID") - agent))
  wait $!
}

section_images() {
  local i count=50 id
  log "making 100 small images"
  push_small_images derived $count base
  push_small_images unrelated $count
  start_node banyan
  put_memory "none"
  log "starting 50 containers"
  for ((i = 0; i < count; ++i)); do
    pull_cri "bench/derived:$i" >/dev/null
    cri start "$REGISTRY/bench/derived:$i" --name "v$i" -- sh -c 'cat /variant/number; sleep 100000' >"$WORK/started.$i"
  done
  for ((i = 0; i < count; ++i)); do
    id=$(cut -d' ' -f2 "$WORK/started.$i")
    wait_for 30 bash -c "[[ \$('$CRI_CLIENT' --socket '$CONTAINERD_SOCKET' logs $id) == $i ]]" || fail "image $i: wrong or no output"
  done
  (($(agent_mounts) == count)) || fail "$(agent_mounts) mounts for $count images"
  put_memory "50 of one base, 50 containers"
  put_idle "50 of one base, 50 containers"
  for ((i = 0; i < count; ++i)); do pull_cri "bench/unrelated:$i" >/dev/null; done
  wait_for 30 all_mounted $((2 * count)) || fail "$(agent_mounts) mounts for $((2 * count)) images"
  while read -r mount; do head -c 4096 "$mount/data/7" >/dev/null 2>&1 || true; done < <(mounts_below "$DATA_ROOT")
  put_memory "and 50 unrelated"
  put_idle "and 50 unrelated"
  put_idle_alone "and 50 unrelated"
  stop_node
}
all_mounted() { [[ $(agent_mounts) == "$1" ]]; }

# A second registry on loopback, for the image that will hang.
start_hung_registry() {
  local far=$REGISTRY far_log=$REGISTRY_LOG
  mkdir -p "$WORK/second"
  WORK=$WORK/second start_registry
  HUNG_REGISTRY=$REGISTRY HUNG_PID=${STARTED[-1]}
  REGISTRY=$far REGISTRY_LOG=$far_log
}

cached_starts() {
  local i
  for i in 1 2 3 4 5 6 7; do
    [[ $(run_container bench/python:1 --timing "$WORK/timing" -- python3 -c 'import numpy; print(numpy.arange(10).sum())') == 45 ]] ||
      fail "the cached image does not start: $1"
    sample "dead registry" "" banyan "cached start, $1" s "$(seconds "$(field_ms .first_output "$WORK/timing")")"
  done
}

section_hung() {
  local pod id pid readers begin far=$REGISTRY
  push_test_image python bench/python:1
  convert_image bench/python:1
  start_hung_registry
  REGISTRY=$HUNG_REGISTRY
  push_small_images wide 1 base
  REGISTRY=$far
  start_node banyan "[registries.\"$HUNG_REGISTRY\"]
plain_http = true"
  write_hosts_toml "$HUNG_REGISTRY" "$MIRROR"
  pull_cri bench/python:1 >/dev/null
  run_container bench/python:1 -- python3 -c 'import numpy' >/dev/null
  REGISTRY=$HUNG_REGISTRY pull_cri bench/wide:0 >/dev/null
  REGISTRY=$HUNG_REGISTRY cri start "$HUNG_REGISTRY/bench/wide:0" --name hung -- sh -c 'echo up; sleep 100000' >"$WORK/started.hung"
  read -r pod id <"$WORK/started.hung"
  pid=$(pid_of_container "$id")
  [[ -n $pid ]] || fail "no process of container $id: $(k8s_ctr tasks ls)"
  cached_starts "before"
  kill -STOP "$HUNG_PID"
  python3 -B "$BENCH_DIR/hang_reads.py" "/proc/$pid/root/wide" 500 "$WORK/readers" </dev/null &
  readers=$!
  STARTED+=("$readers")
  wait_for 60 test -e "$WORK/readers.begun" || fail "the readers do not begin"
  wait_for 20 bash -c "(( \$('$BANYAN_BIN/banyan' --data-root '$DATA_ROOT' --json stats | jq .waiting_reads) > 0 ))" || fail "no read waits"
  sleep 1
  sample "dead registry" "" banyan "reads that hang (device requests)" "" "$(banyan --json stats | jq .waiting_reads)"
  cached_starts "while they hang"
  [[ ! -e $WORK/readers ]] || fail "no read hung: $(cat "$WORK/readers")"
  begin=$(now_ms)
  cri rm "$pod"
  sample "dead registry" "" banyan "its pod removed after" s "$(seconds $(($(now_ms) - begin)))"
  begin=$(now_ms)
  cri rmi "$HUNG_REGISTRY/bench/wide:0"
  sample "dead registry" "" banyan "its image removed after (rmi with its snapshots)" s "$(seconds $(($(now_ms) - begin)))"
  wait_for 30 all_mounted 1 || fail "the hung image stays mounted"
  sample "dead registry" "" banyan "unmounted after (from rmi)" s "$(seconds $(($(now_ms) - begin)))"
  wait "$readers"
  log "$(cat "$WORK/readers")"
  sample "dead registry" "" banyan "readers that hung until the removal" "" "$(hung_readers <"$WORK/readers")"
  kill -CONT "$HUNG_PID"
  stop_node
}

# Readers that got no bytes, of a report by hang_reads.py.
hung_readers() { grep -o '[0-9]* Input/output error' | cut -d' ' -f1 || echo 0; }

start_far_registry
for section in "${sections[@]}"; do
  log "section $section"
  "section_$section"
done
