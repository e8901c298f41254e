#!/usr/bin/env bash
# Banyan is taken off a node beside a running container whose image it serves: `banyan install --uninstall`, a restart of containerd, then what a removal of
# the packages does (their own prerm scripts, then their programs go). The container reads on all the while, also what nobody has read before.
# tests/packages has the same with dpkg and systemd, and a plain process in the container's place.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lib/containerd.sh"

scripts=$(dirname "$BANYAN_BIN")/debian
image=test/python:1
expected=$("$SOURCE_DIR/tests/images/make_image.sh" --unpacked python)
# Programs that can be removed.
mkdir "$WORK/installed" "$WORK/bin"
cp "$BANYAN_BIN"/banyan{,-keeper,-peer-agent} "$WORK/installed"
built=$BANYAN_BIN BANYAN_BIN=$WORK/installed

start_registry
push_test_image python "$image"
convert_image "$image"
start_node_agent
SNAPSHOTTER_SOCKET='' start_containerd overlayfs
config=$CONTAINERD_DIR/config.toml
cp "$config" "$WORK/before"
install() { "$1/banyan" install --containerd --config "$config" --snapshotter-socket "$SNAPSHOTTER_SOCKET" --mirror "$MIRROR" --registry r.example --yes "${@:2}" </dev/null >/dev/null; }
# As systemctl restart does: containers are not containerd's to end.
restart_containerd() {
  kill "$CONTAINERD_PID"
  wait "$CONTAINERD_PID" || true
  run_containerd
}

log "installed, with a container that reads"
install "$BANYAN_BIN"
restart_containerd
pull_cri "$image" >/dev/null
mapfile -t files < <(cd "$expected" && find usr/lib -type f -name '*.so*' -size +300k | sort | head -n 6)
((${#files[@]} == 6)) || fail "the image has only ${#files[@]} libraries"
cat >"$WORK/reader.py" <<'PY'
import hashlib, os, sys, time
wanted, rounds = None, 0
while True:
    with open(sys.argv[1], "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        digest = hashlib.file_digest(file, "sha256").digest()
    wanted = wanted or digest
    if digest != wanted: sys.exit("wrong bytes")
    rounds += 1
    with open("/rounds.new", "w") as file: file.write(f"{rounds}\n")
    os.rename("/rounds.new", "/rounds")
    time.sleep(0.02)
PY
pod=$(cri start "$REGISTRY/$image" -- python3 -c "$(cat "$WORK/reader.py")" "/${files[0]}")
container=${pod#* } pod=${pod% *}
pid=$(k8s_ctr tasks ls | awk -v id="$container" '$1 == id { print $2 }')
[[ -n $pid ]] || fail "the container does not run: $(cri logs "$container")"
(($(lazy_mounts) > 0)) || fail "the image is not mounted lazily"
rounds() { cat "/proc/$pid/root/rounds" 2>/dev/null || echo 0; }
# What the agent has been asked for.
reads() { python3 -c "import urllib.request as u; print(u.urlopen('http://$MIRROR/metrics', timeout=10).read().decode())" | awk '/^banyan_reads_total/ { sum += $2 } END { printf "%d\n", sum }'; }
# reads_on WHEN: whole rounds, and a file that has not been read before, from the agent.
fresh=0
reads_on() {
  local from asked want got
  from=$(rounds) asked=$(reads) fresh=$((fresh + 1))
  want=$(sha256sum <"$expected/${files[fresh]}")
  got=$(timeout 30 nsenter --target "$pid" --mount sha256sum "/${files[fresh]}") || fail "$1 /${files[fresh]} cannot be read"
  [[ ${got%% *} == "${want%% *}" ]] || fail "$1 /${files[fresh]} has other bytes"
  wait_for 30 eval "(( \$(rounds) >= $from + 3 ))" || fail "the container does not read on $1: $(cri logs "$container")"
  (($(reads) > asked)) || fail "$1 nobody asks the agent"
}
reads_on "at first"

log "banyan install --uninstall"
install "$BANYAN_BIN" --uninstall
cmp "$config" "$WORK/before" || fail "--uninstall did not give the configuration back"
restart_containerd
known() { cri ps | grep "$container" | grep RUNNING; }
wait_for 10 known || fail "the new containerd does not know the container: $(cri ps)"
reads_on "after containerd has lost the snapshotter"

log "removal of the packages"
cat >"$WORK/bin/deb-systemd-invoke" <<SH
#!/bin/sh
case "\$*" in
"stop banyan-peer-agent.service") kill $AGENT_PID ;;
"stop banyan-keeper.service") kill $KEEPER_PID ;;
esac
SH
chmod +x "$WORK/bin/deb-systemd-invoke"
# prerm PACKAGE: as on a machine that systemd runs, and whose agent this is.
prerm() {
  # shellcheck disable=SC2016
  PATH=$WORK/bin:$PATH unshare --mount --propagation private sh -euc '
    mount -t tmpfs tmpfs /run
    mkdir -p /run/systemd/system
    config=$(cat "$1")
    mount -t tmpfs tmpfs /etc
    mkdir /etc/banyan
    echo "$config" >/etc/banyan/peer-agent.toml
    exec "$2" remove' - "$AGENT_CONFIG" "$scripts/$1/prerm"
}
for package in banyan-peer-agent banyan-keeper; do
  prerm "$package" 2>"$WORK/prerm" || fail "$package: $(cat "$WORK/prerm")"
  grep -q "$package.service runs on" "$WORK/prerm" || fail "$package: its removal does not say that it runs on: $(cat "$WORK/prerm")"
done
rm "$BANYAN_BIN"/*
for process in "$AGENT_PID" "$KEEPER_PID"; do
  [[ $(readlink "/proc/$process/exe") == *"(deleted)" ]] || fail "process $process does not run without its program"
done
reads_on "after the removal"
restart_containerd
reads_on "after one more restart of containerd"

log "installed again, the container can be taken away"
install "$built"
restart_containerd
cri rm "$pod" >/dev/null || fail "the container cannot be removed"
log "all well"
