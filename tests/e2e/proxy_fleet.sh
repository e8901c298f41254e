#!/usr/bin/env bash
# A cold fleet: 200 clients ask at once for the same five blobs of a slow upstream, each on five connections, as containerd does.
# The upstream sends each blob once, first bytes arrive long before its last, every client gets right bytes, memory stays bounded.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"

CLIENTS=${CLIENTS:-200}
BLOBS=5
MAX_RSS_KIB=$((200 * 1000 * 1000 / 1024))
UPSTREAM_SECONDS=4

mkdir "$WORK/blobs"
for ((i = 0; i < BLOBS; ++i)); do
  head -c $((8 * 1024 * 1024)) /dev/urandom >"$WORK/blob"
  mv "$WORK/blob" "$WORK/blobs/$(sha "$WORK/blob")"
done

: >"$WORK/sent"
python3 -B "$SOURCE_DIR/tests/tools/slow_upstream.py" "$WORK/blobs" "$UPSTREAM_SECONDS" "$WORK/port" "$WORK/sent" </dev/null &
STARTED+=("$!")
wait_for 10 test -s "$WORK/port"

start_proxy <<TOML
[mirror]
default_upstream = "up.example"
[convert]
enabled = false
[upstreams."up.example"]
endpoints = ["http://127.0.0.1:$(cat "$WORK/port")"]
TOML

log "$CLIENTS clients, $((CLIENTS * BLOBS)) connections"
python3 - "$PROXY" "$WORK/blobs" "$CLIENTS" "$WORK/first" <<'PY'
import os, selectors, socket, sys, time
host, port = sys.argv[1].split(":")
blobs = {name: open(os.path.join(sys.argv[2], name), "rb").read() for name in os.listdir(sys.argv[2])}
selector = selectors.DefaultSelector()
class Client:
    def __init__(self, name):
        self.name, self.head, self.got = name, b"", None
        self.socket = socket.create_connection((host, int(port)))
        self.socket.sendall(f"GET /v2/team/app/blobs/sha256:{name} HTTP/1.1\r\nHost: proxy\r\n\r\n".encode())
        self.socket.setblocking(False)
        selector.register(self.socket, selectors.EVENT_READ, self)
clients = [Client(name) for _ in range(int(sys.argv[3])) for name in blobs]
began, first, right = time.time(), [], 0
while right < len(clients):
    ready = selector.select(60)
    assert ready, f"nothing for a minute; {right} of {len(clients)} are done"
    for key, _ in ready:
        client = key.data
        data = client.socket.recv(1 << 18)
        assert data, f"{client.name}: closed after {client.got}"
        if client.got is None:
            client.head += data
            head, end, data = client.head.partition(b"\r\n\r\n")
            if not end: continue
            assert head.startswith(b"HTTP/1.1 200 "), head
            client.got = 0
        if not data: continue
        if client.got == 0: first.append(time.time())
        blob = blobs[client.name]
        assert data == blob[client.got:client.got + len(data)], f"{client.name}: wrong bytes at {client.got}"
        client.got += len(data)
        if client.got == len(blob):
            selector.unregister(client.socket)
            client.socket.close()
            right += 1
open(sys.argv[4], "w").write(f"{max(first)}")
print(f"{right} right answers in {time.time() - began:.1f} s; the last first byte after {max(first) - began:.2f} s", file=sys.stderr)
PY

rss=$(awk '/^VmHWM/ { print $2 }' "/proc/$PROXY_PID/status")
log "the proxy took $((rss / 1024)) MiB at most"
((rss <= MAX_RSS_KIB)) || fail "$rss KiB of memory"
all_told() { (($(wc -l <"$WORK/sent") >= BLOBS)); }  # by the upstream, after the last bytes of each
wait_for 10 all_told || true
[[ $(wc -l <"$WORK/sent") == "$BLOBS" && $(cut -d' ' -f1 "$WORK/sent" | sort -u | wc -l) == "$BLOBS" ]] ||
  fail "the upstream did not send each blob once: $(cat "$WORK/sent")"
awk -v last_first="$(cat "$WORK/first")" '$4 <= last_first { exit 1 }' "$WORK/sent" ||
  fail "a client had its first byte only at $(cat "$WORK/first"), when the upstream had finished: $(cat "$WORK/sent")"
log "passed"
