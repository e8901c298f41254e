#!/usr/bin/env bash
# Who may do what: pushes with passwords; a private upstream whose clients must show their own credentials; the proxy's own
# credentials only for the repositories that they are configured for.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"

command -v htpasswd >/dev/null || python3 -c 'import crypt' || { echo "no way to make a bcrypt password"; exit $SKIP; }
bcrypt() {
  if command -v htpasswd >/dev/null; then htpasswd -nbB "$1" "$2"; else
    python3 -W ignore -c "import crypt, sys; print(sys.argv[1] + ':' + crypt.crypt(sys.argv[2], crypt.mksalt(crypt.METHOD_BLOWFISH)))" "$1" "$2"
  fi
}
bcrypt alice secret >"$WORK/htpasswd"
PORT=$(free_port)
cat >"$WORK/private.yml" <<YML
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $WORK/private}}
http: {addr: "127.0.0.1:$PORT", secret: banyan}
auth: {htpasswd: {realm: private, path: $WORK/htpasswd}}
YML
OTEL_TRACES_EXPORTER=none docker-registry serve "$WORK/private.yml" >"$WORK/private.log" 2>&1 </dev/null &
STARTED+=($!)
UPSTREAM=127.0.0.1:$PORT
wait_for 10 bash -c "exec 3<>/dev/tcp/127.0.0.1/$PORT"

make_oci "$WORK/oci" app one >/dev/null
for name in team/app open/app; do
  skopeo_ copy --quiet --dest-tls-verify=false --dest-creds alice:secret "oci:$WORK/oci:app" "docker://$UPSTREAM/$name:1"
done
printf '{"auths":{"%s":{"auth":"%s"}}}' "$UPSTREAM" "$(printf alice:secret | base64)" >"$WORK/creds.json"
echo "bob:hunter2" >"$WORK/passwords"
start_proxy <<TOML
[mirror]
default_upstream = "$UPSTREAM"
[registry]
push = true
password_file = "$WORK/passwords"
[upstreams."$UPSTREAM"]
auth = "client"
credentials_file = "$WORK/creds.json"
credentials_for = ["open/*"]
TOML

log "a private repository: challenged, refused, let in with the client's own credentials"
expect 401 GET /v2/
[[ $(header www-authenticate) == Basic* ]] || fail "no challenge: $(cat "$WORK/head")"
expect 401 GET /v2/team/app/manifests/1
WRONG="Authorization: Basic $(printf alice:wrong | base64)"
RIGHT="Authorization: Basic $(printf alice:secret | base64)"
expect 401 GET /v2/team/app/manifests/1 "" "$WRONG"
skopeo_ copy --quiet --src-tls-verify=false --src-creds alice:secret "docker://$PROXY/team/app:1" "oci:$WORK/out:app"

log "what is in the store by now is as private as before"
expect 200 GET /v2/team/app/manifests/1 "" "$RIGHT"
DIGEST=$(header docker-content-digest)
LAYER=$(python3 -c "import json; print(json.load(open('$WORK/body'))['layers'][0]['digest'])")
expect 401 GET "/v2/team/app/manifests/$DIGEST"
expect 401 GET "/v2/team/app/blobs/$LAYER"
expect 401 GET "/v2/team/app/blobs/$LAYER" "" "$WRONG"
expect 200 GET "/v2/team/app/blobs/$LAYER" "" "$RIGHT"

log "it is converted with the credentials of the client that was let in, and its artifact is private too"
wait_converted 1 30 || fail "not converted: $(tail -5 "$PROXY_LOG")"
expect 401 GET "/v2/team/app/referrers/$DIGEST"
expect 200 GET "/v2/team/app/referrers/$DIGEST" "" "$RIGHT"
ARTIFACT=$(python3 -c "import json; print(json.load(open('$WORK/body'))['manifests'][0]['digest'])")
expect 401 GET "/v2/team/app/manifests/$ARTIFACT"
expect 200 GET "/v2/team/app/manifests/$ARTIFACT" "" "$RIGHT"

log "the proxy's own credentials: for open/* alone"
expect 200 GET /v2/open/app/manifests/1

log "pushes need a password"
printf x >"$WORK/blob"
BLOB=sha256:$(sha "$WORK/blob")
expect 401 POST "/v2/own/blobs/uploads/?digest=$BLOB" "$WORK/blob"
expect 201 POST "/v2/own/blobs/uploads/?digest=$BLOB" "$WORK/blob" "Authorization: Basic $(printf bob:hunter2 | base64)"
expect 405 DELETE "/v2/own/blobs/$BLOB" "" "Authorization: Basic $(printf bob:hunter2 | base64)"
grep -E 'secret|hunter2' "$PROXY_LOG" && fail "a password is in the log"
log "passed"
