#!/usr/bin/env bash
# containerd 1.6 pulls through the proxy by hosts.toml: over CRI, with ctr and with ctr-remote; and what it does when the proxy
# challenges it.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/containerd.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"

start_registry
for image in one two three; do
  make_oci "$WORK/oci" "$image" "$image" 2 >/dev/null
  push_image "oci:$WORK/oci:$image" "team/$image:1"
done
proxy_with() {  # $1: more of the upstream
  start_proxy <<TOML
[upstreams."$REGISTRY"]
$1
TOML
}
proxy_with ""
MIRROR=$PROXY start_containerd overlayfs

log "CRI, ctr and ctr-remote, each through the proxy"
cri pull "$REGISTRY/team/one:1" >/dev/null
k8s_ctr images pull --hosts-dir "$CONTAINERD_DIR/certs.d" --snapshotter overlayfs "$REGISTRY/team/two:1" >/dev/null
if command -v ctr-remote >/dev/null; then
  ctr-remote --address "$CONTAINERD_SOCKET" --namespace k8s.io images pull --hosts-dir "$CONTAINERD_DIR/certs.d" \
    --snapshotter overlayfs "$REGISTRY/team/three:1" >/dev/null </dev/null
fi
python3 - "$REGISTRY_LOG" <<'PY'
import re, sys
agents = set(re.findall(r'"GET /v2/[^"]*/blobs/[^"]*" \d+ \d+ "[^"]*" "([^"]*)"', open(sys.argv[1]).read()))
assert agents and not any("containerd" in a or "ctr" in a for a in agents), agents
PY
k8s_ctr images ls -q | grep -c "$REGISTRY/team" >"$WORK/count"
[[ $(cat "$WORK/count") -ge 2 ]] || fail "images: $(k8s_ctr images ls -q)"

log "each image is converted once, whoever asks"
wait_for 60 eval '(( $(metric banyan_conversions_done_total) >= 2 ))'

log "a proxy that challenges: containerd goes on to the registry itself"
stop_containerd
kill "$PROXY_PID"; wait "$PROXY_PID" || fail "no clean end: $?"
proxy_with 'auth = "client"
endpoints = ["http://127.0.0.1:1"]'
MIRROR=$PROXY start_containerd overlayfs
cri pull "$REGISTRY/team/one:1" >/dev/null

log "a proxy that is away: the same"
stop_containerd
kill "$PROXY_PID"; wait "$PROXY_PID" || fail "no clean end: $?"
MIRROR=$PROXY start_containerd overlayfs
cri pull "$REGISTRY/team/two:1" >/dev/null
stop_containerd
log "passed"
