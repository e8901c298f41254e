#!/usr/bin/env bash
# cli_hostile.sh: layers that are damaged, lie or attack end in a clear error; no artifact is pushed and nothing is left.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"

# Layouts with one layer each, below $WORK: what the manifest says of a layer need not be true.
python3 - "$WORK" <<'PY'
import gzip, hashlib, io, json, os, sys, tarfile

def tar_of(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, value in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            data = b""
            if kind == tarfile.REGTYPE:
                data = value
                info.size = len(data)
            else:
                info.linkname = value
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()

def layout(name, layer, tar, digest=None, size=None, media="application/vnd.oci.image.layer.v1.tar+gzip"):
    root = f"{sys.argv[1]}/{name}"
    os.makedirs(f"{root}/blobs/sha256")
    def put(data, file=None):
        hexdigest = hashlib.sha256(data).hexdigest()
        with open(f"{root}/blobs/sha256/{file or hexdigest}", "wb") as f:
            f.write(data)
        return "sha256:" + (file or hexdigest), len(data)
    def put_json(value):
        return put(json.dumps(value).encode())
    layer_digest, layer_size = put(layer, digest)
    config, config_size = put_json({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": {
        "type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest()]}})
    manifest, manifest_size = put_json({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
        "layers": [{"mediaType": media, "digest": layer_digest, "size": layer_size if size is None else size}]})
    with open(f"{root}/index.json", "w") as f:
        json.dump({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": manifest_size,
            "annotations": {"org.opencontainers.image.ref.name": "x"}}]}, f)
    with open(f"{root}/oci-layout", "w") as f:
        json.dump({"imageLayoutVersion": "1.0.0"}, f)

FILE, LINK = tarfile.REGTYPE, tarfile.LNKTYPE
good = tar_of(("etc/motd", FILE, os.urandom(20000)))
packed = gzip.compress(good)
layout("good", packed, good)
layout("truncated", packed[:-1000], good)
layout("cut-tar", gzip.compress(good[:9000]), good[:9000])
layout("garbage", os.urandom(5000), good)
layout("wrong-digest", packed, good, digest="0" * 64)
layout("wrong-diff-id", packed, b"something else")
layout("short-size", packed, good, size=len(packed) - 1)
layout("long-size", packed, good, size=len(packed) + 1)
dangling = tar_of(("a", LINK, "no/such/file"))
layout("dangling-link", gzip.compress(dangling), dangling)
bomb = tar_of(("zeros", FILE, bytes(64 << 20)))
layout("bomb", gzip.compress(bomb), bomb)
many = tar_of(*((f"f{i}", FILE, b"") for i in range(2000)))
layout("many", gzip.compress(many), many)
layout("foreign", packed, good, media="application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")
escaping = tar_of(("../../escaped", FILE, b"1"), ("/absolute", FILE, b"2"), ("d/../../up", FILE, b"3"),
                  ("evil", tarfile.SYMTYPE, "../../../.."), ("evil/through", FILE, b"4"))
layout("escaping", gzip.compress(escaping), escaping)
PY

# refused LAYOUT STATUS WORDS [OPTION…]
refused() {
  local layout=$1 wanted=$2 words=$3 status=0
  shift 3
  cp "$WORK/$layout/index.json" "$WORK/index.json"
  timeout 60 "$BANYAN_BIN/banyan" --data-root "$DATA_ROOT" --quiet convert "oci:$WORK/$layout:x" "$@" 2>"$WORK/error" </dev/null || status=$?
  log "$layout: $status: $(cat "$WORK/error")"
  [[ $status == "$wanted" ]] || fail "$layout: exit status $status instead of $wanted"
  [[ $(wc -l <"$WORK/error") == 1 ]] || fail "$layout: not one line"
  grep -qE "^banyan: convert oci:$WORK/$layout:x: .*($words)" "$WORK/error" || fail "$layout: unclear error"
  cmp "$WORK/index.json" "$WORK/$layout/index.json" || fail "$layout: something was published"
  [[ -z $(ls "$DATA_ROOT/spool") ]] || fail "$layout: left in the spool"
}

refused truncated 6 "truncated|ends|gzip"
refused cut-tar 6 "tar"
refused garbage 6 "diff ID|tar|digest"
refused wrong-digest 6 "digest"
refused wrong-diff-id 6 "diff ID"
refused short-size 6 "longer than"
refused long-size 6 "ends after"
refused dangling-link 6 "no/such/file"
refused bomb 7 "bytes" --max-layer-bytes 10000000
refused bomb 7 "ratio|times|bytes" --max-ratio 100 --max-ratio-free-bytes 1000000
refused many 7 "1000" --max-entries 1000
refused foreign 8 "distributable"

log "names that try to escape stay inside"
mkdir "$WORK/sandbox"
banyan --quiet convert "oci:$WORK/escaping:x"
banyan --quiet verify "oci:$WORK/escaping:x"
banyan --quiet extract "oci:$WORK/escaping:x" "$WORK/sandbox/tree"
[[ $(ls -A "$WORK/sandbox") == tree ]] || fail "something escaped: $(ls -A "$WORK/sandbox")"
[[ $(cd "$WORK/sandbox/tree" && find . -type f | LC_ALL=C sort | tr '\n' ' ') == "./absolute ./escaped ./through ./up " ]] ||
  fail "other names than meant: $(find "$WORK/sandbox/tree")"
banyan --quiet convert "oci:$WORK/good:x"
banyan --quiet verify "oci:$WORK/good:x"
log "ok"
