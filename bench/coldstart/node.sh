#!/usr/bin/env bash
# A registry behind a link and one fresh node after another, at the service of coldstart.py: runs each line of standard input as
# commands (the helpers of ../containerd/lib.sh, tests/lib) and answers with a line of JSON on standard output when it is done:
# where the node is. Ends, and undoes everything, with the first command that fails or when its input ends.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../containerd/lib.sh"

# What learns the order in which starts touch an image: behind the same link as the registry.
start_far_manager() {
  echo "a-token-of-the-benchmark" >"$WORK/token"
  MANAGER=10.99.0.2:4650
  far "$BANYAN_BIN/banyan-tree-manager" --data-root "$WORK/manager" --listen "$MANAGER" --http 127.0.0.1:4651 --token-file "$WORK/token" \
    >>"$WORK/manager.log" 2>&1 </dev/null &
  STARTED+=("$!")
  wait_for 20 banyan --json nodes --manager "$MANAGER" --token-file "$WORK/token" || fail "no tree-manager: $(tail -3 "$WORK/manager.log")"
}

# start_member NAME: a fresh node like start_node's that belongs to the manager's cluster; waits until it is all of it, since nodes of before are gone.
start_member() {
  start_node banyan "$(printf '[peer]\naddress = "10.99.0.1:4640"\nnode = "%s"\ntoken_file = "%s"\n[tree]\nmanager = "%s"\n' "$1" "$WORK/token" "$MANAGER")"
  wait_for 30 is_the_only_member "$1" || fail "other members than $1: $(members)"
}
members() { banyan --json nodes --manager "$MANAGER" --token-file "$WORK/token" | jq -c '[.nodes[].node]'; }
is_the_only_member() { [[ $(members) == "[\"$1\"]" ]]; }

describe() {
  jq -cn --arg socket "$CONTAINERD_SOCKET" --arg directory "$CONTAINERD_DIR" --arg cgroup "/$CGROUP_PARENT" --arg registry "$REGISTRY" \
    --arg agent "${AGENT_PID:-}" --arg keeper "${KEEPER_PID:-}" --arg containerd "${CONTAINERD_PID:-}" --arg client "$CRI_CLIENT" \
    --arg work "$WORK" '$ARGS.named'
}

exec 3<&0 4>&1 </dev/null 1>&2
start_far_registry 3<&- 4>&-
while IFS= read -r line <&3; do
  { eval "$line"; } 3<&- 4>&-
  describe >&4
done
