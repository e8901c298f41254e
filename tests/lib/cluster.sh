# A small cluster on loopback: `source` it behind e2e.sh and proxy.sh. All daemons are real; links are not shaped (tests/lib/lab.sh is for that).
# shellcheck shell=bash

# start_manager: sets MANAGER (host:port), MANAGER_HTTP, TOKEN (a file) and MANAGER_PID. Called again it takes the same ports and data.
start_manager() {
  TOKEN=$WORK/token
  [[ -s $TOKEN ]] || echo "a-token-of-the-test" >"$TOKEN"
  MANAGER=${MANAGER:-127.0.0.1:$(free_port)}
  MANAGER_HTTP=${MANAGER_HTTP:-127.0.0.1:$(free_port)}
  "$BANYAN_BIN/banyan-tree-manager" --data-root "$WORK/manager" --listen "$MANAGER" --http "$MANAGER_HTTP" --token-file "$TOKEN" \
    >>"$WORK/manager.log" 2>&1 </dev/null &
  MANAGER_PID=$!
  STARTED+=("$MANAGER_PID")
  wait_for 20 page "$MANAGER_HTTP" /readyz || fail "the tree-manager does not start: $(tail -3 "$WORK/manager.log")"
}

# start_peer NAME: an agent under a keeper, with a mirror (HTTP_OF[NAME]), a snapshotter's socket, and peers. `on NAME banyan …` talks to it.
declare -A HTTP_OF KEEPER_OF
start_peer() {
  local name=$1
  local root=$WORK/$name
  mkdir -p "$root/data"
  HTTP_OF[$name]=${HTTP_OF[$name]:-127.0.0.1:$(free_port)}
  if [[ ! -e $root/agent.toml ]]; then
    cat >"$root/agent.toml" <<TOML
data_root = "$root/data"
keeper_socket = "$root/keeper.sock"
[snapshotter]
socket = "$root/snapshotter.sock"
[mirror]
address = "${HTTP_OF[$name]}"
[registries."$REGISTRY"]
plain_http = true
mirrors = ["http://$PROXY"]
[peer]
address = "127.0.0.1:$(free_port)"
node = "$name"
token_file = "$TOKEN"
[tree]
manager = "$MANAGER"
TOML
  fi
  "$BANYAN_BIN/banyan-keeper" --socket "$root/keeper.sock" --supervise -- "$BANYAN_BIN/banyan-peer-agent" --config "$root/agent.toml" \
    >>"$root/agent.log" 2>&1 </dev/null &
  KEEPER_OF[$name]=$!
  STARTED+=("$!")
  wait_for 20 page "${HTTP_OF[$name]}" /readyz || fail "agent $name does not start: $(tail -3 "$root/agent.log")"
}
on() { local DATA_ROOT=$WORK/$1/data; shift; "$@"; }

# page HOST:PORT PATH: the body, on standard output.
page() { python3 -c "import sys, urllib.request as u; sys.stdout.buffer.write(u.urlopen('http://$1$2', timeout=10).read())"; }
