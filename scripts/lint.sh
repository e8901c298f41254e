#!/usr/bin/env bash
# Format, layering and clang-tidy, all fatal: `lint.sh [--fast]`. --fast leaves clang-tidy out (it needs a configured
# build/dev and takes minutes).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mapfile -t sources < <(git ls-files '*.cc' '*.h')
clang-format --dry-run -Werror "${sources[@]}"
python3 tests/layering_test.py
while IFS= read -r script; do bash -n "$script"; done < <(git ls-files '*.sh' .ci/run)
if [[ ${1:-} == --fast ]]; then exit 0; fi

[[ -f build/dev/compile_commands.json ]] || cmake --preset dev </dev/null
# The generated protocol headers must exist before anything that includes them can be read.
cmake --build --preset dev --target banyan_image_format_proto banyan_agent_proto banyan_containerd_snapshots_proto banyan_cri_proto banyan_proxy_proto \
  banyan_tree_proto banyan_tree_state_proto </dev/null
run-clang-tidy -quiet -j2 -p build/dev "^$PWD/(?!build/).*\.cc$" </dev/null
