#!/usr/bin/env bash
# compare_views.sh IMAGE FORM: the mounted view of a converted image is what another unpacker makes of the same image.
#
# IMAGE goes through a real registry, is converted there, and is mounted in FORM (file, loop, tree); compare_trees then finds
# no difference to umoci's unpacked tree (`adversarial`: to the tree that its writer meant). fsck.erofs accepts the metadata.
# With the form `file` also `banyan verify`, which needs no mount form.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"

image=$1 form=$2
layout=$("$SOURCE_DIR/tests/images/make_image.sh" "$image")
expected=$("$SOURCE_DIR/tests/images/make_image.sh" --unpacked "$image")

start_registry
push_image "$layout" "test/$image:1"
reference=docker://$REGISTRY/test/$image:1
log "converting"
banyan --quiet convert "$reference"

check_metadata() {
  local subject artifact
  subject=$(registry_get "/v2/test/$image/manifests/1" | sha256sum | cut -c1-64)
  artifact=$(registry_get "/v2/test/$image/manifests/sha256-$subject" | jq -r '.manifests[0].digest')
  registry_get "/v2/test/$image/manifests/$artifact" >"$WORK/artifact.json"
  local digest type
  read -r digest type < <(jq -r '.layers[] | select(.mediaType | contains("banyan.image.metadata")) | "\(.digest) \(.mediaType)"' \
    "$WORK/artifact.json")
  registry_get "/v2/test/$image/blobs/$digest" >"$WORK/metadata"
  if [[ $type == *+zstd ]]; then zstd -qdf "$WORK/metadata" -o "$WORK/metadata.erofs"; else mv "$WORK/metadata" "$WORK/metadata.erofs"; fi
  # It wants the devices, but reads no file data: empty ones of the right size do.
  mkdir "$WORK/devices"
  local -a devices
  mapfile -t devices < <(python3 - "$WORK/metadata.erofs" "$WORK/devices" <<'PY'
import struct, sys
with open(sys.argv[1], "rb") as f:
    metadata = f.read()
count, slot = struct.unpack_from("<HH", metadata, 1024 + 86)
for i in range(count):
    with open(f"{sys.argv[2]}/{i}", "wb") as device:
        device.truncate(4096 * struct.unpack_from("<I", metadata, (slot + i) * 128 + 64)[0])
    print(f"--device={device.name}")
PY
  )
  fsck.erofs "${devices[@]}" "$WORK/metadata.erofs" >"$WORK/fsck.log" 2>&1 || { cat "$WORK/fsck.log"; fail "fsck.erofs refuses the metadata"; }
}
log "checking the metadata"
check_metadata
# Of these two cli_roundtrip.sh verifies the artifact, and the mount with it.
if [[ $form == file && $image != base && $image != adversarial ]]; then
  log "verifying"
  banyan verify "$reference"
fi

log "mounting"
banyan mount --form "$form" "$reference" "$WORK/view"
log "comparing"
"$COMPARE_TREES" "$expected" "$WORK/view"
banyan umount "$WORK/view"
[[ -z $(mounts_below "$WORK/view") ]] || fail "still mounted after umount"
