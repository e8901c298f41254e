#!/usr/bin/env bash
# A rolling restart of every daemon under load: four nodes read an image for the first time, through the tree, while each agent and its keeper in turn, the proxy and
# the tree-manager are stopped and started. No read fails, every node has the right bytes.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/lab.sh"

nodes=4 mib=96
tree=$("$SOURCE_DIR/tests/images/make_image.sh" --unpacked random-$mib)
lab up $nodes --rate 40mbit --keeper --image random-$mib
reference=docker://10.77.0.2:5000/random-$mib:1

# Every file, in pieces, in an order of the node's own; prints the digest of all in the order of their names.
cat >"$WORK/read.py" <<'PY'
import hashlib, os, random, sys
root, seed = sys.argv[1:3]
files = sorted(os.path.join(base, name) for base, _, names in os.walk(root) for name in names)
pieces = [(path, offset) for path in files if not os.path.islink(path) for offset in range(0, os.path.getsize(path), 1 << 18)]
if seed != "-":
    random.Random(seed).shuffle(pieces)
digests = {}
for path, offset in pieces:
    with open(path, "rb") as file:
        file.seek(offset)
        digests[path, offset] = hashlib.sha256(file.read(1 << 18)).digest()
print(hashlib.sha256(b"".join(digests[key] for key in sorted(digests))).hexdigest(), len(digests))
PY
wanted=$(python3 "$WORK/read.py" "$tree" -)
readers=()
for ((i = 1; i <= nodes; i++)); do
  mkdir "$BANYAN_LAB/view$i"
  lab exec "n$i" banyan --quiet mount "$reference" "$BANYAN_LAB/view$i"
  python3 "$WORK/read.py" "$BANYAN_LAB/view$i" "$i" >"$WORK/read$i.out" 2>"$WORK/read$i.err" &
  readers+=("$!")
  STARTED+=("$!")
done
running() { local pid count=0; for pid in "${readers[@]}"; do ! kill -0 "$pid" 2>/dev/null || count=$((count + 1)); done; echo "$count"; }

restarts=0 loaded=0
while (($(running) > 0)); do
  # A new keeper is given what the old one held within a second: its agent's turn comes a round later.
  for name in n1 n1/keeper n2 n2/keeper n3 n3/keeper n4 n4/keeper proxy manager; do
    # A restart counts if all were reading when it began.
    (($(running) < nodes)) || loaded=$((loaded + 1))
    lab stop "$name"
    lab start "$name"
    restarts=$((restarts + 1))
    sleep 0.5
    (($(running) > 0)) || break
  done
done
log "$restarts restarts, $loaded of them with all nodes reading"
for ((i = 1; i <= nodes; i++)); do
  wait "${readers[i - 1]}" || fail "a read on n$i failed: $(tail -n 1 "$WORK/read$i.err")"
  [[ $(cat "$WORK/read$i.out") == "$wanted" ]] || fail "n$i read $(cat "$WORK/read$i.out") instead of $wanted"
done
# A whole round, and agents that only the new keepers kept the mounts of.
((loaded >= 14)) || fail "only $loaded of $restarts restarts were under load"
for ((i = 1; i <= nodes; i++)); do lab exec "n$i" banyan --quiet umount "$BANYAN_LAB/view$i"; done
