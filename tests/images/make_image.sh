#!/usr/bin/env bash
# Makes a test image as an OCI layout.
#
#   make_image.sh NAME [OUT]           prints `oci:DIR:NAME`
#   make_image.sh --unpacked NAME      prints a directory that holds what the image means, unpacked by umoci (`adversarial`:
#                                      created by its writer's model); not to be written to either
#
# NAME: base, python, scipy, node, jre, nginx (Debian packages, through the machine's own apt sources), layers127, adversarial,
# adversarial-umoci (written byte by byte), random-MIB (one layer of so many MiB that do not compress), random-MIBxLAYERS (several of them). Images are made once and kept under ${BANYAN_CACHE:-/var/cache/banyan-test-images},
# keyed by a hash of the scripts that made them; concurrent makers wait for each other. Without OUT the answer names the
# cached layout, which must not be written to; with OUT the image is copied to that directory (added, if it is a layout).
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${BANYAN_CACHE:-/var/cache/banyan-test-images}
unpacked=
if [[ ${1:-} == --unpacked ]]; then unpacked=1; shift; fi
name=${1:?"usage: make_image.sh [--unpacked] NAME [OUT]"}
out=${2:-}

# Which scripts decide the bytes of an image; their hash is part of its directory's name.
inputs() {
  case $1 in
    base | python | scipy | node | jre | nginx) echo debian.sh oci_layout.py ;;
    layers127) echo debian.sh oci_layout.py tar_writer.py layers127.py ;;
    adversarial | adversarial-umoci) echo oci_layout.py tar_writer.py adversarial.py ;;
    random-[1-9]*x[1-9]*) echo oci_layout.py random_layers.py ;;
    random-[1-9]*) echo oci_layout.py random_image.py ;;
    *) echo "make_image.sh: unknown image '$1'" >&2; return 1 ;;
  esac
}

directory_of() {
  local files
  files=$(inputs "$1")
  # shellcheck disable=SC2086
  echo "$cache/$1-$(cd "$here" && sha256sum $files | sha256sum | cut -c1-16)"
}

make() {
  local image=$1 directory=$2
  case $image in
    base) "$here/debian.sh" base "$directory" ;;
    python | node | jre | nginx) "$here/debian.sh" "$image" "$directory" "$(ensure base)" ;;
    scipy) "$here/debian.sh" scipy "$directory" "$(ensure python)" ;;
    layers127) python3 -B "$here/layers127.py" "$directory" "$(ensure base)" ;;
    adversarial | adversarial-umoci) python3 -B "$here/adversarial.py" layout "$image" "$directory" ;;
    random-*x*) python3 -B "$here/random_layers.py" "$directory" "$image" ;;
    random-*) python3 -B "$here/random_image.py" "$directory" "$image" ;;
  esac
}

unpack() {
  local image=$1 layout=$2 directory=$3
  mkdir -p "$directory"
  if [[ $image == adversarial ]]; then
    python3 -B "$here/adversarial.py" create "$image" "$directory/rootfs"
  else
    umoci raw unpack --image "$layout:$image" "$directory/rootfs"
  fi
}

# once DIRECTORY WHAT COMMAND…: unless DIRECTORY is there, runs the command with `$DIRECTORY.making` as its last argument
# and gives that its final name. Only what is finished bears a final name; concurrent callers wait.
once() {
  local directory=$1 what=$2
  shift 2
  if [[ -d $directory ]]; then return; fi
  mkdir -p "$cache"
  (
    flock 9
    if [[ ! -d $directory ]]; then
      local started=$SECONDS
      rm -rf "$directory.making"
      "$@" "$directory.making" >&2 9>&-
      mv "$directory.making" "$directory"
      echo "made $what in $((SECONDS - started)) s" >&2
    fi
  ) 9>"$directory.lock"
}

# Prints the directory of the finished image.
ensure() {
  local directory
  directory=$(directory_of "$1")
  once "$directory" "image $1" make "$1"
  echo "$directory"
}

layout=$(ensure "$name")
if [[ -n $unpacked ]]; then
  once "$layout.unpacked" "unpacked image $name" unpack "$name" "$layout"
  echo "$layout.unpacked/rootfs"
  exit
fi
if [[ -n $out ]]; then
  mkdir -p "$out/blobs/sha256"
  cp -n "$layout"/blobs/sha256/* "$out/blobs/sha256/"
  cp "$layout/oci-layout" "$out/"
  if [[ -f $out/index.json ]]; then
    jq -s --arg tag "$name" '.[0].manifests = [.[0].manifests[]
        | select(.annotations["org.opencontainers.image.ref.name"] != $tag)] + .[1].manifests | .[0]' \
      "$out/index.json" "$layout/index.json" >"$out/index.json.new"
    mv "$out/index.json.new" "$out/index.json"
  else
    cp "$layout/index.json" "$out/"
  fi
  layout=$out
fi
echo "oci:$layout:$name"
