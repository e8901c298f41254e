#!/usr/bin/env bash
# Installs, builds and tests: what a fresh clone must pass. PRESET=asan or PRESET=tsan tests another build than `release`;
# arguments go to ctest. Ends with ctest's own summary.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=${PRESET:-release}
scripts/install-deps.sh
scripts/lint.sh --fast
scripts/build.sh "$preset"
exec ctest --test-dir "build/$preset" --output-on-failure --parallel "$(nproc)" "$@" </dev/null
