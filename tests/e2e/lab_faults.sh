#!/usr/bin/env bash
# Eight nodes read one image through the tree; an interior node is killed, or its link falls silent, in the middle: the others
# read on with right bytes and without a long stall, few of them move, and the proxy sends little more than it does without faults.
# The bars leave room for a busy machine: bench/lab/faults.py measures.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/lab.sh"

"$SOURCE_DIR/bench/lab/faults.py" --nodes 8 --rate 30mbit --mib 24 --cases interior,cut --check \
  --kill-stall 6 --cut-stall 6 --served 1.5
