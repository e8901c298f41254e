#!/usr/bin/env bash
# Pull-through and conversion on first pull: an image that was never converted is pulled as it is, and starts lazily seconds
# later, with no command run by hand in between. Signatures; shared layers; kill -9; an upstream that is away.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"

start_registry
for image in one two never; do
  make_oci "$WORK/oci" "$image" "$image" 4 >/dev/null
  push_image "oci:$WORK/oci:$image" "team/$image:1"
done
"$BANYAN_BIN/banyan" keys generate --dir "$WORK/keys" --quiet
[[ $(stat -c %a "$WORK/keys/signing.pem") == 600 ]] || fail "the private key is readable"
start_converting() {
  start_proxy <<TOML
[mirror]
default_upstream = "$REGISTRY"
tag_lifetime = "1s"
[convert]
never = ["*/never"]
[sign]
key_file = "$WORK/keys/signing.pem"
[upstreams."$REGISTRY"]
TOML
}
start_converting

log "an unsigned artifact at the upstream counts for nothing"
banyan convert --quiet "docker://$REGISTRY/team/one:1"

log "first pull: as it is; then converted, signed and listed"
skopeo_ copy --quiet --src-tls-verify=false "docker://$PROXY/team/one:1" "oci:$WORK/out:one"
wait_converted 1 || fail "not converted: $(tail -5 "$PROXY_LOG")"
[[ $(metric banyan_untrusted_artifacts_total) == 1 ]] || fail "the unsigned artifact was not noticed"
expect 200 GET /v2/team/one/manifests/1
DIGEST=$(header docker-content-digest)
expect 200 GET "/v2/team/one/referrers/$DIGEST?artifactType=application/vnd.banyan.image.v1"
signed() { python3 -c "
import json
print(sum('vnd.banyan.signature' in m.get('annotations', {}) for m in json.load(open('$WORK/body'))['manifests']))"; }
[[ $(signed) == 1 ]] || fail "no signed artifact: $(cat "$WORK/body")"

log "and the next start is lazy, through the proxy"
banyan run "docker://$PROXY/team/one:1" -- /bin/true
mkdir "$WORK/mnt"
banyan mount "docker://$PROXY/team/one:1" "$WORK/mnt"
cmp "$WORK/mnt/bin/true" "$WORK/true"
[[ $(cat "$WORK/mnt/seed.txt") == one ]] || fail "wrong content"
cmp "$WORK/mnt/own.bin" <(python3 -c "
import random, sys
sys.stdout.buffer.write(random.Random('one').randbytes(4 * 1048576))")
banyan umount "$WORK/mnt"

log "a second image converts only the layer that the first has not"
expect 200 GET /v2/team/two/manifests/1
wait_converted 2 || fail "not converted: $(tail -5 "$PROXY_LOG")"
[[ $(metric banyan_converted_layers_total) == 3 && $(metric banyan_reused_layers_total) == 1 ]] ||
  fail "layers: $(metric banyan_converted_layers_total) converted, $(metric banyan_reused_layers_total) reused"

log "the policy; the list"
expect 200 GET /v2/team/never/manifests/1
LIST=$("$BANYAN_BIN/banyan" conversions --proxy "$STATUS" --json)
python3 - "$LIST" <<'PY'
import json, sys
found = {(c["repository"], c["state"]): c for c in json.loads(sys.argv[1])}
assert set(found) == {("team/one", "done"), ("team/two", "done")}, found
assert all(c["layers_done"] == c["layers"] == 2 and c["bytes_done"] == c["bytes"] for c in found.values()), found
assert all(c["chunks"] > 0 and c["blob_bytes"] > 0 for c in found.values()), found
assert sorted(c["layers_reused"] for c in found.values()) == [0, 1], found
assert sorted(c["shared_chunks"] > 0 and c["shared_bytes"] > 0 for c in found.values()) == [False, True], found
PY

log "the upstream goes away: what was pulled is served, artifacts too"
kill -STOP "${STARTED[0]}"
sleep 1.2
expect 200 GET /v2/team/one/manifests/1
stop_agents "$WORK/data"
while read -r mount; do umount -l "$mount"; done < <(mounts_below "$WORK/data")
rm -rf "$WORK/data"
kill -CONT "${STARTED[0]}"

log "killed with -9 in the middle of a conversion: it goes on by itself after the restart"
make_oci "$WORK/oci" large large 120 >/dev/null
push_image "oci:$WORK/oci:large" "team/large:1"
expect 200 GET /v2/team/large/manifests/1
LARGE=$(header docker-content-digest)
wait_for 10 eval '[[ $(metric banyan_conversions_running) == 1 ]]'
sleep 0.3
kill -9 "$PROXY_PID"
wait "$PROXY_PID" 2>/dev/null || true
[[ -n $(ls "$WORK/proxy/conversions/queue") ]] || fail "the queue was not kept (or the conversion was too quick)"
start_converting
wait_converted 1 90 || fail "not taken up: $(tail -5 "$PROXY_LOG")"
[[ -z $(ls "$WORK/proxy/conversions/queue") ]] || fail "the queue is not empty"
expect 200 GET "/v2/team/large/referrers/$LARGE"
[[ $(signed) == 1 ]] || fail "no artifact: $(cat "$WORK/body")"
banyan verify --quiet "docker://$PROXY/team/large:1"
log "passed"
