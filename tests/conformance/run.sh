#!/usr/bin/env bash
# containerd's suite for snapshotters against our snapshotter.
#
#   run.sh SNAPSHOT_SERVER WORK_DIR      WORK_DIR keeps Go's cache and the built suite
#
# Passes when at least 20 cases pass, none fails, and none is skipped but Rename, which the suite always skips.
set -euo pipefail
SNAPSHOT_SERVER=$(realpath "$1")
export SNAPSHOT_SERVER
work=$(realpath -m "$2")
here=$(cd "$(dirname "$0")" && pwd)

if ((EUID != 0)); then echo "needs root: the suite mounts"; exit 77; fi
for needed in /usr/share/gocode/src/github.com/containerd/containerd/snapshots/testsuite "$(command -v go || echo go)"; do
  [[ -e $needed ]] || { echo "needs $needed (golang-go, golang-github-containerd-containerd-dev)"; exit 77; }
done

mkdir -p "$work/gopath/src/banyan.test"
ln -sfn "$here/snapshots" "$work/gopath/src/banyan.test/snapshots"
export GO111MODULE=off GOFLAGS=-buildvcs=false GOCACHE=$work/gocache GOPATH=$work/gopath:/usr/share/gocode
(cd "$work/gopath/src/banyan.test/snapshots" && go test -c -o "$work/suite" banyan.test/snapshots)

# Unix sockets are made below it, and their paths are short.
TMPDIR=$(mktemp -d /tmp/bc.XXXXXX)
export TMPDIR
clean_up() {
  awk -v root="$TMPDIR/" 'index($5, root) == 1 { print $5 }' /proc/self/mountinfo | tac | while read -r mount; do
    umount -l "$mount"
  done
  rm -rf --one-file-system "$TMPDIR"
}
trap clean_up EXIT

status=0
(cd "$work" && "$work/suite" -test.v) >"$work/suite.log" 2>&1 || status=$?
grep -E '^ *--- ' "$work/suite.log" || true
passed=$(grep -c '^    --- PASS' "$work/suite.log" || true)
skipped=$(grep -E '^    --- SKIP' "$work/suite.log" | grep -vc Rename || true)
echo "$passed passed, $skipped skipped that should not be"
if ((status != 0 || passed < 20 || skipped > 0)); then
  cat "$work/suite.log"
  exit 1
fi
