#!/usr/bin/env bash
# Measures Banyan beside what people use today and renders docs/benchmarks.md: `bench.sh quick|full [PART …]`.
#
# Parts: scipy (the cold start that the design's bar is for), coldstart (other images, by containerd), ml (an image of 2.2 GB), fleet, fs, convert,
# manager, agent. fleet is fill (a whole image to many nodes), transports (trees, swarm, both, star), starts (real programs on many nodes), faults (a
# node, the manager, the proxy fail) and update (a rolling update), each a part too. Default: all, but in quick not ml and agent. Raw lines and
# plots go to docs/benchmarks/; a part that is run replaces its own lines and leaves the others', then the page is rendered from all. A part that
# fails does not keep the next from running; the exit status is then 1. Quick: under 15 minutes, few rounds; full: about 65. Needs root and a
# release build (BANYAN_BIN: another). Images are made once, of Debian packages (bench/images); ml takes five minutes more then.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

how=${1:-}
[[ $how == quick || $how == full ]] || { echo "usage: bench.sh quick|full [PART …]" >&2; exit 2; }
shift
FLEET=(fill transports starts faults update)
requested=("$@")
((${#requested[@]})) || if [[ $how == full ]]; then requested=(scipy coldstart ml fleet convert fs manager agent); else requested=(scipy coldstart fleet convert fs manager); fi
parts=()
for part in "${requested[@]}"; do if [[ $part == fleet ]]; then parts+=("${FLEET[@]}"); else parts+=("$part"); fi; done
raw=docs/benchmarks
mkdir -p "$raw"

# What a part's lines were measured on: replaces the part's line of before. The commit is the latest when the agent was built.
note() {
  local machine built
  built=$(stat -c %y "${BANYAN_BIN:-build/release/bin}/banyan-peer-agent")
  machine="$(nproc) cores ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)), $(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)"
  machine+=", $(. /etc/os-release && echo "$PRETTY_NAME"), kernel $(uname -r), $(containerd --version | awk '{ print $1, $3 }'), $(runc --version | head -n 1)"
  drop_lines machine part "$1"
  jq -cn --arg part "$1" --arg when "$(date -u '+%F %H:%M UTC')" --arg commit "$(git log -1 --format=%h --before="$built" 2>/dev/null || echo unknown)" \
    --arg load "$(cut -d' ' -f1 /proc/loadavg)" --arg machine "$machine" '$ARGS.named' >>"$raw/machine.jsonl"
}
# drop_lines FILE KEY VALUE: without the lines in which KEY is VALUE.
drop_lines() {
  touch "$raw/$1.jsonl"
  jq -c --arg key "$2" --arg value "$3" 'select(.[$key] != $value)' "$raw/$1.jsonl" >"$raw/$1.new"
  mv "$raw/$1.new" "$raw/$1.jsonl"
}
full() { [[ $how == full ]]; }
coldstart() { bench/coldstart/coldstart.py --json "$raw/coldstart.jsonl" "$@"; }

# add PART PROGRAM ARGUMENT…: what the program writes to --json, behind the part's lines; also what it has written when it fails.
add() {
  local part=$1 status=0 lines; shift
  lines=$(mktemp)
  "$@" --json "$lines" || status=$?
  cat "$lines" >>"$raw/$part.jsonl"
  rm "$lines"
  return "$status"
}

part_scipy() {
  drop_lines coldstart image scipy
  if full; then
    coldstart --images scipy --links 200mbit --rounds 5
    coldstart --images scipy --links 1gbit,none --rounds 1
  else
    coldstart --images scipy --links 200mbit --rounds 2
  fi
}
part_coldstart() {
  local image images=numpy,nginx
  if full; then images=numpy,nginx,layers50,gcc,redis,postgres,node,jre; fi
  for image in base ${images//,/ }; do drop_lines coldstart image "$image"; done
  if full; then
    coldstart --images "$images" --links 200mbit --rounds 2
    coldstart --images numpy --links none --rounds 2
  else
    coldstart --images "$images" --links 200mbit --rounds 1
  fi
}
part_ml() {
  drop_lines coldstart image ml
  if full; then coldstart --images ml --links 200mbit --rounds 2; else coldstart --images ml --links 200mbit --rounds 1; fi
}
# Full: the design's bars. 64 nodes' links are slower, for the machine's processors, and the image is smaller: the lab asks for 35 GiB of disk.
part_fill() {
  rm -f "$raw/fill.jsonl"
  if full; then
    add fill bench/lab/fill.py --nodes 16 --mib 256 --modes tree2 --rounds 2
    add fill bench/lab/fill.py --nodes 16 --mib 4,16,64 --modes tree2 --rounds 3
    add fill bench/lab/fill.py --nodes 8,64 --mib 64 --rate 16mbit --modes tree2
  else
    add fill bench/lab/fill.py --nodes 8 --mib 64 --modes tree2
  fi
}
part_transports() {
  rm -f "$raw/transports.jsonl"
  if full; then add transports bench/lab/swarm.py --nodes 16 --mib 64; else add transports bench/lab/swarm.py --nodes 8 --mib 16; fi
}
part_starts() {
  rm -f "$raw/starts.jsonl"
  if full; then
    add starts bench/lab/start.py --nodes 1,8,16
    add starts bench/lab/start.py --nodes 8,64 --rate 10mbit --modes tree2
  else
    add starts bench/lab/start.py --nodes 1,8
  fi
}
part_faults() {
  rm -f "$raw/faults.jsonl"
  if full; then add faults bench/lab/faults.py --orders in; else add faults bench/lab/faults.py --orders in --cases none,interior,manager --mib 32; fi
}
part_update() {
  rm -f "$raw/update.jsonl"
  if full; then
    add update bench/lab/update.py --nodes 8 --modes tree2
    add update bench/lab/update.py --nodes 8 --modes star --how start
  else
    add update bench/lab/update.py --nodes 4 --modes tree2
  fi
}
part_convert() {
  rm -f "$raw/convert.jsonl"
  if full; then
    add convert bench/convert.py --images numpy --rounds 2
    add convert bench/convert.py --images nginx --rounds 0
  else
    add convert bench/convert.py --images numpy --rounds 1
  fi
}
part_fs() {
  rm -f "$raw/fs.jsonl"
  if full; then bench/fs.sh --rounds 5 --json "$raw/fs.jsonl"; else bench/fs.sh --rounds 3 --json "$raw/fs.jsonl"; fi
}
# In process, as processes with thousands of sessions, and in the simulator.
part_manager() {
  local bin=${BANYAN_BIN:-build/release/bin} scenario
  "$bin/../bench/tree_bench" --benchmark_format=json --benchmark_min_time=0.5 2>/dev/null |
    jq -c '.benchmarks[] | {figure: "tree_bench", name, per_second: .items_per_second}' >"$raw/manager.jsonl"
  "$bin/../bench/manager_sessions" --manager "$bin/banyan-tree-manager" --seconds 10 2>/dev/null | tee /dev/stderr |
    jq -Rnc '[inputs] | join(" ") | capture("(?<sessions>[0-9]+) of [0-9]+ sessions.*manager: (?<cores>[0-9.]+) cores, (?<mib>[0-9]+) MiB.*durable: (?<joins>[0-9]+) joins")
      | map_values(tonumber) + {figure: "manager_sessions"}' >>"$raw/manager.jsonl"
  for scenario in bench/churn_10000.txt sim/scenarios/burst.txt; do
    "$bin/banyan-sim" run --json "$scenario" 2>/dev/null | jq -c '{figure: "sim", title, run, nodes, metrics}' >>"$raw/manager.jsonl"
  done
}
part_agent() {
  rm -f "$raw/agent.jsonl"
  add agent bench/containerd/node.sh images
}

for part in "${parts[@]}"; do
  declare -F "part_$part" >/dev/null || { echo "bench.sh: no part $part" >&2; exit 2; }
done
failed=() number=0
for part in "${parts[@]}"; do
  number=$((number + 1)) began=$SECONDS
  echo "== $(date +%T) part $part ($number of ${#parts[@]})"
  # In a subshell, and not as a condition: so that the part ends with its first command that fails, and the next still runs.
  set +e
  (set -e; note "$part"; "part_$part")
  status=$?
  set -e
  ((status == 0)) || failed+=("$part")
  echo "== $(date +%T) part $part: status $status after $((SECONDS - began)) s"
  bench/render.py "$raw" docs/benchmarks.md
done
echo "docs/benchmarks.md after $((SECONDS / 60)) min${failed[*]:+; failed: ${failed[*]}}"
((${#failed[@]} == 0))
