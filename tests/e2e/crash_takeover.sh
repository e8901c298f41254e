#!/usr/bin/env bash
# crash_takeover.sh [--no-resend]: kill -9 of the agent while 256 readers, a mapping and a running program read a cold image.
#
# The registry is stopped (SIGSTOP) when the readers begin, so their reads are in flight when the agent dies. Twice in a row; then
# every read must have ended with right bytes. The keeper starts the successors; nobody helps them.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"

[[ ${1:-} != --no-resend ]] || export BANYAN_FUSE_RESEND=0
layout=$("$SOURCE_DIR/tests/images/make_image.sh" python)
expected=$("$SOURCE_DIR/tests/images/make_image.sh" --unpacked python)
start_registry
registry_pid=${STARTED[-1]}
push_image "$layout" test/python:1
reference=docker://$REGISTRY/test/python:1
banyan --quiet convert "$reference"
banyan mount "$reference" "$WORK/view"

agent_pid() { pgrep -f "^[^ ]*banyan-peer-agent --data-root $DATA_ROOT" | head -n 1; }
new_agent() { local pid; pid=$(agent_pid) && [[ -n $pid && $pid != "$1" ]]; }

# The running program: it imports numpy piece by piece while all this goes on.
cat >"$WORK/program.py" <<'PY'
import importlib, time
for name in ("json", "numpy", "numpy.linalg", "numpy.fft", "numpy.random", "sqlite3", "email", "http.client", "unittest"):
    importlib.import_module(name)
    time.sleep(0.3)
print("program done")
PY

for round in 1 2; do
  echo 3 >/proc/sys/vm/drop_caches
  "$(dirname "$COMPARE_TREES")/read_storm" --expected "$expected" --view "$WORK/view" --readers 256 --reads 12 \
    --mapped "$(cd "$expected" && find usr/lib -name 'libopenblas*' -type f -o -name 'libpython3*' -type f | sort | head -n 1)" \
    --ready "$WORK/ready.$round" >"$WORK/storm.$round" 2>&1 &
  storm=$!
  chroot "$WORK/view" /usr/bin/python3 - <"$WORK/program.py" >"$WORK/program.$round" 2>&1 &
  program=$!
  wait_for 60 test -e "$WORK/ready.$round"
  kill -STOP "$registry_pid"
  sleep 0.3
  old=$(agent_pid)
  log "round $round: killing agent $old"
  kill -9 "$old"
  wait_for 15 new_agent "$old"
  kill -CONT "$registry_pid"
  wait "$storm" || { cat "$WORK/storm.$round" "$DATA_ROOT/agent.log"; fail "round $round: reads went wrong"; }
  wait "$program" || { cat "$WORK/program.$round"; fail "round $round: the program died"; }
  grep -q "program done" "$WORK/program.$round" || fail "round $round: the program did not finish"
  log "round $round: $(cat "$WORK/storm.$round")"
done

# Two crashes within one storm, the second before the first successor has answered everything.
echo 3 >/proc/sys/vm/drop_caches
"$(dirname "$COMPARE_TREES")/read_storm" --expected "$expected" --view "$WORK/view" --readers 256 --reads 12 \
  --ready "$WORK/ready.3" >"$WORK/storm.3" 2>&1 &
storm=$!
wait_for 60 test -e "$WORK/ready.3"
for kill in 1 2; do
  old=$(agent_pid)
  kill -9 "$old"
  wait_for 15 new_agent "$old"
done
wait "$storm" || { cat "$WORK/storm.3" "$DATA_ROOT/agent.log"; fail "two crashes in a row: reads went wrong"; }
log "two crashes in a row: $(cat "$WORK/storm.3")"
"$COMPARE_TREES" "$expected" "$WORK/view"
banyan umount "$WORK/view"
