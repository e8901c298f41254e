#!/usr/bin/env bash
# The registry proxy serving blobs from its cache, against Debian's nginx serving the very same files: throughput and
# server CPU per GiB at 1, 8 and 64 kept-alive connections, for whole blobs of 16 MiB and ranges of 256 KiB. About three
# minutes; root; ratios within this run.
#
#   bench/proxy/run.sh [--rounds N] [--seconds S] [--connections "1 8 64"] [--copy] [--check] [--json FILE]
#
# --copy: the client reads the bytes (as real ones do) instead of having the kernel drop them. --check: exit 1 when a bar
# (throughput ≥ 0.8 ×, CPU per GiB ≤ 1.5 ×) is missed. Both servers have one worker (nginx) or thread (proxy) a core.
source "$(dirname "${BASH_SOURCE[0]}")/../../tests/lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"

command -v nginx >/dev/null || { echo "needs nginx"; exit $SKIP; }
blobs=8
cores=$(nproc)

# Pushes $blobs blobs of 16 MiB to the registry and pulls them through the proxy. Sets FILES: their digests in hex.
fill_cache() {
  python3 - "$REGISTRY" "$PROXY" "$blobs" >"$WORK/files" <<'PY'
import hashlib, os, sys, urllib.parse, urllib.request as http
registry, proxy, blobs = sys.argv[1:]
for _ in range(int(blobs)):
    data = os.urandom(16 << 20)
    digest = hashlib.sha256(data).hexdigest()
    upload = http.urlopen(http.Request(f"http://{registry}/v2/bench/blobs/uploads/", method="POST")).headers["Location"]
    upload = urllib.parse.urljoin(f"http://{registry}", upload)
    http.urlopen(http.Request(f"{upload}&digest=sha256:{digest}", data, {"Content-Type": "application/octet-stream"}, method="PUT"))
    assert http.urlopen(f"http://{proxy}/v2/bench/blobs/sha256:{digest}?ns={registry}").read() == data
    print(digest)
PY
  mapfile -t FILES <"$WORK/files"
  local digest
  for digest in "${FILES[@]}"; do wait_for 30 test -e "$WORK/proxy/store/raw/$digest"; done
}

start_nginx() {
  NGINX_PORT=$(free_port)
  mkdir -p "$WORK/nginx"
  cat >"$WORK/nginx.conf" <<CONF
user root;
daemon off;
worker_processes $cores;
pid $WORK/nginx/pid;
error_log $WORK/nginx/error.log warn;
events { worker_connections 1024; }
http {
  access_log off;  # the proxy writes no line a request either
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_requests 100000000;
  default_type application/octet-stream;
  client_body_temp_path $WORK/nginx/body; proxy_temp_path $WORK/nginx/proxied; fastcgi_temp_path $WORK/nginx/fastcgi;
  uwsgi_temp_path $WORK/nginx/uwsgi; scgi_temp_path $WORK/nginx/scgi;
  server { listen 127.0.0.1:$NGINX_PORT; root $WORK/proxy/store/raw; }
}
CONF
  nginx -e "$WORK/nginx/error.log" -p "$WORK/nginx" -c "$WORK/nginx.conf" >>"$WORK/nginx/out" 2>&1 </dev/null &
  NGINX_PID=$!
  STARTED+=("$NGINX_PID")
  wait_for 10 python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$NGINX_PORT/${FILES[0]}')" || fail "nginx: $(cat "$WORK/nginx/error.log")"
}

start_registry
start_proxy <<TOML
threads = $cores
convert.enabled = false
[upstreams."$REGISTRY"]
endpoints = ["http://$REGISTRY"]
TOML
fill_cache
start_nginx
nginx -v 2>&1
python3 "$SOURCE_DIR/bench/proxy/measure.py" --load "$(dirname "$BANYAN_BIN")/bench/proxy_load" \
  --server "nginx=$NGINX_PID,$NGINX_PORT,/%" --server "proxy=$PROXY_PID,${PROXY##*:},/v2/bench/blobs/sha256:%?ns=$REGISTRY" \
  "$@" "${FILES[@]}"
