#!/usr/bin/env bash
# Measures one node: conversion, mounts, reads, starts. Ratios within this run; about five minutes. Needs root.
#
#   bench/run.sh [SECTION …]     convert fs first-read start inodes big-file sharing; default: all
source "$(dirname "${BASH_SOURCE[0]}")/../tests/lib/e2e.sh"

bench_bin=$(dirname "$BANYAN_BIN")/bench
sections=("$@")
wanted() { ((${#sections[@]} == 0)) || [[ " ${sections[*]} " == *" $1 "* ]]; }
title() { printf '\n== %s\n' "$*"; }
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
drop_caches() { sync; echo 3 >/proc/sys/vm/drop_caches; }
seconds_of() { local begin=$EPOCHREALTIME; "$@" >/dev/null </dev/null; echo "$EPOCHREALTIME - $begin" | bc -l; }
agent_pid() { pgrep -f "^[^ ]*banyan-peer-agent --data-root $DATA_ROOT" | head -n 1; }
image_of() { "$SOURCE_DIR/tests/images/make_image.sh" "$@"; }

scipy_layout=$(image_of scipy)
expected=$(image_of --unpacked scipy)
start_registry
push_image "$scipy_layout" bench/scipy:1
reference=docker://$REGISTRY/bench/scipy:1
banyan --quiet convert "$reference"
large=$(cd "$expected" && find usr -type f -size +8M -printf '%s %p\n' | sort -n | tail -n 1 | cut -d' ' -f2)

if wanted convert; then
  title "conversion of the image's largest layer"
  directory=${scipy_layout#oci:}; directory=${directory%:*}
  layer=$(find "$directory/blobs/sha256" -type f -printf '%s %p\n' | sort -n | tail -n 1 | cut -d' ' -f2)
  "$bench_bin/convert_bench" --rounds 5 "$layer"
fi

# The whole image on the node: filled once, then mounted again from its own files.
fill() {
  banyan --quiet mount --fill "$reference" "$WORK/filling"
  wait_for 300 bash -c "'$BANYAN_BIN/banyan' --data-root '$DATA_ROOT' --json ls | jq -e '.mounts[] | .device_bytes == .present_bytes'"
  banyan umount "$WORK/filling"
}

if wanted fs || wanted start; then
  fill
  mkfs.erofs "$WORK/native.erofs" "$expected" >/dev/null 2>&1
  mkdir -p "$WORK/native"
  mount -t erofs -o ro,loop "$WORK/native.erofs" "$WORK/native"
  banyan --quiet mount "$reference" "$WORK/complete"
fi

if wanted fs; then
  title "cached reads: native EROFS (one file, loop), Banyan with the whole image on the node, ext4; file: $large"
  "$bench_bin/fs_bench" --file "$large" "native=$WORK/native" "banyan=$WORK/complete" "ext4=$expected"
fi

if wanted start; then
  title "import numpy, scipy.linalg on a fully cached image, against ext4"
  import() { chroot "$1" /usr/bin/python3 -c "import numpy, scipy.linalg"; }
  import "$WORK/complete"; import "$expected"
  for _ in 1 2 3 4 5 6 7 8 9; do
    seconds_of import "$expected" >>"$WORK/start.ext4"
    seconds_of import "$WORK/complete" >>"$WORK/start.banyan"
  done
  echo "warm: ext4 $(median <"$WORK/start.ext4") s, banyan $(median <"$WORK/start.banyan") s: $(echo "scale=2; $(median <"$WORK/start.banyan") / $(median <"$WORK/start.ext4")" | bc -l) x (bar 1.1)"
  rm "$WORK"/start.*
  for _ in 1 2 3 4 5; do
    drop_caches; seconds_of import "$expected" >>"$WORK/start.ext4"
    drop_caches; seconds_of import "$WORK/complete" >>"$WORK/start.banyan"
  done
  echo "page cache dropped: ext4 $(median <"$WORK/start.ext4") s, banyan $(median <"$WORK/start.banyan") s: $(echo "scale=2; $(median <"$WORK/start.banyan") / $(median <"$WORK/start.ext4")" | bc -l) x"
fi
! mountpoint -q "$WORK/complete" || banyan umount "$WORK/complete"

if wanted first-read; then
  title "first sequential read of $large ($(stat -c %s "$expected/$large") bytes) from the registry on loopback"
  for round in 1 2 3 4 5; do
    DATA_ROOT=$WORK/first.$round
    banyan --quiet mount "$reference" "$WORK/view.$round"
    seconds_of dd "if=$WORK/view.$round/$large" of=/dev/null bs=1M status=none >>"$WORK/first"
    banyan umount "$WORK/view.$round"
    stop_agents "$DATA_ROOT"
    rm -rf "$DATA_ROOT"
  done
  DATA_ROOT=$WORK/data
  echo "median $(median <"$WORK/first") s: $(echo "scale=0; $(stat -c %s "$expected/$large") / 1000000 / $(median <"$WORK/first")" | bc -l) MB/s (bar 400)"
fi

# measure_mount NAME LAYOUT: time to mount, bytes before it, memory of the agent.
measure_mount() {
  DATA_ROOT=$WORK/mount.$1
  push_image "$2" "bench/$1:1"
  /usr/bin/time -f 'conversion: %e s, at most %M KiB resident' "$BANYAN_BIN/banyan" --data-root "$DATA_ROOT" --plain-http --quiet \
    convert "docker://$REGISTRY/bench/$1:1" </dev/null
  local lines report
  lines=$(registry_log_lines)
  report=$(banyan --json mount "docker://$REGISTRY/bench/$1:1" "$WORK/view.$1")
  sleep 0.3
  echo "mounted after $(jq -r '.times_us.mounted / 1000' <<<"$report") ms, $(registry_bytes "$lines") bytes before the mount," \
    "agent: $(awk '/VmRSS/ {print $2}' "/proc/$(agent_pid)/status") KiB resident"
}

if wanted inodes; then
  title "an image of 500,000 inodes"
  python3 "$SOURCE_DIR/bench/synthetic_image.py" inodes "$WORK/inodes"
  measure_mount inodes "oci:$WORK/inodes:inodes"
  echo "find over it: $(seconds_of find "$WORK/view.inodes" -name nothing) s; agent then: $(awk '/VmRSS/ {print $2}' "/proc/$(agent_pid)/status") KiB resident"
  banyan umount "$WORK/view.inodes"
fi

if wanted big-file; then
  title "an image with a single 20 GB file (sparse in the tar)"
  python3 "$SOURCE_DIR/bench/synthetic_image.py" big-file "$WORK/big-file"
  measure_mount big-file "oci:$WORK/big-file:big-file"
  echo "its size in the mount: $(stat -c %s "$WORK/view.big-file/model.bin"); last bytes: $(tail -c 12 "$WORK/view.big-file/model.bin")"
  banyan umount "$WORK/view.big-file"
fi

if wanted sharing; then
  title "chunks shared by two versions of an image (python3 + numpy, without and with scipy)"
  push_image "$(image_of python)" bench/python:1
  DATA_ROOT=$WORK/data
  banyan --quiet convert "docker://$REGISTRY/bench/python:1"
  banyan inspect "$reference" --against "docker://$REGISTRY/bench/python:1"
fi
