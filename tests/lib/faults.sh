# Helpers of the fault_*.sh scripts: a small image whose every byte is known, a registry that misbehaves on request, and
# agents with a short patience. `source tests/lib/faults.sh`.
# shellcheck shell=bash
source "$(dirname "${BASH_SOURCE[0]}")/e2e.sh"
FAULTY_REGISTRY=${FAULTY_REGISTRY:-$(dirname "$BANYAN_BIN")/tests/faulty_registry}

# small_image NAME [MIB]: an OCI layout of two layers, $WORK/NAME.layout, and the tree it means, $WORK/NAME.tree.
small_image() {
  python3 - "$WORK/$1.layout" "$WORK/$1.tree" "${2:-12}" <<'PY'
import gzip, hashlib, io, json, os, random, sys, tarfile
layout, tree, mib = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = random.Random(layout.rsplit("/", 1)[1])
os.makedirs(f"{layout}/blobs/sha256")
os.makedirs(tree)

def put(data):
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{layout}/blobs/sha256/{digest}", "wb") as file:
        file.write(data)
    return {"digest": "sha256:" + digest, "size": len(data)}

def contents(size):  # about half of it compresses
    words = [rng.randbytes(16) for _ in range(64)]
    out = bytearray()
    while len(out) < size:
        out += rng.randbytes(4096) if rng.random() < 0.5 else b"".join(rng.choice(words) for _ in range(256))
    return bytes(out[:size])

layers, diff_ids = [], []
for part in ("a", "b"):
    os.makedirs(f"{tree}/{part}")
    for i in range(24):
        with open(f"{tree}/{part}/{i}", "wb") as file:
            file.write(contents(1 + (mib << 20) // 48 * (i % 8) // 4))
        os.utime(f"{tree}/{part}/{i}", (1600000000 + i,) * 2)
    os.symlink("1", f"{tree}/{part}/link")
    os.utime(f"{tree}/{part}/link", (1600000000,) * 2, follow_symlinks=False)
    os.utime(f"{tree}/{part}", (1600000000,) * 2)
os.utime(tree, (1600000000,) * 2)
for part in ("a", "b"):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        tar.add(tree, ".", recursive=False)
        tar.add(f"{tree}/{part}", part)
    diff_ids.append("sha256:" + hashlib.sha256(raw.getvalue()).hexdigest())
    layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                   **put(gzip.compress(raw.getvalue(), 1, mtime=0))})
config = put(json.dumps({"os": "linux", "architecture": "amd64", "config": {},
                         "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode())
kind = "application/vnd.oci.image.manifest.v1+json"
manifest = put(json.dumps({"schemaVersion": 2, "mediaType": kind, "layers": layers, "config": {
    "mediaType": "application/vnd.oci.image.config.v1+json", **config}}).encode())
with open(f"{layout}/index.json", "w") as file:
    json.dump({"schemaVersion": 2, "manifests": [{
        "mediaType": kind, **manifest, "annotations": {"org.opencontainers.image.ref.name": "x"}}]}, file)
with open(f"{layout}/oci-layout", "w") as file:
    json.dump({"imageLayoutVersion": "1.0.0"}, file)
PY
}

# start_faulty_registry: before $REGISTRY. Sets FAULTY (host:port); break_registry says what goes wrong.
start_faulty_registry() {
  FAULTS=$WORK/faults
  FAULTY_LOG=$WORK/faulty.log
  : >"$FAULTS"
  "$FAULTY_REGISTRY" --upstream "$REGISTRY" --faults "$FAULTS" --port-file "$WORK/faulty.port" \
    >"$FAULTY_LOG" 2>&1 </dev/null &
  STARTED+=("$!")
  wait_for 10 test -s "$WORK/faulty.port"
  # shellcheck disable=SC2034  # for those who source this
  FAULTY=127.0.0.1:$(cat "$WORK/faulty.port")
}

# break_registry FAULT…: from now on; see tests/tools/faulty_registry.cc. Without arguments all is well again.
break_registry() {
  FAULT_ROUND=$((${FAULT_ROUND:-0} + 1))
  { echo "# round $FAULT_ROUND"; printf '%s\n' "$@"; } >"$FAULTS.new"
  mv "$FAULTS.new" "$FAULTS"
  FAULTS_BEFORE=$(grep -c ' FAULT ' "$FAULTY_LOG" || true)
}
# How many requests went wrong since break_registry.
faults_seen() { echo $(($(grep -c ' FAULT ' "$FAULTY_LOG" || true) - FAULTS_BEFORE)); }

# start_agent SECONDS [OPTION…]: an agent of $DATA_ROOT, under a keeper, whose reads fail after so long.
start_agent() {
  local patience=$1; shift
  mkdir -p "$DATA_ROOT"
  "$BANYAN_BIN/banyan-keeper" --socket "$DATA_ROOT/keeper.sock" --supervise -- \
    "$BANYAN_BIN/banyan-peer-agent" --data-root "$DATA_ROOT" --keeper "$DATA_ROOT/keeper.sock" \
    --read-timeout "$patience" "$@" >>"$DATA_ROOT/agent.log" 2>&1 </dev/null &
  STARTED+=("$!")
  wait_for 20 banyan stats ||
    fail "the agent does not start: $(tail -5 "$DATA_ROOT/agent.log")"
}

agent_pid() { pgrep -f "^[^ ]*/banyan-peer-agent --data-root $DATA_ROOT( |\$)"; }

# read_all EXPECTED VIEW: reads every file at once; prints "N right, N wrong, N EIO, N <other error>…" (zeros left out).
read_all() {
  python3 - "$@" <<'PY'
import collections, concurrent.futures, errno, os, sys
expected, view = sys.argv[1:3]
files = [os.path.relpath(os.path.join(base, name), expected) for base, _, names in os.walk(expected) for name in names
         if os.path.getsize(os.path.join(base, name)) > 0 and not os.path.islink(os.path.join(base, name))]
def read(path):
    try:
        with open(f"{view}/{path}", "rb") as file:
            data = file.read()
    except OSError as error:
        return errno.errorcode[error.errno]
    with open(f"{expected}/{path}", "rb") as file:
        return "right" if file.read() == data else "wrong"
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    counts = collections.Counter(pool.map(read, files))
print(", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts)))
PY
}

# clearly STATUS WORDS COMMAND…: the command ends within 90 s with that status and one line on standard error, which
# holds the words (a regular expression).
clearly() {
  local wanted=$1 words=$2 status=0
  shift 2
  timeout 90 "$@" >"$WORK/out" 2>"$WORK/error" </dev/null || status=$?
  log "exit $status: $(head -c 400 "$WORK/error")"
  [[ $status == "$wanted" ]] || fail "exit status $status instead of $wanted: $*"
  [[ $(wc -l <"$WORK/error") == 1 ]] || fail "not one line: $*"
  grep -qiE "$words" "$WORK/error" || fail "unclear error (wanted: $words): $*"
}
