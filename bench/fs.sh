#!/usr/bin/env bash
# File system work on an image's tree: native EROFS, overlayfs on ext4, and Banyan's three mount forms with the whole image on the node.
#
#   bench/fs.sh [--image NAME] [--rounds N] [--json FILE]      default: scipy (tests/images), 5 rounds, cold half of them
#
# fs_bench, warm and with the machine's caches dropped: a line {figure, image, state, work, tree, seconds, speed} each, `speed` relative
# to native EROFS. And the first sequential read of the image's largest file, empty store, from a registry on loopback with its files in memory:
# {figure, image, tree, seconds, bytes}; `reads` are the kernel's requests to the agent for it (null: the form `tree` does not count its own).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../tests/lib/e2e.sh"

image=scipy rounds=5 json=/dev/null
while (($#)); do
  case $1 in
    --image) image=$2 ;;
    --rounds) rounds=$2 ;;
    --json) json=$(realpath -m "$2") ;;
    *) fail "no option $1" ;;
  esac
  shift 2
done
forms=(file loop tree)
layout=$("$SOURCE_DIR/tests/images/make_image.sh" "$image")
unpacked=$("$SOURCE_DIR/tests/images/make_image.sh" --unpacked "$image")
large=$(cd "$unpacked" && find usr -type f -printf '%s %p\n' | sort -n | tail -n 1 | cut -d' ' -f2)
drop_caches() { sync; echo 3 >/proc/sys/vm/drop_caches; }
warm_registry() { find "$WORK/registry" -type f -size +64k -exec cat {} + >/dev/null; }  # as if it were another machine, in use

start_registry
push_image "$layout" bench/fs:1
reference=docker://$REGISTRY/bench/fs:1
banyan --quiet convert "$reference"

for ((round = 0; round < rounds; ++round)); do
  for form in "${forms[@]}"; do
    DATA_ROOT=$WORK/first
    banyan --quiet mount --form "$form" "$reference" "$WORK/view"
    drop_caches
    warm_registry
    begin=$EPOCHREALTIME
    dd "if=$WORK/view/$large" of=/dev/null bs=1M status=none
    us=$((${EPOCHREALTIME/./} - ${begin/./}))
    jq -cn --arg image "$image" --arg tree "banyan-$form" --argjson us "$us" --argjson bytes "$(stat -c %s "$unpacked/$large")" \
      --argjson reads "$(banyan --json stats | jq ".reads | if . > 0 then . else null end")" \
      '{figure: "first read", $image, $tree, seconds: ($us / 1e6), $bytes, $reads}' | tee -a "$json"
    banyan --quiet umount "$WORK/view"
    stop_agents "$DATA_ROOT"
    rm -rf --one-file-system "$DATA_ROOT"
  done
done

DATA_ROOT=$WORK/data
mkfs.erofs "$WORK/native.erofs" "$unpacked" >/dev/null 2>&1
mkdir -p "$WORK"/{native,overlay,upper,work}
mount -t erofs -o ro,loop "$WORK/native.erofs" "$WORK/native"
mount -t overlay -o "lowerdir=$unpacked,upperdir=$WORK/upper,workdir=$WORK/work" overlay "$WORK/overlay"
trees=("native=$WORK/native")
for form in "${forms[@]}"; do
  banyan --quiet mount --form "$form" --fill "$reference" "$WORK/$form"
  trees+=("banyan-$form=$WORK/$form")
done
trees+=("overlayfs=$WORK/overlay")
complete() { banyan --json ls | jq -e '.mounts[] | .device_bytes == .present_bytes'; }
wait_for 300 complete || fail "the image does not arrive"
for state in warm cold; do
  how=(--rounds "$rounds")
  [[ $state == warm ]] || how=(--rounds $(((rounds + 1) / 2)) --cold)
  "$(dirname "$BANYAN_BIN")/bench/fs_bench" "${how[@]}" --file "$large" "${trees[@]}" | tee "$WORK/table" >&2
  # "find   0.1234 s (1.00 x)   0.1200 s (1.03 x) …", trees in the order of the heading
  awk -v state=$state -v image="$image" '
    NR == 1 { for (i = 2; i <= NF; ++i) tree[i - 1] = $i; next }
    $3 == "s" { for (i = 2; i < NF; i += 4) { speed = substr($(i + 2), 2)
      printf "{\"figure\": \"fs\", \"image\": \"%s\", \"state\": \"%s\", \"work\": \"%s\", \"tree\": \"%s\", \"seconds\": %s, \"speed\": %s}\n",
             image, state, $1, tree[(i + 2) / 4], $i, speed } }' "$WORK/table" | tee -a "$json"
done
for form in "${forms[@]}"; do banyan --quiet umount "$WORK/$form"; done
