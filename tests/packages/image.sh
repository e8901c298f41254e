#!/usr/bin/env bash
# The part of packages.sh that makes an image by deploy/kubernetes/Containerfile, without a network: what it calls debian:12-slim is here a Debian 12 that has
# already what the packages depend on ($PACKAGES_ROOT). What the manifests run must be in it, and run as their user.
set -euo pipefail
work=$PACKAGES_WORK
fail() { echo "FAILED: $*" >&2; tail -n 20 "$work/buildah.log" >&2; exit 1; }
# With a store of its own.
mkdir -p "$work/store" "$work/run-root" "$work/home"
export HOME=$work/home BUILDAH_ISOLATION=chroot TMPDIR=$work/home
build() { buildah --root "$work/store" --runroot "$work/run-root" --storage-driver "$driver" --storage-opt '' "$@" </dev/null 2>>"$work/buildah.log"; }
driver=overlay
base=$(build from scratch)
root=$(build mount "$base")
cp -a "$PACKAGES_ROOT/." "$root/"
build commit --quiet --rm "$base" docker.io/library/debian:12-slim >/dev/null || fail "no base image"
build bud --quiet --pull=never --layers=false -f "$SOURCE_DIR/deploy/kubernetes/Containerfile" -t registry.example/banyan:test "$work/packages" >>"$work/buildah.log" ||
  fail "the Containerfile does not build"
made=$(build from --pull=never registry.example/banyan:test)
inside() { build run --user 65532:65532 "$made" -- "$@"; }
commands=$(kubectl kustomize "$SOURCE_DIR/deploy/kubernetes" | /usr/bin/python3 -c '
import sys, yaml
for d in filter(None, yaml.safe_load_all(sys.stdin)):
    if "template" in d.get("spec", {}): print(d["spec"]["template"]["spec"]["containers"][0]["command"][0])')
(($(wc -l <<<"$commands") == 4)) || fail "the manifests run $commands"
for program in $commands /usr/bin/banyan; do
  [[ $(inside "$program" --version) == banyan* ]] || fail "the image cannot run $program"
done
inside test -x /usr/share/banyan/banyan-preemption || fail "the image lacks what drains a node"
inside test ! -e /etc/banyan/keys -a ! -e /etc/banyan/token -a ! -e /tmp/debs || fail "the image holds keys, a token or packages"
