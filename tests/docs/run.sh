#!/usr/bin/env bash
# Runs the commands of one document, or, with `check`, checks the marks of all.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
commands=$SOURCE_DIR/tests/docs/docs_commands.py
if [[ $1 == check ]]; then
  CTEST_NAMES=$WORK/names
  ctest --test-dir "$(dirname "$BANYAN_BIN")" --show-only | sed -n 's/^ *Test *#[0-9]*: //p' >"$CTEST_NAMES"
  python3 -B "$commands" list "$SOURCE_DIR" "$BANYAN_BIN" "$CTEST_NAMES" >"$WORK/documents"
  # A document with blocks to run has a test that runs them.
  while read -r document; do
    grep -qx "docs_$(basename "${document%.md}" | tr '[:upper:]-' '[:lower:]_')" "$CTEST_NAMES" || fail "no test runs $document"
  done <"$WORK/documents"
  exit 0
fi
python3 -B "$commands" script "$SOURCE_DIR" "$1" >"$WORK/script"
[[ $(wc -l <"$WORK/script") -gt 1 ]] || fail "$1 has no commands to run"
"$SOURCE_DIR/tests/docs/sandbox.sh" "$WORK/script"
