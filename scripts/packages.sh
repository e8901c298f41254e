#!/usr/bin/env bash
# Makes the Debian packages: scripts/packages.sh [PRESET]; default release. They are in build/PRESET/packages.
# scripts/packages.sh --built BUILD OUT: of what a build directory holds already, into OUT.
set -euo pipefail
if [[ ${1:-} == --built ]]; then
  cd "$2"
  exec cpack -G DEB -B "$3"
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=${1:-release}
scripts/build.sh "$preset" banyan banyan-keeper banyan-peer-agent banyan-registry-proxy banyan-tree-manager
cd "build/$preset"
cpack -G DEB
