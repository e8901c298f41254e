#!/usr/bin/env bash
# Two of six nodes, which feed the others, invert bits of what they send, and then send it for ever at ten bytes a second: the others read
# right bytes all the same, name just these two in their metrics, and do not ask them again and again.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/lab.sh"

"$SOURCE_DIR/bench/lab/liars.py" --nodes 6 --rate 30mbit --mib 8 --lies flip,slow --check --stall 15
