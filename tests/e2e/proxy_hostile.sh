#!/usr/bin/env bash
# Hostile clients, and an upstream that answers without end: each is refused, in time and within bounded memory, while others are
# served.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"

MAX_RSS_KIB=$((200 * 1000 * 1000 / 1024))

# Manifests, referrers and tags of a gigabyte, with a Content-Length and without; writes how many bytes it could send.
cat >"$WORK/endless.py" <<'PY'
import http.server, os, sys
log, port_file = sys.argv[1:]
GIB = 1 << 30
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/v2/":
            self.send_response(200); self.send_header("Content-Length", "0"); return self.end_headers()
        chunked = "chunked" in self.path
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
        if chunked: self.send_header("Transfer-Encoding", "chunked")
        else: self.send_header("Content-Length", str(GIB))
        self.end_headers()
        if self.command == "HEAD": return
        sent, piece = 0, b" " * 65536
        try:
            while sent < GIB:
                self.wfile.write(b"10000\r\n" + piece + b"\r\n" if chunked else piece)
                sent += len(piece)
        except OSError:
            pass
        self.close_connection = True
        with open(log, "a") as out: out.write(f"{self.path} {sent}\n")
    do_HEAD = do_GET
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
with open(port_file + ".new", "w") as out: out.write(str(server.server_address[1]))
os.rename(port_file + ".new", port_file)
server.serve_forever()
PY
: >"$WORK/sent"
python3 "$WORK/endless.py" "$WORK/sent" "$WORK/port" >"$WORK/endless.log" 2>&1 </dev/null &
STARTED+=("$!")
wait_for 10 test -s "$WORK/port"
ENDLESS=127.0.0.1:$(cat "$WORK/port")

start_proxy <<TOML
[mirror]
default_upstream = "endless.example"
[registry]
push = true
[convert]
enabled = false
[upstreams."endless.example"]
endpoints = ["http://$ENDLESS"]
TOML
head -c 1000000 /dev/urandom >"$WORK/blob"
BLOB=$(sha "$WORK/blob")
expect 201 POST "/v2/good/blobs/uploads/?digest=sha256:$BLOB" "$WORK/blob"

python3 - "$PROXY" "$PROXY_PID" "$WORK/blob" "$BLOB" "$ENDLESS" <<'PY'
import os, socket, sys, time
proxy, pid, blob_file, blob, endless = sys.argv[1:]
host, port = proxy.split(":")
content = open(blob_file, "rb").read()
good = f"/v2/good/blobs/sha256:{blob}"
hexes = "0" * 64

def log(text): print(time.strftime("%T"), text, file=sys.stderr, flush=True)
def connect():
    connection = socket.create_connection((host, int(port)), timeout=60)
    return connection
def answer(connection):
    got = b""
    try:
        while piece := connection.recv(1 << 16): got += piece
    except ConnectionError: pass
    return got
# Sends bytes as they are; (status, body), status 0 when the connection is closed without an answer.
def raw(data):
    with connect() as connection:
        try: connection.sendall(data)
        except ConnectionError: pass
        got = answer(connection)
    head, _, body = got.partition(b"\r\n\r\n")
    return (int(head.split()[1]), body) if head.startswith(b"HTTP/1.1 ") else (0, got)
def request(target, method="GET", headers=""):
    if isinstance(target, str): target = target.encode()
    return raw(method.encode() + b" " + target + b" HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n" + headers.encode() + b"\r\n")
def refuse(target, method="GET", headers="", allowed=range(400, 500)):
    status, body = request(target, method, headers)
    assert status in allowed, (method, target, headers[:80], status, body[:200])
    assert b"root:" not in body and len(body) < 2000, (target, body[:200])
def memory_kib():
    return next(int(l.split()[1]) for l in open(f"/proc/{pid}/status") if l.startswith("VmRSS"))
def descriptors(): return len(os.listdir(f"/proc/{pid}/fd"))
before = descriptors()

log("path traversal")
for path in ("/../../etc/passwd", "/v2/../../../etc/passwd", "/v2/%2e%2e/%2e%2e/etc/passwd", "/v2/good/blobs/../../../../etc/passwd",
             "/v2/good/blobs/sha256:../../../../etc/passwd", "/v2/good/blobs/sha256:..%2f..%2f..%2fetc%2fpasswd",
             "/v2/good/manifests/../../../../etc/passwd", "/v2/good/manifests/..", "/v2/good/manifests/%2e%2e%2fx",
             "/v2/good/../good/tags/list", "/v2//etc/passwd/manifests/1", "/v2/good/referrers/../../x", "/v2/./good/tags/list",
             "/v2/good/blobs/uploads/../../x", f"/v2/good/blobs/sha256%3A{hexes[:-2]}%00", "/v2/good%00/tags/list",
             "/v2/good\\..\\..\\x/tags/list", "file:///etc/passwd", "http://169.254.169.254/latest/meta-data"):
    refuse(path)
    refuse(path, "PUT", "Content-Length: 0\r\n")
    refuse(path, "DELETE")
for ns in ("../../etc", endless, "169.254.169.254", "127.0.0.1:22", "a/b", "%00", "x" * 5000, "user:password@endless.example"):
    refuse(f"/v2/good/manifests/1?ns={ns}")
    if ns != "a/b": refuse(f"/v2/{ns}/good/manifests/1")  # which is a name

log("digests, names, references")
for digest in ("", "sha256:", "sha256:zz", "sha256:" + "a" * 63, "sha256:" + "a" * 65, "sha256:" + "A" * 64, "md5:" + "a" * 32,
               "sha512:" + "a" * 128, "a" * 64, ":" * 70, "sha256:" + "a" * 20000, "%ff%fe"):
    for kind in ("blobs", "referrers"): refuse(f"/v2/good/{kind}/{digest}")
    refuse(f"/v2/good/blobs/uploads/?digest={digest}", "POST", "Content-Length: 0\r\n") if digest else None
for name in ("UPPER", "a//b", "-a", "a-", ".a", "a/", "a" * 300, "/".join("a" * 200), "a b", "\u00e9", "a\tb"):
    refuse(f"/v2/{name}/tags/list")
    refuse(f"/v2/{name}/manifests/1", "PUT", "Content-Length: 2\r\n\r\n{}")
for reference in ("x" * 129, ".dot", "-dash", "a b", "%", "%zz", "\u00e9", "a:b"):
    refuse(f"/v2/good/manifests/{reference}")

log("ranges: right bytes or 416")
for text in ("bytes=abc", "bytes=5-2", "bytes=-", "bytes=--1", "bytes=0-0,5-6", "bytes=0-", "octets=1-2", "bytes=1-99999999999999999999",
             "bytes=99999999999999999999-", "bytes=18446744073709551615-18446744073709551615", "bytes=1000000-", "bytes=-0", "bytes=-1",
             "bytes=0x10-0x20", "bytes= 1 - 2", "bytes=1-2;", "bytes=" + "0-1," * 5000, "", "\x01"):
    status, body = request(good, headers=f"Range: {text}\r\n")
    if status == 200: assert body == content, text
    elif status == 206: assert body and body in content, text
    else: assert 400 <= status < 500, (text, status)

log("requests that are none")
for data in (b"\r\n" * 1000, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", os.urandom(4096) + b"\r\n\r\n",
             b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", f"GET {good} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode(),
             b"PUT /v2/good/manifests/1 HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
             b"PUT /v2/good/manifests/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
             b"PUT /v2/good/manifests/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"):
    with connect() as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        got = answer(connection)
    assert got == b"" or got.startswith(b"HTTP/1.1 4"), (data[:60], got[:100])

log("huge headers")
for header in ("A: " + "x" * 100_000, "\r\n".join(f"H{i}: x" for i in range(10_000)), "A" * 100_000):
    status, _ = request(good, headers=header + "\r\n")
    assert status in (0, 400, 431), status
assert request("/v2/" + "a/" * 50_000 + "tags/list")[0] in (0, 400, 414, 431)
# A client that does not stop: answered, drained for a moment so that it can read the answer, then cut. Seconds until then.
def flood(head, piece):
    began = time.time()
    with connect() as connection:
        try:
            connection.sendall(head)
            while time.time() - began < 20: connection.sendall(piece)
        except ConnectionError: pass
    return time.time() - began
took = flood(b"GET / HTTP/1.1\r\nA: ", b"x" * 65536)
assert took < 10, f"a header is taken for {took:.0f} s"

log("manifests of a gigabyte: pushed")
status, _ = request("/v2/good/manifests/1", "PUT", f"Content-Length: {1 << 30}\r\n")
assert status == 413, status
chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
took = flood(b"PUT /v2/good/manifests/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", chunk)
assert took < 10, f"a manifest is taken for {took:.0f} s"
for body in (b"[" * 4_000_000, b'{"a":' * 800_000, b'{"manifests":[' + b"{}," * 1_000_000 + b"{}]}"):
    status, _ = raw(b"PUT /v2/good/manifests/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert 400 <= status < 500, status

log("manifests, referrers and tags of a gigabyte: from the upstream")
for path in ("/v2/huge/manifests/1", "/v2/chunked/manifests/1", f"/v2/huge/manifests/sha256:{hexes}", f"/v2/chunked/referrers/sha256:{hexes}",
             "/v2/chunked/tags/list", "/v2/huge/tags/list"):
    began = time.time()
    status, body = request(path)
    assert 500 <= status < 600 and len(body) < 2000, (path, status, body[:200])
    assert time.time() - began < 30, f"{path}: {time.time() - began:.0f} s"

log("three hundred slow clients, and one who is served meanwhile")
slow = [connect() for _ in range(300)]
began, slowest = time.time(), 0.0
text = b"GET /v2/ HTTP/1.1\r\nA: " + b"x" * 1000
closed, at = set(), 0
while len(closed) < len(slow):
    assert time.time() - began < 45, f"{len(slow) - len(closed)} slow connections are still open"
    for connection in slow:
        if connection in closed: continue
        try:
            connection.setblocking(False)
            connection.send(text[at:at + 1])
            if connection.recv(100) == b"": closed.add(connection)
            else: closed.add(connection)
        except BlockingIOError: pass
        except ConnectionError: closed.add(connection)
    at += 1
    asked = time.time()
    status, body = request(good)
    assert status == 200 and body == content
    slowest = max(slowest, time.time() - asked)
    time.sleep(0.5)
for connection in slow: connection.close()
log(f"the last was closed after {time.time() - began:.0f} s; the slowest answer meanwhile took {slowest * 1000:.0f} ms")
assert slowest < 5, slowest

# Connections to the upstream may stay.
for _ in range(50):
    if descriptors() <= before + 100: break
    time.sleep(0.1)
assert descriptors() <= before + 100, f"{descriptors()} descriptors, {before} before"
PY

while read -r path sent; do
  ((sent < 64 * 1024 * 1024)) || fail "$sent bytes of $path were taken"
done <"$WORK/sent"
rss=$(awk '/^VmHWM/ { print $2 }' "/proc/$PROXY_PID/status")
log "the proxy took $((rss / 1024)) MiB at most"
((rss <= MAX_RSS_KIB)) || fail "$rss KiB of memory"
expect 200 GET "/v2/good/blobs/sha256:$BLOB"
kill "$PROXY_PID"; wait "$PROXY_PID" || fail "no clean end: $?"
log "passed"
