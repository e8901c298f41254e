#!/usr/bin/env bash
# A swarm that loses its seed and two of its five leeches, with a peer that sends garbage, a tracker that is restarted, a node whose
# disk is full and one whose port is taken, while a node reads the same blob by the trees: what nodes hold is right at any
# time, whoever is left ends with the whole blob, and no agent goes down.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/swarm.sh"
command -v jq >/dev/null || { echo "needs jq"; exit $SKIP; }
GARBAGE_PEER=$SOURCE_DIR/tests/tools/garbage_peer.py
PIECE_BYTES=$((1 << 20))
# Slow enough that mishaps fall into the middle.
SLOW='uplink = "1MiB"'
for i in 2 3 4 5 6 7 8; do ip address add 10.213.77.$i/24 dev lo; done

start_registry
convert_image 8
start_manager
start_agent seed swarm 10.213.77.2 "" "$SLOW"
pull_on seed

# To the address that the next agent is told of; its port is another's.
TAKEN=10.213.77.4:$(free_port)
python3 -c 'import socket, sys, time; host, port = sys.argv[1].split(":"); s = socket.create_server((host, int(port))); time.sleep(1000)' "$TAKEN" &
STARTED+=("$!")
SECRET=$(printf 'banyan tracker\n%s' "$TOKEN" | sha256sum | cut -c1-32)
"$GARBAGE_PEER" 10.213.77.8 "$TRACKER/$SECRET/announce" "$INFO_HASH" "$(stat -c %s "$WORK/blob")" "$PIECE_BYTES" \
  >"$WORK/garbage.log" 2>&1 </dev/null &
STARTED+=("$!")
wait_for 10 bash -c "exec 3<>/dev/tcp/${TAKEN/://}" || fail "nobody took $TAKEN"

mkdir "$WORK/full"
mount -t tmpfs -o size=64m none "$WORK/full"
start_agent reader hybrid 10.213.77.3 "" "$SLOW"
start_agent taken hybrid 10.213.77.4 "$TAKEN" "$SLOW"
start_agent full hybrid 10.213.77.5 "" "$SLOW"
start_agent dies1 hybrid 10.213.77.6 "" "$SLOW"
start_agent dies2 hybrid 10.213.77.7 192.0.2.1:6881 "$SLOW"  # an address of no interface here
dd if=/dev/zero of="$WORK/full/filler" bs=64k 2>/dev/null || true
truncate -s -3M "$WORK/full/filler"

log "five nodes begin, beside one that sends garbage"
declare -A PULLS
for name in reader taken full dies1 dies2; do
  pull_on "$name" >"$WORK/$name.pull" 2>&1 &
  PULLS[$name]=$!
done
[[ $(agent_metric dies2 banyan_swarm_listening) == 0 ]] || fail "it listens on an address that it does not have"
mkdir "$WORK/view"
agent reader --quiet mount "docker://$REGISTRY/app:1" "$WORK/view"
wait_for 20 grep '^sent' "$WORK/garbage.log" || fail "nobody asked the garbage peer: $(cat "$WORK/garbage.log")"
wait_for 20 metric_over reader banyan_swarm_committed_bytes_total 0 || fail "nothing by swarm: $(tail -5 "$WORK/reader.log")"
check_agent reader

log "the seed, two of the five and the manager are killed"
# shellcheck disable=SC2154
kill -9 "$PID_seed" "$PID_dies1" "$PID_dies2" "$MANAGER_PID"
for pid in "$PID_seed" "$PID_dies1" "$PID_dies2" "$MANAGER_PID"; do wait "$pid" 2>/dev/null || true; done
log "one reads by the trees meanwhile"
tail -c 3M "$WORK/view/own.bin" | cmp - <(python3 -c 'import random, sys; sys.stdout.buffer.write(random.Random("seed").randbytes(8 << 20)[-3 << 20:])') ||
  fail "read something else"
check_agent reader
check_agent taken
start_manager
log "the full disk gets room"
wait_for 30 metric_over full banyan_swarm_failures_total 0 || fail "the disk was not full"
check_agent full
kill -0 "${PULLS[full]}" 2>/dev/null || fail "all of it is on a disk without the room"
rm "$WORK/full/filler"
for name in reader taken; do
  wait "${PULLS[$name]}" || fail "$name does not end: $(cat "$WORK/$name.pull"; tail -5 "$WORK/$name.log")"
  check_blob "$name"
done

wait "${PULLS[full]}" || fail "full does not end: $(cat "$WORK/full.pull"; tail -5 "$WORK/full.log")"
check_blob full

log "garbage: $(tail -1 "$WORK/garbage.log"); refused by the reader: $(agent_metric reader banyan_swarm_failed_bytes_total) bytes"
# shellcheck disable=SC2154
for pid in "$PID_reader" "$PID_taken" "$PID_full"; do kill -0 "$pid" || fail "an agent went down"; done
umount "$WORK/view"
log passed
