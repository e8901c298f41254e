#!/usr/bin/env bash
# Configures and builds one preset: `build.sh [PRESET [NINJA_ARGUMENT…]]`. The default is `release`, whose programs are in
# build/release/bin. Warnings are errors.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=${1:-release}
shift || true
export CCACHE_NOHASHDIR=1
cmake --preset "$preset" </dev/null
exec cmake --build --preset "$preset" -- "$@" </dev/null
