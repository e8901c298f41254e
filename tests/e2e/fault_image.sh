#!/usr/bin/env bash
# fault_image.sh: artifacts that lie. Devices swapped, a map or metadata of another image, flipped bits, absurd sizes: mount
# refuses them in one clear line and with bounded memory, verify names what is wrong; wrong bytes are never shown.
#
# The lies are consistent as far as a forger can make them: digests and sizes are always those of the forged bytes.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/faults.sh"

small_image one
small_image two
view=$WORK/view
banyan --quiet convert "oci:$WORK/one.layout:x"
banyan --quiet convert "oci:$WORK/two.layout:x"

# forge LIE: $WORK/LIE.layout, image one with an artifact that lies in that way.
forge() {
  cp -r "$WORK/one.layout" "$WORK/$1.layout"
  python3 - "$1" "$WORK/$1.layout" "$WORK/two.layout" <<'PY'
import hashlib, json, os, subprocess, sys
lie, layout, other = sys.argv[1:]
MAGIC = b"BYNIMAP1"

def blob(root, digest):
    with open(f"{root}/blobs/{digest.replace(':', '/')}", "rb") as file:
        return file.read()
def put(data):
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    with open(f"{layout}/blobs/{digest.replace(':', '/')}", "wb") as file:
        file.write(data)
    return digest
def zstd(data, *how):
    return subprocess.run(["zstd", "-q", "-c", *how], input=data, stdout=subprocess.PIPE, check=True).stdout

def load(root):  # the artifact beside the image, and its place in the index
    with open(f"{root}/index.json") as file:
        index = json.load(file)
    for descriptor in index["manifests"]:
        manifest = json.loads(blob(root, descriptor["digest"]))
        if manifest.get("artifactType") == "application/vnd.banyan.image.v1":
            return index, descriptor, manifest
    sys.exit("no artifact")

def varint(value):
    out = b""
    while value >= 128:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])
def fields(message):  # [(number, varint or bytes)]
    out, at = [], 0
    def read():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
    while at < len(message):
        key = read()
        if key & 7 == 0:
            out.append([key >> 3, read()])
        else:
            length = read()
            out.append([key >> 3, message[at:at + length]])
            at += length
    return out
def message(parts):
    return b"".join(varint(number << 3 | (0 if isinstance(value, int) else 2)) +
                    (varint(value) if isinstance(value, int) else varint(len(value)) + value)
                    for number, value in parts)
def map_of(root, manifest):
    raw = zstd(blob(root, manifest["layers"][0]["digest"]), "-d")
    assert raw.startswith(MAGIC)
    return fields(raw[len(MAGIC):])
def set_field(parts, number, value):
    for part in parts:
        if part[0] == number:
            part[1] = value
            return
    sys.exit(f"no field {number}")
def get(parts, number):
    return next(value for n, value in parts if n == number)

index, descriptor, manifest = load(layout)
layers = manifest["layers"]
image_map = map_of(layout, manifest)
devices = [part for part in image_map if part[0] == 8]
map_blob = None

def metadata_blob(data, raw=None):  # takes its place everywhere
    digest = put(data)
    layers[1].update(digest=digest, size=len(data))
    set_field(image_map, 6, bytes.fromhex(digest[7:]))
    set_field(image_map, 7, len(data))
    if raw is not None:
        set_field(image_map, 4, hashlib.sha256(raw).digest())
        set_field(image_map, 5, len(raw))

if lie == "devices-swapped":
    a, b = devices
    a[1], b[1] = b[1], a[1]
elif lie == "devices-swapped-well":  # each says that it starts where the other did: they have the same length
    a, b = (fields(device[1]) for device in devices)
    start, length = get(a, 6), get(a, 7)
    assert length == get(b, 7), "the test's layers have other lengths"
    set_field(a, 6, get(b, 6))
    set_field(b, 6, start)
    devices[0][1], devices[1][1] = message(b), message(a)
elif lie == "chunks-swapped":  # the other layer's chunk table and blob under this layer's name
    a, b = (fields(device[1]) for device in devices)
    for number in (1, 2, 8):
        x, y = get(a, number), get(b, number)
        set_field(a, number, y)
        set_field(b, number, x)
    devices[0][1], devices[1][1] = message(a), message(b)
elif lie in ("other-map", "other-map-and-metadata", "other-metadata"):
    _, _, stranger = load(other)
    for layer in stranger["layers"]:
        put(blob(other, layer["digest"]))
    if lie != "other-metadata":
        image_map = map_of(other, stranger)
    if lie == "other-map-and-metadata":
        layers[1] = stranger["layers"][1]
    if lie == "other-metadata":
        data = blob(other, stranger["layers"][1]["digest"])
        metadata_blob(data, zstd(data, "-d"))
elif lie == "other-artifact":  # all of another image's artifact but the subject
    _, _, stranger = load(other)
    for layer in stranger["layers"]:
        put(blob(other, layer["digest"]))
    manifest.update(layers=stranger["layers"], annotations=stranger["annotations"])
    layers = manifest["layers"]
    image_map = map_of(other, stranger)
elif lie == "metadata-flipped":  # in the stored blob, whose digest is then wrong
    path = f"{layout}/blobs/{layers[1]['digest'].replace(':', '/')}"
    data = bytearray(blob(layout, layers[1]["digest"]))
    data[len(data) // 2] ^= 1
    with open(path, "wb") as file:
        file.write(data)
elif lie == "metadata-garbage":
    raw = bytearray(zstd(blob(layout, layers[1]["digest"]), "-d"))
    raw[1024:1152] = os.urandom(128)
    metadata_blob(zstd(bytes(raw)), bytes(raw))
elif lie == "metadata-bomb":  # 3 GiB of zeros in a blob that says it is small
    metadata_blob(zstd(bytes(3 << 30), "-1"))
elif lie == "metadata-absurd":
    set_field(image_map, 5, 1 << 60)
elif lie == "map-flipped":
    data = bytearray(blob(layout, layers[0]["digest"]))
    data[len(data) // 2] ^= 1
    map_blob = bytes(data)
elif lie == "map-truncated":
    map_blob = blob(layout, layers[0]["digest"])[:-100]
elif lie == "map-bomb":
    map_blob = zstd(MAGIC + bytes(2 << 30), "-1")
elif lie == "map-lies-about-size":
    layers[0]["size"] = 1 << 50
elif lie == "blocks-absurd":
    a = fields(devices[0][1])
    set_field(a, 7, 0xFFFFFFFF)
    devices[0][1] = message(a)
elif lie == "chunks-absurd":  # one chunk of 16 TiB that is 4 GiB compressed
    a = fields(devices[0][1])
    table = fields(get(a, 8))
    count = len(get(table, 3)) // 32
    table = [[1, varint(0xFFFFFFFF)], [2, varint(0xFFFFFFFF)], [3, get(table, 3)[:32]], [4, get(table, 4)[:32]]]
    set_field(a, 2, 0xFFFFFFFF)
    set_field(a, 7, 0xFFFFFFFF)
    set_field(a, 8, message(table))
    devices[0][1] = message(a)
elif lie == "chunks-uneven":  # lists of other lengths
    a = fields(devices[0][1])
    table = fields(get(a, 8))
    set_field(table, 3, get(table, 3)[:-32])
    set_field(a, 8, message(table))
    devices[0][1] = message(a)
elif lie == "devices-many":
    image_map += [devices[0]] * 70000
elif lie == "version":
    set_field(image_map, 1, 99)
elif lie != "nothing":
    sys.exit(f"unknown lie {lie}")

if map_blob is None:
    map_blob = zstd(MAGIC + message(image_map))
if lie != "map-lies-about-size":
    layers[0].update(digest=put(map_blob), size=len(map_blob))
text = json.dumps(manifest).encode()
descriptor.update(digest=put(text), size=len(text))
with open(f"{layout}/index.json", "w") as file:
    json.dump(index, file)
PY
}

# refused LIE WORDS [STATUS]: by mount, in one line; verify finds something wrong as well.
refused() {
  local lie=$1 words=$2 status=${3:-6} verified=0
  forge "$lie"
  log "$lie"
  clearly "$status" "$words" "$BANYAN_BIN/banyan" --data-root "$DATA_ROOT" --quiet mount "oci:$WORK/$lie.layout:x" "$view"
  [[ -z $(mounts_below "$view") ]] || fail "$lie: mounted after all"
  timeout 90 "$BANYAN_BIN/banyan" --data-root "$DATA_ROOT" verify "oci:$WORK/$lie.layout:x" >"$WORK/out" 2>&1 || verified=$?
  log "verify: exit $verified: $(grep -v "^ok" "$WORK/out" | head -n 1 | head -c 300)"
  ((verified > 0 && verified < 10)) || fail "$lie: verify: exit status $verified"
  rm -r "$WORK/$lie.layout"
}

start_agent 5
pid=$(agent_pid)

refused devices-swapped "device 0: .*block|not as the artifact|another in the metadata"
refused devices-swapped-well "another in the metadata|chain ID"
refused chunks-swapped "not as the artifact"
refused other-map "another chain ID|other metadata"
refused other-map-and-metadata "another chain ID|not as the artifact"
refused other-metadata "another in the metadata|map of"
refused other-artifact "no Banyan artifact" 3
refused metadata-flipped "hash|wrong bytes"
refused metadata-garbage "EROFS|superblock|magic|metadata"
refused metadata-bomb "metadata"
refused metadata-absurd "metadata of 1152921504606846976 bytes"
refused map-flipped "image map|zstd|corrupt"
refused map-truncated "image map|zstd|truncated|ends"
refused map-bomb "image map: more than" 7
refused blocks-absurd "blocks"
refused chunks-absurd "chunk|blocks|bytes"
refused chunks-uneven "chunk"
refused devices-many "devices|block"
refused version "format version 99" 8

[[ $(agent_pid) == "$pid" ]] || fail "the agent died: $(tail -5 "$DATA_ROOT/agent.log")"
peak=$(awk '/VmHWM/ { print int($2 / 1024) }' "/proc/$pid/status")
log "the agent's memory was never above $peak MB"
((peak < 900)) || fail "the agent took $peak MB for lies"

log "what is no lie, or one that hinders nobody"
for lie in nothing map-lies-about-size; do
  forge "$lie"
  banyan --quiet mount "oci:$WORK/$lie.layout:x" "$view"
  "$COMPARE_TREES" "$WORK/one.tree" "$view" || fail "$lie: wrong"
  banyan umount "$view"
done
log ok
