#!/usr/bin/env bash
# deploy/preemption/banyan-preemption drains the node when the cloud's metadata service announces its end, and not before. The metadata services are played.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
command -v curl >/dev/null || { echo "needs curl"; exit $SKIP; }
source "$SOURCE_DIR/tests/lib/proxy.sh"
source "$SOURCE_DIR/tests/lib/cluster.sh"

start_registry
start_proxy <<<""
start_manager
start_peer a
export BANYAN_TREE_MANAGER=$MANAGER BANYAN_TOKEN_FILE=$TOKEN BANYAN_NODE=a BANYAN_PREEMPTION_INTERVAL=0.2 PATH=$BANYAN_BIN:$PATH
state() { banyan --json nodes | jq -r '.nodes[] | select(.node == "a") | .state'; }
wait_for 10 eval '[[ $(state) == live ]]' || fail "node a is $(state)"

python3 -B - "$WORK/port" "$WORK/announced" <<'PY' &
import http.server, os, sys
port_file, announced = sys.argv[1:3]
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, body=b""):
        self.send_response(status); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_PUT(self):
        self.answer(200, b"t0ken") if self.headers.get("X-aws-ec2-metadata-token-ttl-seconds") else self.answer(400)
    def do_GET(self):
        now = os.path.exists(announced)
        if self.path == "/latest/meta-data/spot/instance-action":
            if self.headers.get("X-aws-ec2-metadata-token") != "t0ken": return self.answer(401)
            return self.answer(200, b'{"action": "terminate", "time": "2030-01-01T00:00:00Z"}') if now else self.answer(404)
        if self.path == "/computeMetadata/v1/instance/preempted" and self.headers.get("Metadata-Flavor") == "Google":
            return self.answer(200, b"TRUE" if now else b"FALSE")
        if self.path == "/metadata/scheduledevents?api-version=2020-07-01" and self.headers.get("Metadata") == "true":
            return self.answer(200, b'{"Events": [{"EventType": "Preempt"}]}' if now else b'{"Events": [{"EventType": "Reboot"}]}')
        self.answer(404)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
open(port_file + ".new", "w").write(str(server.server_address[1])); os.rename(port_file + ".new", port_file)
server.serve_forever()
PY
STARTED+=("$!")
wait_for 10 test -s "$WORK/port"
export BANYAN_METADATA=http://127.0.0.1:$(cat "$WORK/port")

# As the pod of deploy/kubernetes/preemption: its command, its user, no capability.
as_pod() {
  local pod=$SOURCE_DIR/deploy/kubernetes/preemption/preemption.yaml
  /usr/bin/python3 -c 'import sys, yaml; print(yaml.safe_load(open(sys.argv[1]))["spec"]["template"]["spec"]["containers"][0]["command"][2])' "$pod" >"$WORK/command"
  # shellcheck disable=SC2016
  exec unshare --mount --propagation private sh -euc '
    mount --bind "$1" /usr/local/bin
    mount -t tmpfs -o mode=755 tmpfs /usr/share
    mkdir /usr/share/banyan
    cp "$2" /usr/share/banyan
    token=$(cat "$3") command=$(cat "$4") manager=$5
    mount -t tmpfs -o mode=755 tmpfs /etc
    mkdir /etc/banyan-token
    echo "$token" >/etc/banyan-token/token
    shift 5
    exec setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all \
      env -i PATH=/usr/local/bin:/usr/bin:/bin BANYAN_TREE_MANAGER="$manager" BANYAN_TOKEN_FILE=/etc/banyan-token/token "$@" /bin/sh -c "$command"' - \
    "$BANYAN_BIN" "$SOURCE_DIR/deploy/preemption/banyan-preemption" "$TOKEN" "$WORK/command" "$MANAGER" \
    BANYAN_CLOUD="$1" BANYAN_NODE=a BANYAN_PREEMPTION_INTERVAL=0.2 BANYAN_METADATA="$BANYAN_METADATA"
}

for cloud in aws gcp azure; do
  rm -f "$WORK/announced"
  "$SOURCE_DIR/deploy/preemption/banyan-preemption" "$cloud" >"$WORK/hook.log" 2>&1 </dev/null &
  hook=$!
  STARTED+=("$hook")
  sleep 1
  kill -0 "$hook" 2>/dev/null || fail "$cloud: it ended before anything was announced: $(cat "$WORK/hook.log")"
  [[ $(state) == live ]] || fail "$cloud: node a is $(state) before anything was announced"
  touch "$WORK/announced"
  wait "$hook" || fail "$cloud: $(cat "$WORK/hook.log")"
  [[ $(state) == draining ]] || fail "$cloud: node a is $(state) after the announcement"
  banyan --quiet drain a --undo
  wait_for 10 eval '[[ $(state) == live ]]' || fail "node a is $(state) after --undo"
  log "$cloud: drained"
done

rm "$WORK/announced"
as_pod gcp >"$WORK/hook.log" 2>&1 </dev/null &
hook=$!
STARTED+=("$hook")
sleep 1
kill -0 "$hook" 2>/dev/null || fail "the pod ended before anything was announced: $(cat "$WORK/hook.log")"
[[ $(state) == live ]] || fail "node a is $(state) before anything was announced to the pod"
touch "$WORK/announced"
wait_for 20 eval '[[ $(state) == draining ]]' || fail "the pod does not drain node a: $(cat "$WORK/hook.log")"
waits() { [[ $(tr '\0' ' ' <"/proc/$hook/cmdline") == "sleep infinity " ]]; }
wait_for 10 waits || fail "drained, the pod does not wait: $(cat "$WORK/hook.log")"
log "a pod: drained"
