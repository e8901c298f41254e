#!/usr/bin/env bash
# Images that share their lower layers share one mount of them (docs/decisions/0005): what containers see is right, the agent's death
# and a restart of everything change nothing, and the shared mount goes with the last image.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lib/containerd.sh"

layout=$("$SOURCE_DIR/tests/images/make_image.sh" python)
directory=${layout#oci:}
directory=${directory%:*}
manifest=$directory/blobs/sha256/$(jq -r '.manifests[0].digest[7:]' "$directory/index.json")
mapfile -t base < <(jq -r '.layers[].digest[7:]' "$manifest" | sed "s#^#$directory/blobs/sha256/#")

# Four images over python: each removes, replaces, hides and adds; the last also links to a file of the base.
cat >"$WORK/derive.py" <<'PY'
import io, sys, tarfile
number, out = int(sys.argv[1]), sys.argv[2]
with tarfile.open(out, "w:gz") as tar:
    def add(name, data=b"", **fields):
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), 0o755, 1600000000
        for key, value in fields.items(): setattr(info, key, value)
        tar.addfile(info, io.BytesIO(data))
    add("./", type=tarfile.DIRTYPE)
    add("variant", type=tarfile.DIRTYPE)
    add(f"variant/{number}", b"%d\n" % number)
    add("etc/.wh.debian_version")
    add("usr/share/doc/.wh..wh..opq")
    add("usr/share/doc/only", b"this\n")
    add("opt", b"a file where a directory was\n")
    add("usr/lib/python3/dist-packages/variant.py", b"NUMBER = %d\n" % number)
    if number == 4: add("linked", type=tarfile.LNKTYPE, linkname="usr/bin/python3.11")
PY
start_registry
for i in 1 2 3 4; do
  python3 "$WORK/derive.py" "$i" "$WORK/layer$i.tar.gz"
  mkdir "$WORK/layers"
  cp "${base[@]}" "$WORK/layers"  # they are moved into the layout
  python3 -B "$SOURCE_DIR/tests/images/oci_layout.py" "$WORK/image$i" v --cmd /bin/sh "${base[@]/#*\//$WORK/layers/}" "$WORK/layer$i.tar.gz"
  rmdir "$WORK/layers"
  push_image "oci:$WORK/image$i:v" "test/v$i:1"
  convert_image "test/v$i:1"
done
start_node_agent
start_containerd banyan

prefixes() { awk -v root="$DATA_ROOT/prefixes/" '$5 ~ "^" root' /proc/self/mountinfo | wc -l; }
has_prefix() { [[ $(prefixes) == 1 ]]; }
chain_of() { # of an image, from its configuration
  python3 - "$WORK/image$1" <<'PY'
import hashlib, json, sys
read = lambda d: json.load(open(f"{sys.argv[1]}/blobs/sha256/{d[7:]}"))
index = json.load(open(sys.argv[1] + "/index.json"))
chain = ""
for diff in read(read(index["manifests"][0]["digest"])["config"]["digest"])["rootfs"]["diff_ids"]:
    chain = diff if not chain else "sha256:" + hashlib.sha256(f"{chain} {diff}".encode()).hexdigest()
print(chain)
PY
}
run_variant() {
  local got
  got=$(run_container "test/v$1:1" -- python3 -c 'import variant, numpy, os; print(variant.NUMBER, os.path.exists("/etc/debian_version"), os.listdir("/usr/share/doc"))')
  [[ $got == "$1 False ['only']" ]] || fail "image $1 shows '$got'"
}
compare_image() {
  local expected=$WORK/unpacked$1 view=$WORK/view$1
  umoci raw unpack --image "$WORK/image$1:v" "$expected" >/dev/null 2>&1 </dev/null
  mkdir "$view"
  k8s_ctr snapshots --snapshotter banyan view "view$1" "$(chain_of "$1")" >/dev/null
  eval "$(k8s_ctr snapshots --snapshotter banyan mounts "$view" "view$1")"
  "$COMPARE_TREES" "$expected" "$view" >"$WORK/differences" 2>&1 || true
  # overlayfs shows one link for a directory of two lowers; the last line is the count.
  while IFS= read -r line; do
    [[ $line =~ ^(/.*):\ link\ count:\ [0-9]+\ \|\ 1$ && -d $expected${BASH_REMATCH[1]} ]] || {
      umount "$view"
      fail "image $1 is not what its layers say: $line"
    }
  done < <(head -n -1 "$WORK/differences")
  log "image $1: $(tail -n 1 "$WORK/differences")"
  umount "$view"
  k8s_ctr snapshots --snapshotter banyan rm "view$1"
}

pull_cri test/v1:1 >/dev/null
run_variant 1
[[ $(prefixes) == 0 ]] || fail "one image alone has a mount for its prefix"
pull_cri test/v2:1 >/dev/null
wait_for 20 has_prefix || fail "no mount of the shared layers: $(banyan ls)"
run_variant 2
for i in 3 4; do pull_cri "test/v$i:1" >/dev/null; done
run_variant 3
run_variant 4
compare_image 2
compare_image 3
[[ $(run_container test/v4:1 -- /linked -c 'print(6 * 7)') == 42 ]] || fail "the link to a file of the base does not work"
grep -c "lower_directory.*prefixes" "$DATA_ROOT"/mounts/*.json | grep -c ':1$' >"$WORK/stacked"
[[ $(cat "$WORK/stacked") == 2 ]] || fail "$(cat "$WORK/stacked") images stand on the shared mount, not 2"

pair=$(cri start "$REGISTRY/test/v3:1" -- sh -c 'sleep 1.5; find /usr -type f -exec cat {} + | wc -c')
echo 3 >/proc/sys/vm/drop_caches
sleep 0.3
kill -9 "$AGENT_PID"
run_agent
cri wait "${pair#* }" >/dev/null
bytes=$(find "$WORK/unpacked3/usr" -type f -exec cat {} + | wc -c)
[[ $(cri logs "${pair#* }") == "$bytes" ]] || fail "after the agent's death: $(cri logs "${pair#* }"), should be $bytes"
cri rm "${pair% *}" >/dev/null
has_prefix || fail "the shared mount is gone after the agent's death"
run_variant 3

for i in 1 2 3 4; do cri rmi "$REGISTRY/test/v$i:1"; done
no_mounts() { [[ $(lazy_mounts) == 1 ]]; }  # the devices' own
wait_for 40 no_mounts || fail "mounts stay after the last image: $(grep "$DATA_ROOT" /proc/self/mountinfo)"
log "two images stood on one mount of the shared layers; right before and after the agent's death; gone with the last"
