#!/usr/bin/env bash
# A registry behind a link and one fresh node after another, at the service of coldstart.py: runs each line of standard input as
# commands (the helpers of ../containerd/lib.sh, tests/lib) and answers with a line of JSON on standard output when it is done:
# where the node is. Ends, and undoes everything, with the first command that fails or when its input ends.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../containerd/lib.sh"

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
