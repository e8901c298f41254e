#!/usr/bin/env bash
# Nothing but what is needed is fetched: at a first start of `python3 -c "import numpy"` the bytes over the wire are within 1.5
# times the compressed chunks that hold the touched blocks, and the mount itself takes two small GETs and the metadata.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"

layout=$("$SOURCE_DIR/tests/images/make_image.sh" python)
start_registry
push_image "$layout" test/python:1
reference=docker://$REGISTRY/test/python:1
banyan --quiet convert "$reference"

line=$(registry_log_lines)
banyan --json mount "$reference" "$WORK/view" >/dev/null
sleep 0.5
tail -n "+$((line + 1))" "$REGISTRY_LOG" | awk -F'"' '$2 ~ /^(GET|HEAD) / {split($3, a, " "); print $2, a[1], a[2]}' >"$WORK/requests"
cat "$WORK/requests" >&2
# Past the resolution of the tag: the artifact's manifest, the map, the metadata. Nothing else is a blob.
blobs=$(grep -c '/blobs/' "$WORK/requests")
[[ $blobs == 2 ]] || fail "$blobs blob requests for a mount, want the map and the metadata"
banyan umount "$WORK/view"

line=$(registry_log_lines)
banyan --json run "$reference" -- python3 -c "import numpy; print(numpy.__version__)" >"$WORK/out" 2>"$WORK/report"
sleep 0.5
wire=$(tail -n "+$((line + 1))" "$REGISTRY_LOG" |
  awk -F'"' '$2 ~ /^GET .*blobs/ && $3 ~ /^ 206 / {split($3, a, " "); bytes += a[2]} END {print bytes + 0}')
fetched=$(jq '.sources.registry.compressed_bytes' "$WORK/report")

# What the program touches, read without any read-ahead: one FUSE request a page fault or read.
DATA_ROOT=$WORK/bare
banyan --quiet mount --read-ahead-kib 0 "$reference" "$WORK/bare-view"
mkdir -p "$WORK/bare-scratch"/{upper,work,merged}
mount -t overlay overlay -o "lowerdir=$WORK/bare-view,upperdir=$WORK/bare-scratch/upper,workdir=$WORK/bare-scratch/work" \
  "$WORK/bare-scratch/merged"
chroot "$WORK/bare-scratch/merged" /usr/bin/python3 -c "import numpy" </dev/null
touched=$(banyan --json stats "$WORK/bare-view" | jq '.touched_compressed_bytes')
log "wire: $wire bytes of ranges, of which chunks: $fetched; chunks that hold the touched blocks: $touched"
((touched > 1000000)) || fail "a start that touches only $touched bytes is no test"
((wire * 2 <= touched * 3)) || fail "more than 1.5 times the touched chunks went over the wire"
