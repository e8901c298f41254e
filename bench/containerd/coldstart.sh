#!/usr/bin/env bash
# Cold and second starts of the scipy image, Debian's overlayfs snapshotter against Banyan.
#
#   bench/containerd/coldstart.sh [--rounds N] [--json FILE] [--keep-logs DIR] [--modes "MODE …"] [--variant NAME=TOML]… [LINK …]
#       default: 5 rounds, modes "overlayfs banyan", links 200mbit 1gbit none; a variant is a mode more: banyan with lines more in
#       its configuration (\n ends a line), as in --variant 'ra128=[mount]\nread_ahead = "128KiB"'
#
# A round is, for each mode in turn: a fresh containerd (and agent), caches dropped, CRI pull, a container that imports
# numpy and scipy.linalg, then second starts of the same. The registry is behind a link shaped at both ends; its files are
# kept in memory, as if it were another machine. Times are from the pull's beginning to the command's output.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ -z ${BANYAN_BENCH_NET:-} ]]; then
  "$here/../../tests/images/make_image.sh" scipy >/dev/null  # may need the network
  BANYAN_BENCH_NET=1 exec unshare --net "${BASH_SOURCE[0]}" "$@"
fi
rounds=5 links=() JSON_FILE='' logs='' modes=(overlayfs banyan)
declare -A variants=()
while (($#)); do
  case $1 in
    --rounds) rounds=$2; shift 2 ;;
    --json) JSON_FILE=$(realpath -m "$2"); shift 2 ;;
    --keep-logs) logs=$(realpath -m "$2"); shift 2 ;;
    --modes) read -ra modes <<<"$2"; shift 2 ;;
    --variant) variants[${2%%=*}]=$(printf %b "${2#*=}"); modes+=("${2%%=*}"); shift 2 ;;
    *) links+=("$1"); shift ;;
  esac
done
((${#links[@]})) || links=(200mbit 1gbit none)
source "$here/lib.sh"

# With its own CPU time: `time` is built into the interpreter, so no file more is read.
program='import numpy, scipy.linalg, time; print("ready", scipy.linalg.det(numpy.eye(3)), time.process_time())'
image=bench/scipy:1

# One container; sets `cpu`, the seconds that its process used; stages are in $WORK/timing.
start() {
  local out
  out=$(run_container "$image" --timing "$WORK/timing" -- python3 -c "$program") || fail "$MODE: the command failed"
  [[ $out == "ready 1.0 "* ]] || fail "$MODE: the command printed '$out'"
  cpu=${out##* }
}

measure() {
  local link=$1 begin pulled line received agent keeper daemon i
  start_node "$2" "${variants[$2]:-}"
  shape none
  drop_caches
  warm_registry
  shape "$link"
  line=$(registry_log_lines)
  received=$(bytes_received)
  agent=$(cpu_ms "$AGENT_PID") keeper=$(cpu_ms "$KEEPER_PID") daemon=$(cpu_ms "$CONTAINERD_PID")
  begin=$(now_ms)
  pull_cri "$image" >/dev/null
  pulled=$(($(now_ms) - begin))
  start
  put() { sample "cold start" "$link" "$MODE" "$@"; }
  put ready s "$(seconds $((pulled + $(field_ms .first_output "$WORK/timing"))))"
  put pull s "$(seconds $pulled)"
  put "pod made" s "$(seconds "$(field_ms .pod "$WORK/timing")")"
  put "container created and started" s "$(seconds "$(field_ms '.started - .pod' "$WORK/timing")")"
  put "the command's own CPU" s "$cpu"
  put "started to output" s "$(seconds "$(field_ms '.first_output - .started' "$WORK/timing")")"
  put "bytes received" MiB "$(mib $(($(bytes_received) - received)))"
  sleep 0.2  # the registry writes a line when an answer has been sent
  put "bytes by the registry's log" MiB "$(mib "$(registry_bytes "$line")")"
  put "containerd CPU" s "$(seconds $(($(cpu_ms "$CONTAINERD_PID") - daemon)))"
  if [[ -n $AGENT_PID ]]; then
    put "agent and keeper CPU" s "$(seconds $(($(cpu_ms "$AGENT_PID") - agent + $(cpu_ms "$KEEPER_PID") - keeper)))"
    put "agent peak RSS" MiB "$(rss_mib "$AGENT_PID" VmHWM)"
    put "keeper peak RSS" MiB "$(rss_mib "$KEEPER_PID" VmHWM)"
    if [[ -n $logs ]]; then
      mkdir -p "$logs"
      cp "$WORK/agent.log" "$logs/agent.$MODE.$link.$3.log"
      { cat "$WORK/timing"; banyan starts; } >"$logs/starts.$MODE.$link.$3" 2>&1
      tail -n "+$((line + 1))" "$REGISTRY_LOG" >"$logs/registry.$MODE.$link.$3.log"
      cp "$CONTAINERD_DIR/log" "$logs/containerd.$MODE.$link.$3.log"
    fi
  fi
  for i in 1 2 3; do
    start
    put "second start" s "$(seconds "$(field_ms .first_output "$WORK/timing")")"
    put "second start, the command's own CPU" s "$cpu"
    put "second start, container started to output" s "$(seconds "$(field_ms '.first_output - .started' "$WORK/timing")")"
  done
  drop_caches
  start
  put "second start, page cache dropped" s "$(seconds "$(field_ms .first_output "$WORK/timing")")"
  shape none
  stop_node
}

start_far_registry
log "pushing and converting the image"
push_test_image scipy "$image"
convert_image "$image"
for ((round = 1; round <= rounds; ++round)); do
  for link in "${links[@]}"; do
    for mode in "${modes[@]}"; do
      log "round $round, $link, $mode"
      measure "$link" "$mode" "$round"
    done
  done
done
