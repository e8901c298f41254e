#!/usr/bin/env bash
# Makes the Debian packages: scripts/packages.sh [PRESET]; default release. They are in build/PRESET/packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=${1:-release}
scripts/build.sh "$preset" banyan banyan-keeper banyan-peer-agent banyan-registry-proxy banyan-tree-manager
cd "build/$preset"
cpack -G DEB
