# Helpers of the registry proxy's end-to-end scripts: `source` it behind e2e.sh.
# shellcheck shell=bash

# A small image of two layers with a static /bin/true, its content from a seed: make_oci DIRECTORY TAG SEED [MEBIBYTES].
make_oci() {
  [[ -x $WORK/true ]] || gcc -x c -static -O1 -o "$WORK/true" - <<<'int main(void) { return 0; }'
  export STATIC_TRUE=$WORK/true
  python3 - "$@" <<'PY'
import gzip, hashlib, io, json, os, random, sys, tarfile
directory, tag, seed = sys.argv[1:4]
size = float(sys.argv[4]) if len(sys.argv) > 4 else 1
blobs = f"{directory}/blobs/sha256"
os.makedirs(blobs, exist_ok=True)
def put(data):
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{blobs}/{digest}", "wb") as f: f.write(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}
def layer(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name); info.size = len(data); info.mode = 0o755; info.mtime = 1700000000
            tar.addfile(info, io.BytesIO(data))
    tar = buffer.getvalue()
    return put(gzip.compress(tar, 1, mtime=0)) | {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}, \
        "sha256:" + hashlib.sha256(tar).hexdigest()
# The base layer is the same for all seeds, so that images share it.
base = random.Random("base").randbytes(200_000)
own = random.Random(seed).randbytes(int(size * 1048576))
layers = [layer([("base.bin", base), ("bin/true", open(os.environ["STATIC_TRUE"], "rb").read())]),
          layer([("own.bin", own), ("seed.txt", seed.encode())])]
config = put(json.dumps({"os": "linux", "architecture": "amd64", "config": {"Cmd": ["/bin/true"]},
    "rootfs": {"type": "layers", "diff_ids": [d for _, d in layers]}}).encode()) \
    | {"mediaType": "application/vnd.oci.image.config.v1+json"}
manifest = put(json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": config, "layers": [l for l, _ in layers]}).encode()) \
    | {"mediaType": "application/vnd.oci.image.manifest.v1+json", "annotations": {"org.opencontainers.image.ref.name": tag}}
index_path = f"{directory}/index.json"
index = json.load(open(index_path)) if os.path.exists(index_path) else {"schemaVersion": 2, "manifests": []}
index["manifests"].append(manifest)
json.dump(index, open(index_path, "w"))
json.dump({"imageLayoutVersion": "1.0.0"}, open(f"{directory}/oci-layout", "w"))
print(manifest["digest"])
PY
}

# start_proxy [TOML on standard input]: a proxy on a free loopback port, with its data below $WORK/proxy. Sets PROXY
# (host:port), PROXY_PID, PROXY_LOG and STATUS. Called again it takes the same port and data.
start_proxy() {
  local toml
  toml=$(cat)
  PROXY_LOG=$WORK/proxy.log
  PROXY=${PROXY:-127.0.0.1:$(free_port)}
  STATUS=unix:$WORK/proxy/status.sock
  printf 'listen = "%s"\ndata_root = "%s"\n%s\n' "$PROXY" "$WORK/proxy" "$toml" >"$WORK/proxy.toml"
  "$BANYAN_BIN/banyan-registry-proxy" --config "$WORK/proxy.toml" >>"$PROXY_LOG" 2>&1 </dev/null &
  PROXY_PID=$!
  STARTED+=("$PROXY_PID")
  wait_for 20 http_ok /readyz || fail "the proxy does not start: $(tail -5 "$PROXY_LOG")"
}

# The same with start_registry's registry as its only upstream.
start_proxy_of_registry() { start_proxy <<<"$(printf '[upstreams."%s"]\nendpoints = ["http://%s"]' "$REGISTRY" "$REGISTRY")"; }

http_ok() { python3 -c "import sys, urllib.request as u; u.urlopen('http://$PROXY' + sys.argv[1])" "$1"; }

# http METHOD PATH [BODY-FILE] [HEADER…]: prints the status; headers and body go to $WORK/head and $WORK/body.
http() {
  python3 - "$PROXY" "$WORK" "$@" <<'PY'
import http.client, sys
host, work, method, path = sys.argv[1:5]
body = open(sys.argv[5], "rb").read() if len(sys.argv) > 5 and sys.argv[5] else None
headers = dict(h.split(": ", 1) for h in sys.argv[6:])
connection = http.client.HTTPConnection(host, timeout=60)
connection.request(method, path, body, headers)
answer = connection.getresponse()
open(f"{work}/body", "wb").write(answer.read())
open(f"{work}/head", "w").write("".join(f"{k.lower()}: {v}\n" for k, v in answer.getheaders()))
print(answer.status)
PY
}

# expect STATUS METHOD PATH …: as http, and fails unless the status is that.
expect() {
  local wanted=$1 got
  shift
  got=$(http "$@")
  [[ $got == "$wanted" ]] || fail "$1 $2: $got, not $wanted: $(head -c 300 "$WORK/body")"
}

header() { sed -n "s/^$1: //p" "$WORK/head"; }

sha() { sha256sum "$1" | cut -d' ' -f1; }

metric() { http GET /metrics >/dev/null; awk -v name="$1" '$1 == name { print $2; exit }' "$WORK/body"; }

# Waits until the proxy has converted N images since it began.
wait_converted() { wait_for "${2:-60}" eval "[[ \$(metric banyan_conversions_done_total) == $1 ]]"; }

skopeo_() { skopeo --insecure-policy "$@" </dev/null; }
