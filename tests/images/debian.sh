#!/usr/bin/env bash
# Images made of Debian packages: `debian.sh NAME OUT [PARENT]` writes an OCI layout with the one image NAME to OUT.
#
# `base` is a minimal root by mmdebstrap in one layer; every other image is its PARENT layout's image and one layer more,
# installed by apt in a chroot and packed by umoci. Packages come from wherever this machine's apt takes Debian's from.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=$1 out=$2 parent=${3:-}
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

work=$(mktemp -d "${TMPDIR:-/tmp}/banyan-image.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT

# This machine's sources of Debian's own packages, one `deb` line each.
debian_sources() {
  apt-get indextargets --format '$(ORIGIN)|$(SIGNED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)' 'Created-By: Packages' |
    sort -u | awk -F'|' '$1 == "Debian" {
      option = ($2 ~ /^\//) ? "[signed-by=" $2 "] " : ""
      print "deb " option $3, $4, $5 }'
}
proxies() { apt-config dump --format '%F "%v";%n' Acquire | grep -i proxy || true; }

make_base() {
  [[ -n $(debian_sources) ]] || apt-get update -qq
  debian_sources >"$work/sources"
  [[ -s $work/sources ]] || { echo "debian.sh: apt has no Debian source" >&2; return 1; }
  proxies >"$work/apt.conf"
  local codename
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  mmdebstrap --quiet --mode=root --variant=minbase --aptopt="$work/apt.conf" \
    --customize-hook='touch "$1/etc/resolv.conf"' --customize-hook='rm -rf "$1/var/cache/apt/"*.bin' \
    "$codename" "$work/base.tar" "$work/sources"
  gzip -5 -n "$work/base.tar"
  python3 -B "$here/oci_layout.py" "$out" base --cmd /bin/bash "$work/base.tar.gz"
}

# install PACKAGE…: in the bundle's root, leaving neither package lists nor archives behind.
install() {
  local root=$work/bundle/rootfs
  debian_sources >"$work/sources"
  { proxies; echo 'Dir::Etc::sourcelist "/tmp/sources"; Dir::Etc::sourceparts "-";'; } >"$work/apt.conf"
  unshare --mount --propagation private bash -euo pipefail -c '
    root=$1 work=$2; shift 2
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    for directory in var/lib/apt/lists var/cache/apt var/log tmp; do mount -t tmpfs tmpfs "$root/$directory"; done
    mkdir -p "$root/var/log/apt" "$root/var/cache/apt/archives/partial"
    mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
    mount --bind /usr/share/keyrings "$root/usr/share/keyrings"
    cp "$work/apt.conf" "$work/sources" "$root/tmp/"
    export APT_CONFIG=/tmp/apt.conf DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
    chroot "$root" apt-get update -qq
    chroot "$root" apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Options::=--force-unsafe-io "$@"
  ' install "$root" "$work" "$@" </dev/null >"$work/log" 2>&1 || { cat "$work/log" >&2; return 1; }
}

# derive PACKAGE…: the parent's image and a layer with the packages.
derive() {
  local parent_name
  parent_name=$(jq -r '.manifests[0].annotations["org.opencontainers.image.ref.name"]' "$parent/index.json")
  cp -a "$parent" "$out"
  umoci unpack --image "$out:$parent_name" "$work/bundle"
  install "$@"
  umoci repack --image "$out:$name" "$work/bundle"
  umoci rm --image "$out:$parent_name"
  umoci gc --layout "$out"
}

case $name in
  base) make_base ;;
  python) derive python3 python3-numpy ;;
  scipy) derive python3-scipy g++ python3-pil python3-setuptools ;;
  node) derive nodejs ;;
  jre) derive openjdk-17-jre-headless ;;
  *) echo "debian.sh: unknown image '$name'" >&2; exit 1 ;;
esac
