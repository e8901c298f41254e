#!/usr/bin/env bash
# What needs the layers of an image that was pulled lazily (`ctr images export`, `push`) says so, and works once they were fetched
# through the mirror (docs/protocol.md).
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lib/containerd.sh"

start_registry
push_test_image base test/base:1
convert_image test/base:1
start_node_agent
start_containerd banyan
pull_cri test/base:1 >/dev/null
reference=$REGISTRY/test/base:1

if k8s_ctr images export "$WORK/out.tar" "$reference" 2>"$WORK/error"; then fail "exported what is not here"; fi
grep 'content digest sha256:.*not found' "$WORK/error" >/dev/null || fail "an unclear refusal: $(cat "$WORK/error")"
k8s_ctr content fetch --hosts-dir "$CONTAINERD_DIR/certs.d" "$reference" >/dev/null
k8s_ctr images export "$WORK/out.tar" "$reference"
k8s_ctr images push --plain-http "$REGISTRY/test/again:1" "$reference" >/dev/null
[[ $(layer_digests test/again:1) == $(layer_digests test/base:1) ]] || fail "the pushed image has other layers"
mkdir "$WORK/exported"
tar -C "$WORK/exported" -xf "$WORK/out.tar"
for layer in $(layer_digests test/base:1); do
  [[ $(sha256sum <"$WORK/exported/blobs/sha256/${layer#sha256:}") == "${layer#sha256:} "* ]] || fail "layer $layer was not exported"
done
upstream=$(python3 -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())' "http://$MIRROR/metrics" |
  awk '$1 == "banyan_mirror_upstream_bytes_total" { printf "%d", $2 }')
((upstream > 1000000)) || fail "the layers did not come through the mirror"
log "export and push: refused without the layers, right with them"
