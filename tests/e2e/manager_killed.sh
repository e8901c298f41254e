#!/usr/bin/env bash
# The tree-manager is killed: nodes go on with the parents that they have, also across a restart of their own, and an image that nobody has comes from the proxy.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"
source "$SOURCE_DIR/tests/lib/cluster.sh"
command -v jq >/dev/null || { echo "needs jq"; exit $SKIP; }

start_registry
for tag in one two; do
  make_oci "$WORK/oci" "$tag" "$tag" 8 >/dev/null
  push_image "oci:$WORK/oci:$tag" "app:$tag"
  DATA_ROOT=$WORK/converter banyan --quiet convert "docker://$REGISTRY/app:$tag"
done
start_proxy_of_registry
start_manager
start_peer a
start_peer b
# right DIRECTORY TAG: the file there has the image's bytes.
right() {
  [[ $(sha256sum "$1/own.bin" | cut -d' ' -f1) == \
    "$(python3 -c 'import hashlib, random, sys; print(hashlib.sha256(random.Random(sys.argv[1]).randbytes(8 << 20)).hexdigest())' "$2")" ]]
}
# received SOURCE: compressed bytes that node b's agent has received from there since it began.
received() { page "${HTTP_OF[b]}" /metrics | awk -v source="source=\"$1\"" '/^banyan_fetch_bytes_total/ && index($1, source) { sum += $2 } END { printf "%d\n", sum }'; }
metric() { page "${HTTP_OF[b]}" /metrics | sed -n "s/^$1 //p"; }
shows() { [[ $(metric "$1") == "$2" ]]; }

for node in a b; do on "$node" banyan --quiet mount "docker://$REGISTRY/app:one" "$WORK/$node.view"; done
right "$WORK/a.view" one || fail "node a reads something else"
wait_for 20 shows banyan_peer_functions_fed 1 || fail "nobody feeds node b: $(banyan tree --manager "$MANAGER" --token-file "$TOKEN" "$REGISTRY/app:one")"

log "the manager is killed"
kill -9 "$MANAGER_PID"
wait "$MANAGER_PID" 2>/dev/null || true
wait_for 10 shows banyan_peer_session 0 || fail "node b does not miss it"
log "node b dies as well, with all that it has fetched; its next agent knows its parents"
old=$(on b banyan --json info | jq .pid)
kill -9 "${KEEPER_OF[b]}" "$old"
wait "${KEEPER_OF[b]}" 2>/dev/null || true
wait_for 10 bash -c "! kill -0 $old" || fail "node b's agent does not die"
umount -l "$WORK/b.view" 2>/dev/null || true
rm -r "$WORK/b/data/store"
start_peer b
wait_for 20 mountpoint -q "$WORK/b.view" || fail "the next agent does not mount the image: $(tail -3 "$WORK/b/agent.log")"
[[ $(metric banyan_peer_session) == 0 ]] || fail "a manager answers"
wait_for 5 shows banyan_peer_functions_fed 1 || fail "it has forgotten its parents: $(tail -3 "$WORK/b/agent.log")"
right "$WORK/b.view" one || fail "node b reads something else"
(($(received parent) + $(received spare) > 0)) || fail "from peers came $(received parent) and $(received spare) bytes"

log "an image that nobody has"
before=$(received mirror)
on b banyan --quiet mount "docker://$REGISTRY/app:two" "$WORK/two.view"
right "$WORK/two.view" two || fail "node b reads something else of the new image"
(($(received mirror) > before)) || fail "from the proxy came $(received mirror), $before of them before"
for view in "$WORK/b.view" "$WORK/two.view"; do on b banyan --quiet umount "$view"; done
on a banyan --quiet umount "$WORK/a.view"
log "from peers $(received parent) and $(received spare) bytes, from the proxy $(received mirror)"
