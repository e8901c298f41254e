#!/usr/bin/env bash
# Runs the commands of one document, or, with `check`, checks the marks of all.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
commands=$SOURCE_DIR/tests/docs/docs_commands.py
if [[ $1 == check ]]; then
  build=$(dirname "$BANYAN_BIN")
  ctest --test-dir "$build" --show-only=json-v1 >"$WORK/tests"
  jq -r '.tests[].name' "$WORK/tests" >"$WORK/names"
  python3 -B "$commands" list "$SOURCE_DIR" "$BANYAN_BIN" "$WORK/tests" >"$WORK/documents"
  # A document with blocks to run has a test that runs them.
  while read -r document; do
    grep -qx "docs_$(basename "${document%.md}" | tr '[:upper:]-' '[:lower:]_')" "$WORK/names" || fail "no test runs $document"
  done <"$WORK/documents"
  # What the commands of README and getting-started build, where a test takes it as built.
  while read -r targets; do
    # shellcheck disable=SC2086
    ninja -C "$build" -t query $targets >/dev/null || fail "a script builds what is not to be built: $targets"
    [[ $targets == *banyan-tree-manager* ]] || fail "a script does not build all programs: $targets"
  done < <(sed -nE 's/^ *"?(\$scripts|scripts)\/build\.sh"? [^ ]+ //p' "$SOURCE_DIR"/scripts/{quickstart,packages}.sh | tee "$WORK/targets")
  [[ $(wc -l <"$WORK/targets") == 2 ]] || fail "which targets do quickstart.sh and packages.sh build?"
  exit 0
fi
for kind in run smaller; do python3 -B "$commands" script "$SOURCE_DIR" "$1" $kind >"$WORK/$kind"; done
[[ $(cat "$WORK/run" "$WORK/smaller" | wc -l) -gt 2 ]] || fail "$1 has no commands to run"
[[ $(wc -l <"$WORK/run") == 1 ]] || "$SOURCE_DIR/tests/docs/sandbox.sh" "$WORK/run"
(cd "$SOURCE_DIR" && bash "$WORK/smaller")
