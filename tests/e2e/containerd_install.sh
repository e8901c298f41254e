#!/usr/bin/env bash
# What `banyan install --containerd` writes is what a real containerd of this machine then runs with; --uninstall gives the file
# back as it was.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lib/containerd.sh"

start_containerd overlayfs
config=$CONTAINERD_DIR/config.toml
cp "$config" "$WORK/before"
install() { "$BANYAN_BIN/banyan" install --containerd --config "$config" --snapshotter-socket "$WORK/s.sock" --registry r.example "$@" </dev/null; }

install --dry-run >"$WORK/diff"
cmp "$config" "$WORK/before" || fail "--dry-run wrote"
grep -F '+    snapshotter = "banyan"' "$WORK/diff" >/dev/null || fail "the diff does not show the change: $(cat "$WORK/diff")"
if install >/dev/null 2>&1; then fail "it wrote without being told --yes"; fi
install --yes
cp "$config" "$WORK/after"
install --yes >"$WORK/again"
cmp "$config" "$WORK/after" || fail "the second run changed something"

kill "$CONTAINERD_PID"
wait "$CONTAINERD_PID" || true
run_containerd
got=$(cri config | jq -c '[.containerd.snapshotter, .containerd.disableSnapshotAnnotations, .registry.configPath, .sandboxImage]')
[[ $got == "[\"banyan\",false,\"$CONTAINERD_DIR/certs.d\",\"$PAUSE_IMAGE\"]" ]] || fail "containerd runs with $got"
ctr --address "$CONTAINERD_SOCKET" plugins ls </dev/null | awk '$1 ~ /snapshotter/ && $2 == "banyan"' | grep . >/dev/null ||
  fail "containerd has no such proxy plugin"
# No agent listens at that socket: doctor must say so, and that the rest is right.
"$BANYAN_BIN/banyan" --data-root "$DATA_ROOT" --json doctor --config "$config" --containerd "$CONTAINERD_SOCKET" >"$WORK/doctor" &&
  fail "doctor finds nothing amiss without an agent"
jq -e '[.checks[] | select(.verdict == "fail") | .name] == ["agent"]' "$WORK/doctor" >/dev/null || fail "doctor: $(cat "$WORK/doctor")"

install --uninstall --yes
cmp "$config" "$WORK/before" || fail "--uninstall did not give the file back"
[[ ! -e $CONTAINERD_DIR/certs.d/r.example ]] || fail "--uninstall left hosts.toml"
