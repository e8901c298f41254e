#!/usr/bin/env bash
# Measures Banyan beside what people use today and renders docs/benchmarks.md: `bench.sh quick|full [PART …]`.
#
# Parts: coldstart (three images, starts by containerd), scipy (the cold start that the design's bar is for), fs, convert, fill (a
# fleet in the lab); default: all. Raw lines and plots go to docs/benchmarks/; a part that is run replaces its own lines and leaves the
# others', then the page is rendered from all. Quick: under 15 minutes, few rounds; full: more images, links and rounds, about two
# hours. Needs root and a release build (BANYAN_BIN: another). Images are made once, of Debian packages (bench/images).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

how=${1:-}
[[ $how == quick || $how == full ]] || { echo "usage: bench.sh quick|full [PART …]" >&2; exit 2; }
shift
parts=("$@")
((${#parts[@]})) || parts=(coldstart scipy fs convert fill)
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
coldstart() { bench/coldstart/coldstart.py --json "$raw/coldstart.jsonl" "$@"; }

part_coldstart() {
  local image images=numpy,nginx,layers50 links=200mbit,none rounds=2
  if [[ $how == full ]]; then images=base,numpy,nginx,layers50,redis,gcc,node,jre,postgres links=200mbit,1gbit,none rounds=5; fi
  for image in ${images//,/ }; do drop_lines coldstart image "$image"; done
  coldstart --images "$images" --links "$links" --rounds "$rounds"
}
part_scipy() {
  local links=200mbit rounds=3
  if [[ $how == full ]]; then links=200mbit,1gbit,none rounds=5; fi
  drop_lines coldstart image scipy
  coldstart --images scipy --links "$links" --rounds "$rounds"
}
part_fs() {
  rm -f "$raw/fs.jsonl"
  if [[ $how == full ]]; then bench/fs.sh --rounds 9 --json "$raw/fs.jsonl"; else bench/fs.sh --rounds 3 --json "$raw/fs.jsonl"; fi
}
part_convert() {
  rm -f "$raw/convert.jsonl"
  if [[ $how == full ]]; then bench/convert.py --images numpy,nginx,scipy --rounds 5 --json "$raw/convert.jsonl"
  else bench/convert.py --images numpy --rounds 2 --json "$raw/convert.jsonl"; fi
}
part_fill() {
  rm -f "$raw/fill.jsonl"
  if [[ $how == full ]]; then bench/lab/fill.py --nodes 8,16 --mib 64,256 --rounds 3 --json "$raw/fill.jsonl"
  else bench/lab/fill.py --nodes 8 --mib 64 --json "$raw/fill.jsonl"; fi
}

for part in "${parts[@]}"; do
  declare -F "part_$part" >/dev/null || { echo "bench.sh: no part $part" >&2; exit 2; }
  note "$part"
  "part_$part"
done
bench/render.py "$raw" docs/benchmarks.md
echo "docs/benchmarks.md"
