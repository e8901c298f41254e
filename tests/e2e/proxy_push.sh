#!/usr/bin/env bash
# The registry proxy as a registry of its own: the push API by hand, then skopeo, buildah and podman; kill -9; a full disk.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"

start_own() {
  start_proxy <<'TOML'
status = ""
[registry]
push = true
delete = true
[convert]
enabled = false
TOML
}
start_own

log "monolithic uploads: in one request, and in two"
head -c 300000 /dev/urandom >"$WORK/blob"
DIGEST=sha256:$(sha "$WORK/blob")
expect 201 POST "/v2/app/blobs/uploads/?digest=$DIGEST" "$WORK/blob"
[[ $(header docker-content-digest) == "$DIGEST" ]] || fail "no digest: $(cat "$WORK/head")"
expect 200 GET "/v2/app/blobs/$DIGEST"
cmp "$WORK/body" "$WORK/blob"
expect 206 GET "/v2/app/blobs/$DIGEST" "" "Range: bytes=100-199"
cmp "$WORK/body" <(tail -c +101 "$WORK/blob" | head -c 100)
expect 416 GET "/v2/app/blobs/$DIGEST" "" "Range: bytes=300000-"
expect 202 POST /v2/two/blobs/uploads/
expect 201 PUT "$(header location)?digest=$DIGEST" "$WORK/blob"

log "chunks: only in order, with what is here told"
expect 202 POST /v2/chunked/blobs/uploads/
UPLOAD=$(header location)
head -c 100000 "$WORK/blob" >"$WORK/first"
tail -c +100001 "$WORK/blob" >"$WORK/rest"
expect 202 PATCH "$UPLOAD" "$WORK/first" "Content-Range: 0-99999"
[[ $(header range) == 0-99999 ]] || fail "range: $(cat "$WORK/head")"
expect 416 PATCH "$UPLOAD" "$WORK/rest" "Content-Range: 50000-249999"
[[ $(header range) == 0-99999 ]] || fail "range after a wrong chunk: $(cat "$WORK/head")"
expect 416 PATCH "$UPLOAD" "$WORK/rest" "Content-Range: 100000-200000"
expect 204 GET "$UPLOAD"
[[ $(header range) == 0-99999 ]] || fail "status: $(cat "$WORK/head")"
expect 202 PATCH "$UPLOAD" "$WORK/rest" "Content-Range: 100000-299999"
expect 201 PUT "$UPLOAD?digest=$DIGEST"
expect 200 HEAD "/v2/chunked/blobs/$DIGEST"
[[ $(header content-length) == 300000 ]] || fail "length: $(cat "$WORK/head")"
expect 404 GET "$UPLOAD"

log "what is wrong is refused; cancelled uploads are gone"
expect 202 POST /v2/bad/blobs/uploads/
expect 400 PUT "$(header location)?digest=$DIGEST" "$WORK/first"
expect 404 HEAD "/v2/bad/blobs/$DIGEST"
expect 202 POST /v2/bad/blobs/uploads/
UPLOAD=$(header location)
expect 204 DELETE "$UPLOAD"
expect 404 PUT "$UPLOAD?digest=$DIGEST" "$WORK/blob"
expect 404 PATCH /v2/bad/blobs/uploads/0123 "$WORK/blob"
expect 400 POST /v2/../etc/blobs/uploads/
expect 400 PUT /v2/UPPER/manifests/1 "$WORK/first"

log "mounted from another repository, and not from where it is not"
expect 201 POST "/v2/mounted/blobs/uploads/?mount=$DIGEST&from=app"
expect 200 HEAD "/v2/mounted/blobs/$DIGEST"
expect 202 POST "/v2/mounted2/blobs/uploads/?mount=$DIGEST&from=bad"

log "manifests: blobs must be here; subjects; referrers; deletion"
printf '{}' >"$WORK/empty"
EMPTY=sha256:$(sha "$WORK/empty")
manifest() {  # $1: more fields
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",%s"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%s","size":2},"layers":[{"mediaType":"application/octet-stream","digest":"%s","size":300000}]}' \
    "$1" "$EMPTY" "$DIGEST"
}
TYPE="Content-Type: application/vnd.oci.image.manifest.v1+json"
manifest "" >"$WORK/m1"
expect 404 PUT /v2/app/manifests/one "$WORK/m1" "$TYPE"
expect 201 POST "/v2/app/blobs/uploads/?digest=$EMPTY" "$WORK/empty"
expect 201 PUT /v2/app/manifests/one "$WORK/m1" "$TYPE"
M1=sha256:$(sha "$WORK/m1")
[[ $(header docker-content-digest) == "$M1" ]] || fail "manifest digest: $(cat "$WORK/head")"
expect 400 PUT "/v2/app/manifests/$EMPTY" "$WORK/m1" "$TYPE"
expect 400 PUT /v2/app/manifests/broken "$WORK/empty" "$TYPE"
manifest "\"artifactType\":\"application/vnd.example\",\"subject\":{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"$M1\",\"size\":$(stat -c %s "$WORK/m1")}," >"$WORK/m2"
M2=sha256:$(sha "$WORK/m2")
expect 201 PUT "/v2/app/manifests/$M2" "$WORK/m2" "$TYPE"
[[ $(header oci-subject) == "$M1" ]] || fail "no OCI-Subject: $(cat "$WORK/head")"
referrers() { python3 -c "import json; print(len(json.load(open('$WORK/body'))['manifests']))"; }
expect 200 GET "/v2/app/referrers/$M1"
[[ $(referrers) == 1 ]] || fail "referrers: $(cat "$WORK/body")"
expect 200 GET "/v2/app/referrers/$M1?artifactType=application/vnd.other"
[[ $(referrers) == 0 && $(header oci-filters-applied) == artifactType ]] || fail "filter: $(cat "$WORK/head" "$WORK/body")"
expect 200 GET "/v2/app/referrers/$M2"
[[ $(referrers) == 0 ]] || fail "referrers of none: $(cat "$WORK/body")"
for tag in two three four; do expect 201 PUT "/v2/app/manifests/$tag" "$WORK/m1" "$TYPE"; done
expect 200 GET "/v2/app/tags/list?n=2"
[[ $(header link) == *last=one* && $(cat "$WORK/body") == *'"four","one"'* ]] || fail "tags: $(cat "$WORK/head" "$WORK/body")"
expect 200 GET "/v2/app/tags/list?n=2&last=one"
[[ $(cat "$WORK/body") == *'"three","two"'* ]] || fail "tags: $(cat "$WORK/body")"
expect 202 DELETE /v2/app/manifests/four
expect 404 HEAD /v2/app/manifests/four
expect 202 DELETE "/v2/app/manifests/$M2"
expect 200 GET "/v2/app/referrers/$M1"
[[ $(referrers) == 0 ]] || fail "a deleted referrer is listed: $(cat "$WORK/body")"
expect 202 DELETE "/v2/mounted/blobs/$DIGEST"
expect 404 HEAD "/v2/mounted/blobs/$DIGEST"
expect 200 HEAD "/v2/app/blobs/$DIGEST"

log "skopeo both ways"
make_oci "$WORK/oci" app one 3 >/dev/null
skopeo_ copy --quiet --dest-tls-verify=false "oci:$WORK/oci:app" "docker://$PROXY/team/app:1"
skopeo_ copy --quiet --src-tls-verify=false "docker://$PROXY/team/app:1" "oci:$WORK/back:app"
diff <(cd "$WORK/oci/blobs/sha256" && ls) <(cd "$WORK/back/blobs/sha256" && ls)
[[ $(skopeo_ inspect --tls-verify=false --format '{{len .Layers}}' "docker://$PROXY/team/app:1") == 2 ]] || fail "inspect"
[[ $(skopeo_ list-tags --tls-verify=false "docker://$PROXY/team/app") == *'"1"'* ]] || fail "list-tags"

log "buildah and podman push and pull"
CONTAINERS=(--root "$WORK/containers" --runroot "$WORK/containers-run" --storage-driver vfs)
buildah "${CONTAINERS[@]}" pull -q --tls-verify=false "docker://$PROXY/team/app:1" >/dev/null
buildah "${CONTAINERS[@]}" push -q --tls-verify=false "$PROXY/team/app:1" "docker://$PROXY/team/buildah:1"
podman "${CONTAINERS[@]}" pull -q --tls-verify=false "docker://$PROXY/team/buildah:1" >/dev/null
podman "${CONTAINERS[@]}" push -q --tls-verify=false "$PROXY/team/buildah:1" "docker://$PROXY/team/podman:1"
skopeo_ inspect --tls-verify=false "docker://$PROXY/team/podman:1" >/dev/null

log "killed with -9 in the middle of an upload: no half blob, everything else is here"
head -c 20000000 /dev/urandom >"$WORK/big"
BIG=sha256:$(sha "$WORK/big")
expect 202 POST /v2/killed/blobs/uploads/
UPLOAD=$(header location)
head -c 5000000 "$WORK/big" >"$WORK/part"
expect 202 PATCH "$UPLOAD" "$WORK/part"
kill -9 "$PROXY_PID"
wait "$PROXY_PID" 2>/dev/null || true
start_own
expect 404 GET "$UPLOAD"
expect 404 HEAD "/v2/killed/blobs/$BIG"
[[ -z $(ls "$WORK/proxy/content/incoming") ]] || fail "leftovers: $(ls "$WORK/proxy/content/incoming")"
expect 200 GET "/v2/app/manifests/one"
cmp "$WORK/body" "$WORK/m1"
skopeo_ copy --quiet --src-tls-verify=false "docker://$PROXY/team/app:1" "oci:$WORK/again:app"
expect 201 POST "/v2/killed/blobs/uploads/?digest=$BIG" "$WORK/big"

log "a full disk: the push fails, the proxy goes on"
kill "$PROXY_PID"
wait "$PROXY_PID" || fail "no clean end: $?"
mkdir "$WORK/small"
mount -t tmpfs -o size=16m tmpfs "$WORK/small"
cp -a "$WORK/proxy/store" "$WORK/small/" && rm -rf "$WORK/proxy" && ln -s "$WORK/small" "$WORK/proxy"
start_own
expect 507 POST "/v2/full/blobs/uploads/?digest=$BIG" "$WORK/big"
expect 404 HEAD "/v2/full/blobs/$BIG"
expect 201 POST "/v2/full/blobs/uploads/?digest=$DIGEST" "$WORK/blob"
expect 200 GET "/v2/full/blobs/$DIGEST"
cmp "$WORK/body" "$WORK/blob"
kill "$PROXY_PID"; wait "$PROXY_PID" || fail "no clean end: $?"
umount "$WORK/small"
log "passed"
