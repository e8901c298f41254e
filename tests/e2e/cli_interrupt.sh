#!/usr/bin/env bash
# cli_interrupt.sh: a convert that is ended in the middle leaves nothing that counts as whole, and the next one succeeds.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"

# Incompressible, so that conversion takes a while.
python3 - "$WORK" <<'PY'
import os, sys, tarfile
for i in range(3):
    with tarfile.open(f"{sys.argv[1]}/layer{i}.tar", "w") as tar:
        path = f"{sys.argv[1]}/payload"
        with open(path, "wb") as f:
            f.write(os.urandom(96 << 20))
        tar.add(path, f"data{i}")
PY
python3 -B "$SOURCE_DIR/tests/images/oci_layout.py" "$WORK/layout" big "$WORK"/layer{0,1,2}.tar
start_registry
push_image "oci:$WORK/layout:big" test/big:1
reference=docker://$REGISTRY/test/big:1
subject=$(registry_get /v2/test/big/manifests/1 | sha256sum | cut -c1-64)

artifact_exists() { registry_get "/v2/test/big/manifests/sha256-$subject" >/dev/null 2>&1; }
spooled() { [[ -n $(find "$DATA_ROOT/spool" -name "$1.data" -size +1M 2>/dev/null) ]]; }

# interrupted SIGNAL FILE STATUS: a convert gets SIGNAL when the spool file FILE has grown, and exits with STATUS.
interrupted() {
  local pid status=0
  "$BANYAN_BIN/banyan" --data-root "$DATA_ROOT" --plain-http --quiet convert "$reference" 2>"$WORK/error" </dev/null &
  pid=$!
  wait_for 30 spooled "$2" || fail "no spool file: $(cat "$WORK/error")"
  kill "-$1" "$pid"
  wait "$pid" || status=$?
  [[ $status == "$3" ]] || fail "SIG$1: status $status, $(cat "$WORK/error")"
  artifact_exists && fail "SIG$1: an artifact was pushed"
  return 0
}

log "SIGTERM in the first layer"
interrupted TERM 0 143
[[ -z $(ls "$DATA_ROOT/spool") ]] || fail "left in the spool: $(ls "$DATA_ROOT/spool")"
log "SIGINT in the second"
interrupted INT 1 130
[[ -z $(ls "$DATA_ROOT/spool") ]] || fail "left in the spool: $(ls "$DATA_ROOT/spool")"
log "kill -9 in the last"
rm -rf "$DATA_ROOT"
interrupted KILL 2 137
[[ -n $(ls "$DATA_ROOT/spool") ]] || fail "kill -9 came too late"

log "again"
banyan --quiet convert "$reference"
artifact_exists || fail "no artifact"
[[ -z $(ls "$DATA_ROOT/spool") ]] || fail "left in the spool: $(ls "$DATA_ROOT/spool")"
banyan --quiet verify "$reference"
log "ok"
