#!/usr/bin/env bash
# From a fresh Debian 12 machine to a container that starts before its image has arrived: `scripts/quickstart.sh`.
#
# Installs and builds; makes an image out of Debian packages (python3 with numpy) and pushes it to a docker-registry on
# loopback; converts it there; then runs the same command on it three times, each time with cold caches: after a full pull and
# unpack, by `banyan run` on a node that has nothing, and by `banyan run` once more. Prints the time to the command's output and the
# bytes that the registry sent, by its own access log. Nothing is left behind but packages, build/ and the image's cache.
# Needs root. QUICKSTART_SKIP_BUILD=1 uses the programs in $BANYAN_BIN as they are.
set -euo pipefail
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
started=$SECONDS

if [[ -z ${QUICKSTART_SKIP_BUILD:-} ]]; then
  "$scripts/install-deps.sh"
  "$scripts/build.sh" release banyan banyan-peer-agent banyan-keeper
fi
source "$scripts/../tests/lib/e2e.sh"

log "the image: python3 with numpy, out of Debian packages"
layout=$("$SOURCE_DIR/tests/images/make_image.sh" python)
command=(python3 -c 'import numpy; print("numpy", numpy.__version__)')

log "a registry, and the image in it"
start_registry
push_image "$layout" app:1
reference=docker://$REGISTRY/app:1

log "banyan convert $reference"
banyan convert "$reference"

cold() {
  sync
  echo 3 >/proc/sys/vm/drop_caches
}
# milliseconds_since EPOCHREALTIME
milliseconds_since() { echo $(((${EPOCHREALTIME/./} - ${1/./}) / 1000)); }

pull_unpack_run() {
  skopeo --insecure-policy copy --quiet --src-tls-verify=false "$reference" "oci:$WORK/pulled:app" </dev/null >&2
  umoci raw unpack --image "$WORK/pulled:app" "$WORK/rootfs" </dev/null >/dev/null 2>&1
  chroot "$WORK/rootfs" "${command[@]}" </dev/null
}
lazy_run() { banyan run "$reference" -- "${command[@]}"; }

# measure COMMAND…: sets `time_ms` to the first line of its output, `bytes` sent by the registry until its end, `output`.
measure() {
  local before start pid
  cold
  before=$(registry_log_lines)
  start=$EPOCHREALTIME
  coproc RUN { "$@" 2>"$WORK/stderr"; }
  pid=$RUN_PID
  if ! IFS= read -r output <&"${RUN[0]}"; then cat "$WORK/stderr" >&2; fail "$1 printed nothing"; fi
  time_ms=$(milliseconds_since "$start")
  wait "$pid" || { cat "$WORK/stderr" >&2; fail "$1 failed"; }
  sleep 0.2  # the registry writes a line when an answer has been sent
  bytes=$(registry_bytes "$before")
}

rows=()
row() {
  log "$1: $output"
  full_ms=${full_ms:-$time_ms}
  rows+=("$(awk -v what="$1" -v ms="$time_ms" -v bytes="$bytes" -v full="$full_ms" \
    'BEGIN { printf "%-34s %9.2f s %9.1f MB %9.1f x", what, ms / 1000, bytes / 1e6, full / ms }')")
}
log "each run with cold caches"
measure pull_unpack_run
row "full pull, unpack, run"
rm -rf "$WORK/pulled" "$WORK/rootfs"
DATA_ROOT=$WORK/node  # what the conversion kept on this machine shall not help
measure lazy_run
row "banyan run, first on the node"
grep '^banyan:' "$WORK/stderr" >&2 || true
measure lazy_run
row "banyan run, once more"

printf '\n%-34s %11s %12s %11s\n' "import numpy" "output after" "fetched" "faster"
printf '%s\n' "${rows[@]}"
printf '\nIn %d s altogether.\n' $((SECONDS - started))
