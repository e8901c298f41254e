#!/usr/bin/env bash
# Removing an image gives its space back: containerd's garbage collector removes the snapshots, with what was unpacked into them, and
# the agent the mount. Chunks stay in the store, as a cache within its budget. What another image shares stays and works.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lib/containerd.sh"

start_registry
push_test_image python lazy/python:1
push_test_image base lazy/base:1
convert_image lazy/python:1
convert_image lazy/base:1
push_test_image node plain/node:1
start_node_agent
start_containerd banyan
idle_snapshots=$(snapshot_count)
# Without what is mounted there; directories go while it counts.
used() { { du -sx --block-size=1 "$DATA_ROOT" 2>/dev/null || true; } | cut -f1; }
snapshots_are() { (($(snapshot_count) <= $1)); }
no_mounts() { [[ $(banyan --json info | jq .mounts) == 0 ]]; }
sync; before=$(used)

for image in lazy/python:1 lazy/base:1 plain/node:1; do pull_cri "$image"; done
run_container lazy/python:1 -- python3 -c 'import numpy; print(numpy.__version__)'
run_container lazy/base:1 -- sh -c 'ls -lR /usr | wc -l'
run_container plain/node:1 -- node -e 'console.log(1)'
sync; during=$(used)
log "on disk: $before bytes before, $during with three images"
((during > before + 50000000)) || fail "the unpacked image takes no space? nothing to give back"

cri rmi "$REGISTRY/lazy/python:1" "$REGISTRY/plain/node:1"
# The base image's layer is its own chain: it may be the same snapshot as python's lowest.
wait_for 60 snapshots_are $((idle_snapshots + 1)) || fail "snapshots stay: $(k8s_ctr snapshots --snapshotter banyan ls)"
run_container lazy/base:1 -- sh -c 'cat /usr/bin/perl >/dev/null && echo still there' || fail "the image that shares a layer is broken"
cri rmi "$REGISTRY/lazy/base:1"
wait_for 60 snapshots_are "$idle_snapshots" || fail "snapshots stay: $(k8s_ctr snapshots --snapshotter banyan ls)"
wait_for 30 no_mounts || fail "mounts stay: $(banyan ls)"
sync; after=$(used)
log "on disk: $after bytes after rmi and garbage collection, of them $(du -sx --block-size=1 "$DATA_ROOT/store" | cut -f1) in the store"
unpacked=$(du -sx --block-size=1 "$DATA_ROOT/snapshots" | cut -f1)
((unpacked < 2000000)) || fail "$unpacked bytes of snapshots stay: $(du -ax "$DATA_ROOT/snapshots" | sort -n | tail -4)"
((after < during - 50000000)) || fail "hardly anything was given back"
log "drop: $(banyan drop)"

# And all of it once more, from nothing.
pull_cri lazy/python:1
[[ $(run_container lazy/python:1 -- python3 -c 'print(6 * 7)') == 42 ]] || fail "the image does not start any more after it was removed"
