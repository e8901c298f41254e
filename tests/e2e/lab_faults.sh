#!/usr/bin/env bash
# Eight nodes read one image through the tree, at random and at 60 % of their links of 50 Mbit/s; an interior node is killed, or its link
# falls silent, in the middle: the others read on with right bytes, no read waits much longer than usual, few nodes move, and the proxy
# sends little more than it does without a fault. The bars leave room for a busy machine; bench/lab/faults.py measures against 1 s
# (killed), 3 s (silent) and 5 %.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/lab.sh"

"$SOURCE_DIR/bench/lab/faults.py" --nodes 8 --rate 50mbit --mib 24 --orders random --cases none,interior,cut --check \
  --kill-stall 3 --cut-stall 5 --served-rise 1.3
