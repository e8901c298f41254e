#!/usr/bin/env bash
# killed.sh: kill -9 of the keeper, and of `banyan run`.
#
# The agent gives the next keeper what the dead one held, so that its own death is survived again; if both are dead reads fail, and the next agent mounts the
# image anew. The mount of a `banyan run` that was killed goes with it.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"
source "$SOURCE_DIR/tests/lib/cluster.sh"
command -v jq >/dev/null || { echo "needs jq"; exit $SKIP; }

# Stays for as long as its standard input.
gcc -x c -static -O1 -o "$WORK/true" - <<<'#include <unistd.h>
int main(void) { char c; while (read(0, &c, 1) > 0) {} return 0; }'
start_registry
make_oci "$WORK/oci" app one 8 >/dev/null
push_image "oci:$WORK/oci:app" app:1
DATA_ROOT=$WORK/converter banyan --quiet convert "docker://$REGISTRY/app:1"
image=docker://$REGISTRY/app:1
own=$(python3 -c 'import hashlib, random; print(hashlib.sha256(random.Random("one").randbytes(8 << 20)).hexdigest())')

METRICS=127.0.0.1:$(free_port)
mkdir -p "$DATA_ROOT"
printf 'data_root = "%s"\nkeeper_socket = "%s/keeper.sock"\n[mirror]\naddress = "%s"\n' "$DATA_ROOT" "$WORK" "$METRICS" >"$WORK/agent.toml"
start_keeper() {
  "$BANYAN_BIN/banyan-keeper" --socket "$WORK/keeper.sock" >>"$WORK/keeper.log" 2>&1 </dev/null &
  KEEPER=$!
  STARTED+=("$KEEPER")
  wait_for 5 python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(sys.argv[1])' "$WORK/keeper.sock" ||
    fail "no keeper: $(cat "$WORK/keeper.log")"
}
start_agent() {
  "$BANYAN_BIN/banyan-peer-agent" --config "$WORK/agent.toml" >>"$WORK/agent.log" 2>&1 </dev/null &
  AGENT=$!
  STARTED+=("$AGENT")
  wait_for 20 banyan info || fail "the agent does not start: $(tail -3 "$WORK/agent.log")"
}
killed() { kill -9 "$1"; wait "$1" 2>/dev/null || true; }
metric() { page "$METRICS" /metrics | sed -n "s/^$1 //p"; }
shows() { [[ $(metric "$1") == "$2" ]]; }
right() { [[ $(sha256sum "$WORK/view/own.bin" | cut -d' ' -f1) == "$own" ]]; }
start_keeper
start_agent
banyan --quiet mount "$image" "$WORK/view"
shows banyan_keeper_sessions 1 || fail "the keeper holds $(metric banyan_keeper_sessions) sessions"

log "the keeper is killed"
killed "$KEEPER"
head -c 1M "$WORK/view/own.bin" >/dev/null || fail "the mount does not go on"
wait_for 5 shows banyan_keeper_connected 0 || fail "the agent does not miss it"
start_keeper
wait_for 5 shows banyan_keeper_sessions 1 || fail "the next keeper was given nothing: $(tail -3 "$WORK/agent.log")"
log "the agent is killed: the new keeper has its sessions"
echo 3 >/proc/sys/vm/drop_caches
killed "$AGENT"
sha256sum "$WORK/view/own.bin" >"$WORK/read" &
reader=$!
start_agent
wait "$reader" || fail "a read failed"
[[ $(cut -d' ' -f1 "$WORK/read") == "$own" ]] || fail "the read that waited for the next agent has other bytes"

log "\`banyan run\` is killed"
mkfifo "$WORK/input"
"$BANYAN_BIN/banyan" --data-root "$DATA_ROOT" --plain-http --quiet run "$image" <"$WORK/input" 2>"$WORK/run.log" &
run=$!
STARTED+=("$run")
exec 3>"$WORK/input"
running() { [[ $(banyan --json ls | jq '.mounts | length') == "$1" ]]; }
wait_for 20 running 2 || fail "it does not run: $(cat "$WORK/run.log")"
killed "$run"
wait_for 10 running 1 || fail "its image is still mounted: $(mounts_below "$DATA_ROOT/runs")"
exec 3>&-
[[ -z $(mounts_below "$DATA_ROOT/runs") ]] || fail "left mounted: $(mounts_below "$DATA_ROOT/runs")"
right || fail "the other mount went with it"

log "keeper and agent are killed: reads fail until the next agent mounts the image anew"
killed "$KEEPER"
killed "$AGENT"
echo 3 >/proc/sys/vm/drop_caches
if right 2>/dev/null; then fail "it is read without anyone who could answer"; fi
start_keeper
start_agent
wait_for 10 right || fail "the next agent does not mount it: $(tail -3 "$WORK/agent.log")"
banyan --quiet umount "$WORK/view"
log "all well"
