#!/usr/bin/env bash
# deploy/network/banyan.nft marks what it says it marks, IPv4 and IPv6, and nothing else; loaded twice it is there once; it can be taken back.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
for program in nft ip jq; do command -v "$program" >/dev/null || { echo "needs $program"; exit $SKIP; }; done
rules=$SOURCE_DIR/deploy/network/banyan.nft

cat >"$WORK/count.nft" <<'NFT'
table inet count {
  counter content {}
  counter control {}
  counter other {}
  chain arrives {
    type filter hook input priority filter;
    meta l4proto != tcp accept
    ip dscp af11 counter name content accept
    ip6 dscp af11 counter name content accept
    ip dscp af31 counter name control accept
    ip6 dscp af31 counter name control accept
    counter name other
  }
}
NFT
cat >"$WORK/talk.py" <<'PY'
# talk.py PORT FAMILIES: as much from the server as to it, by IPv4 and by IPv6.
import socket, sys, threading
BYTES = 300_000
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))[:int(sys.argv[2])]:
    with socket.create_server((host, int(sys.argv[1])), family=family) as server:
        def serve():
            connection, _ = server.accept()
            with connection:
                threading.Thread(target=connection.sendall, args=(b"x" * BYTES,)).start()
                while connection.recv(1 << 16): pass
        thread = threading.Thread(target=serve)
        thread.start()
        with socket.create_connection((host, int(sys.argv[1]))) as client:
            sender = threading.Thread(target=client.sendall, args=(b"y" * BYTES,))
            sender.start()
            got = 0
            while got < BYTES: got += len(client.recv(1 << 16))
            sender.join()
        thread.join()
PY
export WORK rules
# shellcheck disable=SC2016
unshare --net bash -euo pipefail -c '
  ip link set lo up
  families=1
  ! grep -q lo /proc/self/net/if_inet6 2>/dev/null || families=2
  nft -f "$rules"; nft -f "$rules"
  nft -f "$WORK/count.nft"
  # bytes PORT: content, control and other of a talk with it.
  bytes() {
    nft reset counters >/dev/null
    python3 "$WORK/talk.py" "$1" "$families"
    nft -j list counters | jq -r "[.nftables[].counter // empty | {(.name): .bytes}] | add | \"\(.content) \(.control) \(.other)\""
  }
  each=$((300000 * families))
  for port in 4640 5050; do
    read -r content control other < <(bytes $port)
    echo "$port: $content bytes as content, $control as control, $other without a mark"
    ((content > each && control == 0 && other > each)) || { echo "FAILED: what comes from $port is content, what goes there is not"; exit 1; }
  done
  read -r content control other < <(bytes 4653)
  echo "4653: $content $control $other"
  ((content > 2 * each && control == 0 && other == 0)) || { echo "FAILED: what swarms send in either direction is content"; exit 1; }
  read -r content control other < <(bytes 4650)
  echo "4650: $content $control $other"
  ((content == 0 && control > 2 * each && other == 0)) || { echo "FAILED: what goes to and from 4650 is control"; exit 1; }
  read -r content control other < <(bytes 4651)
  echo "4651: $content $control $other"
  ((content == 0 && control == 0)) || { echo "FAILED: 4651 is marked"; exit 1; }
  nft delete table inet banyan
  read -r content control other < <(bytes 4640)
  ((content == 0 && control == 0)) || { echo "FAILED: taken back, it marks still"; exit 1; }
' >&2 || fail "the marks are others"
log "all well"
