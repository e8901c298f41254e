# Helpers of the end-to-end scripts: `source tests/lib/e2e.sh`. Not run by itself.
#
# Gives each script a directory of its own, $WORK, and undoes on exit, however it comes, whatever was begun through these
# helpers: agents of data roots below $WORK, mounts below $WORK, processes started by start_*, and $WORK itself.
# $BANYAN_BIN is where the programs are (default: build/release/bin).
# shellcheck shell=bash
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C

SOURCE_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BANYAN_BIN=${BANYAN_BIN:-$SOURCE_DIR/build/release/bin}
COMPARE_TREES=${COMPARE_TREES:-$(dirname "$BANYAN_BIN")/tests/compare_trees}
# ctest counts this exit status as a skipped test.
SKIP=77

if ((EUID != 0)); then echo "needs root"; exit $SKIP; fi

WORK=$(mktemp -d "${TMPDIR:-/tmp}/banyan-e2e.XXXXXX")
DATA_ROOT=$WORK/data
STARTED=()

log() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }
fail() { log "FAILED: $*"; exit 1; }

# wait_for SECONDS COMMAND…: until the command succeeds; fails after so long.
wait_for() {
  local deadline=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || { log "gave up waiting for: $*"; return 1; }
    sleep 0.05
  done
}

# Mount points below a directory, the last mounted first.
mounts_below() {
  awk -v root="$1/" '{ gsub(/\\040/, " ", $5); if (index($5 "/", root) == 1) print $5 }' /proc/self/mountinfo | tac
}

# Processes with an argument that names a path in the directory: the agents and keepers of data roots there.
processes_of() {
  local file pid
  # Arguments in cmdline end with NUL, as -z takes lines to do.
  grep -lzE "^(--[a-z-]+=)?$1(/|\$)" /proc/[0-9]*/cmdline 2>/dev/null | while read -r file; do
    pid=${file#/proc/}; pid=${pid%/cmdline}
    [[ $pid == "$$" || $pid == "$BASHPID" ]] || echo "$pid"
  done || true  # none, or some ended meanwhile
}

# Ends the keeper and the agent of the data roots below a directory (default: $WORK).
stop_agents() {
  local root=${1:-$WORK} pids
  pids=$(processes_of "$root")
  [[ -z $pids ]] && return 0
  # Keepers restart agents, so all are told at once.
  # shellcheck disable=SC2086
  kill $pids 2>/dev/null || true
  # shellcheck disable=SC2016
  wait_for 5 bash -c 'for p in "$@"; do [[ -e /proc/$p && $(awk "{print \$3}" /proc/$p/stat) != Z ]] && exit 1; done; exit 0' - $pids ||
    kill -9 $pids 2>/dev/null || true
}

clean_up() {
  local status=$? mount pid
  trap - EXIT INT TERM HUP
  set +e
  # Lazily: a read may wait for an agent that will not answer any more. Its end frees the mount.
  while read -r mount; do
    umount -l "$mount"
  done < <(mounts_below "$WORK")
  stop_agents "$WORK"
  for pid in "${STARTED[@]}"; do
    kill "$pid" 2>/dev/null
    kill -CONT "$pid" 2>/dev/null  # a test may have stopped it
    wait "$pid" 2>/dev/null
  done
  rm -rf --one-file-system "$WORK"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# start_registry: a docker-registry on a free loopback port. Sets REGISTRY (host:port) and REGISTRY_LOG, whose lines end
# with the request, the status and the bytes sent, in Apache's combined form.
start_registry() {
  local attempt port pid
  REGISTRY_LOG=$WORK/registry.log
  for attempt in 1 2 3; do
    port=$(free_port)
    cat >"$WORK/registry.yml" <<YML
version: 0.1
log: {level: warn}
storage:
  filesystem: {rootdirectory: $WORK/registry}
  delete: {enabled: true}
http: {addr: "127.0.0.1:$port", secret: banyan}
YML
    OTEL_TRACES_EXPORTER=none docker-registry serve "$WORK/registry.yml" >>"$REGISTRY_LOG" 2>&1 </dev/null &
    pid=$!
    STARTED+=("$pid")
    if wait_for 10 python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/v2/')" &&
      kill -0 "$pid" 2>/dev/null; then
      REGISTRY=127.0.0.1:$port
      return 0
    fi
    log "registry did not start on port $port (attempt $attempt)"
  done
  fail "no registry: $(tail -3 "$REGISTRY_LOG")"
}

# push_image OCI_REFERENCE NAME:TAG: to the registry, byte for byte as it is in the layout.
push_image() {
  skopeo --insecure-policy copy --quiet --preserve-digests --dest-tls-verify=false "$1" "docker://$REGISTRY/$2" </dev/null
}

# Bytes of answers that the registry has sent since line $1 of its log (default: ever).
registry_bytes() {
  tail -n "+$((${1:-0} + 1))" "$REGISTRY_LOG" |
    awk -F'"' '$2 ~ /^GET / { split($3, answer, " "); bytes += answer[2] } END { printf "%d\n", bytes }'
}
registry_log_lines() { wc -l <"$REGISTRY_LOG"; }

# registry_get PATH: a body from the registry, on standard output.
registry_get() {
  python3 - "http://$REGISTRY$1" <<'PY'
import shutil, sys, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Accept": ", ".join(
    ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"))})
shutil.copyfileobj(urllib.request.urlopen(request), sys.stdout.buffer)
PY
}

banyan() { "$BANYAN_BIN/banyan" --data-root "$DATA_ROOT" --plain-http "$@" </dev/null; }
