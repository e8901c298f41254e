#!/usr/bin/env bash
# The proxy is killed with -9 in the middle of fills, again and again. After each restart what it serves without an upstream is whole
# and right or refused; with one, fills go on where they were.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"

ROUNDS=${ROUNDS:-5}
mkdir "$WORK/blobs"
for ((i = 0; i < 5; ++i)); do
  head -c $((6 * 1024 * 1024 + i * 12345)) /dev/urandom >"$WORK/blob"
  mv "$WORK/blob" "$WORK/blobs/$(sha "$WORK/blob")"
done
: >"$WORK/sent"
python3 -B "$SOURCE_DIR/tests/tools/slow_upstream.py" "$WORK/blobs" 4 "$WORK/port" "$WORK/sent" </dev/null &
STARTED+=("$!")
wait_for 10 test -s "$WORK/port"
UPSTREAM=127.0.0.1:$(cat "$WORK/port")

proxy_before() {  # $1: host:port of the upstream
  start_proxy <<TOML
[mirror]
default_upstream = "up.example"
[convert]
enabled = false
[upstreams."up.example"]
endpoints = ["http://$1"]
attempts = 1
TOML
}
kill_proxy() { kill -9 "$PROXY_PID"; wait "$PROXY_PID" 2>/dev/null || true; }

# read_blobs cut|refused|whole: every blob by two clients at once. Whatever comes must be right and must not be told to be whole when
# it is not. cut: anything may be cut; refused: or refused; whole: nothing of the kind. Prints how many were whole.
read_blobs() {
  python3 - "$PROXY" "$WORK/blobs" "$1" <<'PY'
import http.client, os, sys, threading
proxy, directory, allowed = sys.argv[1:]
problems, whole = [], []
def read(name):
    right = open(f"{directory}/{name}", "rb").read()
    try:
        connection = http.client.HTTPConnection(proxy, timeout=60)
        connection.request("GET", f"/v2/app/blobs/sha256:{name}")
        answer = connection.getresponse()
        if answer.status != 200:
            if allowed != "refused" or answer.status < 500: problems.append(f"{name}: {answer.status}")
            return
        if answer.length != len(right): problems.append(f"{name}: told to have {answer.length} bytes")
        got = answer.read()
    except http.client.IncompleteRead as cut:
        got = cut.partial
    except OSError:
        got = b""
    if got != right[:len(got)]: problems.append(f"{name}: wrong bytes")
    if got == right: whole.append(name)
    elif allowed == "whole": problems.append(f"{name}: cut after {len(got)}")
threads = [threading.Thread(target=read, args=(name,)) for name in os.listdir(directory) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not problems, problems
print(len(set(whole)))
PY
}

for ((round = 1; round <= ROUNDS; ++round)); do
  proxy_before "$UPSTREAM"
  read_blobs cut >"$WORK/whole" &
  reader=$!
  sleep "$(printf "1.%d" $((RANDOM % 8)))"
  kill_proxy
  wait "$reader" || fail "wrong bytes before the kill"
  # As it stands now, with nobody to ask; and killed while it serves.
  proxy_before 127.0.0.1:1
  offline=$(read_blobs refused) || fail "wrong bytes after kill $round"
  read_blobs refused >/dev/null &
  reader=$!
  kill_proxy
  wait "$reader" || fail "wrong bytes at the second kill of round $round"
  log "killed $round times in the middle: $offline of 5 blobs are whole without an upstream"
done

proxy_before "$UPSTREAM"
[[ $(read_blobs whole) == 5 ]] || fail "not all can be read"
wait_for 5 grep "bytes=[1-9]" "$WORK/sent" || fail "no fill went on where it was: $(cat "$WORK/sent")"
kill "$PROXY_PID"; wait "$PROXY_PID" || fail "no clean end: $?"
proxy_before 127.0.0.1:1
[[ $(read_blobs whole) == 5 ]] || fail "what was whole is not kept"
log "passed"
