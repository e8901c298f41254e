#!/usr/bin/env bash
# cli_roundtrip.sh IMAGE: convert, inspect, verify and extract an image, through a registry and through OCI layouts.
#
# What `extract` writes is what another unpacker makes of the same image (`adversarial`: what its writer meant); a second
# convert does nothing; a copy elsewhere and an image of its own tag are as good as the attached artifact. Where the artifact is the
# same, byte for byte, only `base` is read once more: the 4.5 GB of `adversarial` say nothing new there.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"

image=$1
layout=$("$SOURCE_DIR/tests/images/make_image.sh" "$image" "$WORK/layout")
expected=$("$SOURCE_DIR/tests/images/make_image.sh" --unpacked "$image")

start_registry
push_image "$layout" "test/$image:1"
reference=docker://$REGISTRY/test/$image:1

field() { jq -r "$1" <<<"$2"; }

log "convert"
first=$(banyan --json convert "$reference")
[[ $(field .already_converted "$first") == false ]] || fail "converted before it was"
[[ $(field .layers "$first") == $(field .layers_converted "$first") ]] || fail "layers were skipped: $first"
second=$(banyan --json convert "$reference")
[[ $(field .already_converted "$second") == true ]] || fail "converted twice: $second"
[[ $(field .artifact "$first") == $(field .artifact "$second") ]] || fail "another artifact: $second"
third=$(banyan --json convert --force "$reference")
[[ $(field .artifact "$first") == $(field .artifact "$third") ]] || fail "conversion is not reproducible: $third"
[[ -z $(ls "$DATA_ROOT/spool") ]] || fail "left in the spool: $(ls "$DATA_ROOT/spool")"

log "inspect"
inspected=$(banyan --json inspect --against "$reference" "$reference")
[[ $(field .artifact "$inspected") == $(field .artifact "$first") ]] || fail "inspects another artifact"
[[ $(field .total.chunks "$inspected") == $(field .total.shared_with_other_image.chunks "$inspected") ]] ||
  fail "an image does not share all chunks with itself"

log "verify"
[[ $(field .clean "$(banyan --json verify --mount "$reference")") == true ]] || fail "not clean"

log "extract"
banyan --quiet extract "$reference" "$WORK/tree"
"$COMPARE_TREES" "$expected" "$WORK/tree"
if banyan --quiet extract "$reference" "$WORK/tree" 2>"$WORK/error"; then fail "wrote into a directory with something in it"; fi
grep -q "is not empty" "$WORK/error" || fail "unhelpful: $(cat "$WORK/error")"

log "layouts"
copied=$(banyan --json convert "$layout" "oci:$WORK/copy:$image")
[[ $(field .layers_converted "$copied") -gt 0 ]] || fail "the copy has no data, but nothing was converted: $copied"
[[ $(field .artifact "$copied") == $(field .artifact "$first") ]] || fail "another artifact: $copied"
skopeo --insecure-policy inspect "oci:$WORK/copy:$image" >/dev/null || fail "the original is not in the copy"
if [[ $image == adversarial ]]; then
  log ok
  exit
fi
banyan --quiet verify "oci:$WORK/copy:$image"

log "an image of its own"
banyan --quiet convert "$reference" --tag own
own=docker://$REGISTRY/test/$image:own
banyan --quiet verify "$own"
banyan --quiet convert "$reference" "docker://$REGISTRY/other/$image" --tag own
status=0
banyan verify "docker://$REGISTRY/other/$image:own" 2>"$WORK/error" || status=$?
[[ $status == 3 ]] && grep -q -- "--original" "$WORK/error" || fail "status $status: $(cat "$WORK/error")"
banyan --quiet verify "docker://$REGISTRY/other/$image:own" --original "$reference"

log "damage is found and named"
blob=$(jq -r '.layers[0].blob' <<<"$inspected")
file=$WORK/copy/blobs/sha256/${blob#sha256:}
python3 - "$file" <<'PY'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(100)
    byte = f.read(1)
    f.seek(100)
    f.write(bytes([byte[0] ^ 1]))
PY
status=0
found=$(banyan --json verify "oci:$WORK/copy:$image") || status=$?
[[ $status == 1 ]] || fail "damage: exit status $status"
jq -e --arg blob "$blob" 'any(.findings[]; .check == "data" and (.what | contains("chunk 0 of data blob " + $blob)))' \
  <<<"$found" >/dev/null || fail "damage is not named: $found"
status=0
banyan --quiet extract "oci:$WORK/copy:$image" "$WORK/damaged" 2>"$WORK/error" || status=$?
[[ $status == 6 && -z $(ls "$WORK/damaged") ]] || fail "extracted damaged content ($status)"

log "errors"
expect() {
  local wanted=$1 status=0
  shift
  banyan "$@" >"$WORK/output" 2>"$WORK/error" || status=$?
  [[ $status == "$wanted" && $(head -c 8 "$WORK/error") == "banyan: " ]] || fail "banyan $*: status $status, $(cat "$WORK/error")"
}
expect 3 convert "docker://$REGISTRY/test/none:1"
expect 3 inspect "docker://$REGISTRY/test/$image:none"
expect 2 convert "http://$REGISTRY/test"
expect 2 convert "$own"
expect 2 frobnicate
expect 5 convert "docker://127.0.0.1:$(free_port)/test/none:1"
log "ok"
