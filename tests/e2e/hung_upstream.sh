#!/usr/bin/env bash
# 500 reads of an image whose registry hangs delay no read of another image, and the hung image can be unmounted within 5 s.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"

hung_layout=$("$SOURCE_DIR/tests/images/make_image.sh" node)
good_layout=$("$SOURCE_DIR/tests/images/make_image.sh" adversarial-umoci)
good_expected=$("$SOURCE_DIR/tests/images/make_image.sh" --unpacked adversarial-umoci)

start_registry
good=docker://$REGISTRY/test/good:1
push_image "$good_layout" test/good:1
banyan --quiet convert "$good"
mkdir "$WORK/second"
WORK=$WORK/second start_registry
hung_registry=${STARTED[-1]}
hung=docker://$REGISTRY/test/hung:1
push_image "$hung_layout" test/hung:1
banyan --quiet convert "$hung"

banyan mount "$hung" "$WORK/hung"
banyan mount "$good" "$WORK/good"
kill -STOP "$hung_registry"
trap 'kill -CONT "$hung_registry" 2>/dev/null; clean_up' EXIT

# 500 readers, each of a file of its own.
python3 - "$WORK/hung" "$WORK/readers" <<'PY' &
import os, sys, threading
root, report = sys.argv[1:]
files = []
for directory, _, names in os.walk(root):
    for name in names:
        path = os.path.join(directory, name)
        if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) > 0:
            files.append(path)
step = max(1, len(files) // 500)
chosen = files[::step][:500]
results = []
def read(path):
    try:
        with open(path, "rb") as file:
            file.read(4096)
        results.append("read")
    except OSError as error:
        results.append(error.strerror)
threads = [threading.Thread(target=read, args=(path,)) for path in chosen]
for thread in threads:
    thread.start()
open(report + ".begun", "w").close()
for thread in threads:
    thread.join()
with open(report, "w") as out:
    out.write(f"{len(chosen)} readers: " + ", ".join(f"{results.count(r)} {r}" for r in sorted(set(results))) + "\n")
PY
readers=$!
wait_for 60 test -e "$WORK/readers.begun"
sleep 1
[[ ! -e $WORK/readers ]] || fail "no read hung: $(cat "$WORK/readers")"

log "reading the other image while 500 reads hang"
begin=$(date +%s%N)
"$COMPARE_TREES" "$good_expected" "$WORK/good"
log "all of the other image was read and right after $((($(date +%s%N) - begin) / 1000000)) ms"
[[ ! -e $WORK/readers ]] || fail "the hung reads ended too early: $(cat "$WORK/readers")"

begin=$(date +%s%N)
banyan umount "$WORK/hung"
took=$((($(date +%s%N) - begin) / 1000000))
log "the hung image was unmounted after $took ms"
((took < 5000)) || fail "unmounting took $took ms"
wait "$readers"
log "$(cat "$WORK/readers")"
grep -q "^500 readers" "$WORK/readers" || fail "there were fewer than 500 readers"
[[ -z $(mounts_below "$WORK/hung") ]] || fail "still mounted"
"$COMPARE_TREES" "$good_expected" "$WORK/good"
banyan umount "$WORK/good"
