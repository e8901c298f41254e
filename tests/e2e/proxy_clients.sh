#!/usr/bin/env bash
# Real clients read through the proxy: skopeo, buildah, podman, docker-registry as a pull-through cache in front; and an
# upstream that is stopped, then gone.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"

start_registry
make_oci "$WORK/oci" app one 5 >/dev/null
push_image "oci:$WORK/oci:app" team/app:1
push_image "oci:$WORK/oci:app" team/app:2
start_proxy <<TOML
[mirror]
default_upstream = "registry.example"
tag_lifetime = "1s"
[convert]
enabled = false
[upstreams."registry.example"]
endpoints = ["http://$REGISTRY"]
connect_timeout = "1s"
stall_timeout = "2s"
TOML
CONTAINERS=(--root "$WORK/containers" --runroot "$WORK/containers-run" --storage-driver vfs)
same() { diff <(cd "$WORK/oci/blobs/sha256" && sha256sum -- *) <(cd "$1/blobs/sha256" && sha256sum -- *); }

log "skopeo: copy, inspect, list-tags, with and without the registry's name in the path"
skopeo_ copy --quiet --src-tls-verify=false "docker://$PROXY/team/app:1" "oci:$WORK/a:app"
same "$WORK/a"
skopeo_ copy --quiet --src-tls-verify=false "docker://$PROXY/registry.example/team/app:2" "oci:$WORK/b:app"
same "$WORK/b"
skopeo_ inspect --tls-verify=false "docker://$PROXY/team/app:1" >/dev/null
TAGS=$(skopeo_ list-tags --tls-verify=false "docker://$PROXY/team/app")
[[ $TAGS == *'"1"'* && $TAGS == *'"2"'* ]] || fail "list-tags: $TAGS"

log "buildah and podman"
buildah "${CONTAINERS[@]}" pull -q --tls-verify=false "docker://$PROXY/team/app:1" >/dev/null
podman "${CONTAINERS[@]}" pull -q --tls-verify=false "docker://$PROXY/team/app:2" >/dev/null

log "each blob came from the upstream once"
python3 - "$REGISTRY_LOG" <<'PY'
import collections, re, sys
counts = collections.Counter(re.findall(r'"GET (/v2/[^ ?]*/blobs/[^ ?"]*)', open(sys.argv[1]).read()))
assert counts and max(counts.values()) == 1, counts
PY

log "docker-registry as a pull-through cache in front of the proxy"
CACHE=$(free_port)
cat >"$WORK/cache.yml" <<YML
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $WORK/cache}}
http: {addr: "127.0.0.1:$CACHE", secret: banyan}
proxy: {remoteurl: "http://$PROXY"}
YML
OTEL_TRACES_EXPORTER=none docker-registry serve "$WORK/cache.yml" >"$WORK/cache.log" 2>&1 </dev/null &
STARTED+=($!)
wait_for 10 bash -c "exec 3<>/dev/tcp/127.0.0.1/$CACHE"
skopeo_ copy --quiet --src-tls-verify=false "docker://127.0.0.1:$CACHE/team/app:1" "oci:$WORK/c:app"
same "$WORK/c"

log "the upstream hangs, then is gone: tags and content that are here are served; the rest fails soon"
kill -STOP "${STARTED[0]}"
sleep 1.1
skopeo_ copy --quiet --src-tls-verify=false "docker://$PROXY/team/app:1" "oci:$WORK/d:app"
same "$WORK/d"
kill -9 "${STARTED[0]}"
sleep 1.1
skopeo_ copy --quiet --src-tls-verify=false "docker://$PROXY/team/app:2" "oci:$WORK/e:app"
same "$WORK/e"
BEGIN=$SECONDS
STATUS_CODE=$(http GET /v2/team/app/manifests/absent)
((STATUS_CODE >= 500 && STATUS_CODE != 429 && SECONDS - BEGIN < 20)) || fail "absent: $STATUS_CODE after $((SECONDS - BEGIN)) s"
expect 200 GET /healthz
log "passed"
