#!/usr/bin/env bash
# What running containers notice when something dies: `containerd_crash.sh agent|containerd|reboot|namespace|outage [FORM]`.
# FORM (file, loop, tree) is how images are mounted; default: what works here.
#
#   agent       kill -9 of the agent under containers that read, write, map and execute, twice in a row, then an upgrade
#               (SIGTERM and a new process): they go on, and every byte they have read is right
#   containerd  kill -9 of containerd: containers go on, the next one knows them and starts more
#   reboot      processes and mounts gone, state on disk, no network: what is on the node starts; one damaged snapshot and
#               one damaged mount record stop nothing else
#   namespace   the agent in a mount namespace of its own, joined to containerd's by an rshared mount; the namespace is killed
#               with all that is in it, and replaced, under load
#   outage      the registry goes after the mount: what is here works, a miss waits and then fails with EIO after
#               read_timeout, and works again when the registry is back
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lib/containerd.sh"

part=${1:?part} form=${2:-auto}
image=test/python:1
expected=$("$SOURCE_DIR/tests/images/make_image.sh" --unpacked python)

# Reads every file below ROOT/usr with many threads, maps a library, writes beside it, imports modules meanwhile; prints one digest
# over all that was read.
cat >"$WORK/load.py" <<'PY'
import concurrent.futures, hashlib, importlib, mmap, os, sys, threading, time
root, rounds, live = sys.argv[1], int(sys.argv[2]), len(sys.argv) > 3
files = sorted(os.path.join(d, n) for d, _, names in os.walk(root + "/usr") for n in names
               if os.path.isfile(os.path.join(d, n)) and not os.path.islink(os.path.join(d, n)))
files = [f for f in files if "__pycache__" not in f]
def digest(path):
    with open(path, "rb") as file:
        return path[len(root):] + hashlib.sha256(file.read()).hexdigest()
def imports():
    for name in ("json", "numpy", "numpy.linalg", "numpy.random", "sqlite3", "email", "http.client", "unittest"):
        importlib.import_module(name)
        time.sleep(0.3)
def write():
    with open("/written", "wb") as file:
        for i in range(400):
            file.write(bytes([i & 255]) * 4096)
            file.flush()
            time.sleep(0.005)
threads = [threading.Thread(target=f) for f in (imports, write)] if live else []
for thread in threads: thread.start()
total = hashlib.sha256()
for _ in range(rounds):
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        for line in pool.map(digest, files): total.update(line.encode())
largest = max(files, key=os.path.getsize)
with open(largest, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
    total.update(hashlib.sha256(mapped).digest())
for thread in threads: thread.join()
if live:
    with open("/written", "rb") as file:
        assert file.read() == b"".join(bytes([i & 255]) * 4096 for i in range(400)), "what was written is not there"
print(total.hexdigest())
PY

start_load() { cri start "$REGISTRY/$image" --name "$1" -- python3 -c "$(cat "$WORK/load.py")" "" "$2" live; }
# finish_load "POD CONTAINER" WANT
finish_load() {
  local pod=${1% *} container=${1#* } got
  cri wait "$container" >/dev/null || fail "$part: the container failed: $(cri logs "$container" | tail -5)"
  got=$(cri logs "$container")
  [[ $got == "$2" ]] || fail "$part: wrong bytes were read: '$got', should be '$2'"
  cri rm "$pod" >/dev/null
}
drop_caches() { echo 3 >/proc/sys/vm/drop_caches; }
want_of() { python3 "$WORK/load.py" "$expected" "$1"; }
set_up() {
  start_registry
  registry_pid=${STARTED[-1]}
  push_test_image python "$image"
  convert_image "$image"
  start_node_agent "[mount]
form = \"$form\"
${1:-}"
  start_containerd banyan
  pull_cri "$image" >/dev/null
}
running() { [[ $(cri ps 2>/dev/null | grep -c RUNNING) -ge $1 ]]; }

case $part in
  agent)
    set_up
    want=$(want_of 2)
    run_container "$image" -- true
    made=$(banyan --json ls | jq -r '.mounts[0].form')
    [[ $form == auto || $made == "$form" ]] || fail "the image is mounted in the form $made"
    for round in 1 2; do
      drop_caches
      first=$(start_load "a$round" 2)
      second=$(start_load "b$round" 2)
      # In flight when the agent dies: the registry answers nothing meanwhile.
      kill -STOP "$registry_pid"
      sleep 0.5
      kill -9 "$AGENT_PID"
      sleep 0.5
      run_agent
      kill -CONT "$registry_pid"
      finish_load "$first" "$want"
      finish_load "$second" "$want"
      log "round $round: two containers went on and read $(cd "$expected" && find usr -type f | wc -l) files twice, right"
    done
    drop_caches
    first=$(start_load c 2)
    for _ in 1 2; do
      sleep 0.4
      kill -9 "$AGENT_PID"
      run_agent
    done
    finish_load "$first" "$want"
    log "two kills within one run: right"
    drop_caches
    first=$(start_load d 2)
    sleep 0.4
    kill -TERM "$AGENT_PID"
    wait "$AGENT_PID" || true
    run_agent
    finish_load "$first" "$want"
    log "an upgrade: right"
    ;;

  containerd)
    set_up
    want=$(want_of 2)
    drop_caches
    first=$(start_load a 2)
    sleep 0.3
    kill -9 "$CONTAINERD_PID"
    sleep 0.5
    run_containerd
    running 1 || fail "the new containerd does not know the running container"
    second=$(start_load b 2)
    finish_load "$first" "$want"
    finish_load "$second" "$want"
    log "containerd killed: the container went on, another started"
    ;;

  reboot)
    set_up
    push_test_image node test/node:1
    convert_image test/node:1
    pull_cri test/node:1 >/dev/null
    # Twice: the second time what the first brought, only from the node.
    want=$(run_container "$image" -- python3 -c 'import numpy; print(numpy.arange(4).sum())')
    node=$(run_container test/node:1 -- node -e 'console.log("node", 6 * 7)')
    sleep 1.5  # the store's flush interval: a power cut may forget what is younger
    log "everything dies"
    kill -9 "$CONTAINERD_PID" "$AGENT_PID" "$KEEPER_PID"
    for pid in $(processes_of "$WORK"); do
      [[ $(cat "/proc/$pid/comm" 2>/dev/null) == containerd-shim* ]] && kill -9 "$pid"
    done
    wait "$CONTAINERD_PID" "$AGENT_PID" "$KEEPER_PID" 2>/dev/null || true
    while read -r mount; do umount -l "$mount"; done < <(mounts_below "$DATA_ROOT"; mounts_below "$CONTAINERD_DIR/state")
    [[ -z $(mounts_below "$DATA_ROOT") ]] || fail "mounts are left"
    kill "$registry_pid"
    wait "$registry_pid" 2>/dev/null || true
    rm -f "$WORK/keeper.sock" "$SNAPSHOTTER_SOCKET"
    # One damaged snapshot record of a third image, one damaged mount record.
    printf 'not a record' >"$DATA_ROOT/snapshots/meta/999999.json"
    printf '{"reference": 7}' >"$DATA_ROOT/mounts/$(printf 'f%.0s' {1..64}).json"
    "$BANYAN_BIN/banyan-keeper" --socket "$WORK/keeper.sock" >>"$WORK/keeper.log" 2>&1 </dev/null &
    KEEPER_PID=$!
    STARTED+=("$KEEPER_PID")
    wait_for 5 test -S "$WORK/keeper.sock"
    run_agent
    # Both have the base image's layer, which may be mounted by itself besides.
    images=$(banyan --json ls | jq '[.mounts[] | select(.directory | contains("/snapshots/"))] | length')
    [[ $images == 2 ]] || fail "not both images are mounted again: $(banyan ls)"
    drop_caches
    run_containerd
    got=$(run_container "$image" -- python3 -c 'import numpy; print(numpy.arange(4).sum())') || fail "python does not start without the network"
    [[ $got == "$want" ]] || fail "got '$got'"
    got=$(run_container test/node:1 -- node -e 'console.log("node", 6 * 7)') || fail "node does not start without the network"
    [[ $got == "$node" ]] || fail "got '$got'"
    grep -c 'damaged\|mount record' "$WORK/agent.log" >/dev/null || fail "the damaged records are not named in the log"
    log "after the reboot both images started without a network"
    ;;

  namespace)
    # containerd sees the data root through a shared mount; the agent gets it in a namespace of its own, as a pod with Bidirectional
    # propagation does.
    mkdir -p "$DATA_ROOT"
    mount --bind "$DATA_ROOT" "$DATA_ROOT"
    mount --make-rshared "$DATA_ROOT"
    run_agent() {
      # Everything else is private to the namespace; the data root stays shared with ours.
      unshare --mount --propagation unchanged --pid --fork --kill-child bash -c '
        mount --make-rprivate /proc; mount -t proc proc /proc
        exec "$@"' agent "$BANYAN_BIN/banyan-peer-agent" --config "$AGENT_CONFIG" >>"$WORK/agent.log" 2>&1 </dev/null &
      AGENT_PID=$!
      STARTED+=("$AGENT_PID")
      wait_for 15 agent_answers || fail "the agent does not answer: $(tail -5 "$WORK/agent.log")"
    }
    set_up
    want=$(want_of 2)
    for round in 1 2; do
      drop_caches
      first=$(start_load "a$round" 2)
      sleep 0.4
      kill -9 "$AGENT_PID"
      wait "$AGENT_PID" 2>/dev/null || true
      run_agent
      finish_load "$first" "$want"
    done
    second=$(start_load b 1)
    finish_load "$second" "$(want_of 1)"
    log "the agent's namespace was replaced twice under load: right"
    ;;

  outage)
    set_up $'[fetch]\nread_timeout = "6s"'
    library=$(cd "$expected" && find usr/lib -name 'liblapack.so.*' -type f | sort | head -n 1)
    pair=$(cri start "$REGISTRY/$image" -- sleep 600)
    container=${pair#* }
    run_in() { timeout 60 nsenter -t "$(k8s_ctr tasks ls | awk -v id="$container" '$1 == id { print $2 }')" -m "$@"; }
    run_in python3 -c 'import json' || fail "python does not run"
    kill -STOP "$registry_pid"
    run_in python3 -c 'import json' || fail "what is here does not work without the registry"
    begin=$SECONDS
    if run_in sha256sum "/$library" 2>"$WORK/error"; then
      fail "a miss was answered without a registry"
    fi
    grep 'Input/output error' "$WORK/error" >/dev/null || fail "not EIO: $(cat "$WORK/error")"
    waited=$((SECONDS - begin))
    ((waited >= 5)) || fail "EIO after $waited s, before read_timeout"
    kill -CONT "$registry_pid"
    want=$(sha256sum <"$expected/$library")
    recovered() { [[ $(run_in sha256sum "/$library" | cut -d' ' -f1) == "${want%% *}" ]]; }
    wait_for 30 recovered || fail "it does not come back by itself"
    log "registry gone: EIO after $waited s (read_timeout 6 s), and back by itself"
    cri rm "${pair% *}" >/dev/null
    ;;
  *) fail "unknown part $part" ;;
esac
