#!/usr/bin/env bash
# Eight nodes on links of 30 Mbit/s fetch one image of 32 MiB at once: registry and proxy send little more than one copy, the last
# node is not far from what its link allows, and every node has the right bytes. The bars leave room for a busy machine:
# bench/lab/fill.py measures.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/lab.sh"

"$SOURCE_DIR/bench/lab/fill.py" --nodes 8 --rate 30mbit --mib 32 --modes tree2 --check --bar 1.6 --bar-served 1.2
"$SOURCE_DIR/bench/lab/fill.py" --nodes 8 --rate 30mbit --mib 8 --modes tree1 --check --bar-served 1.3
