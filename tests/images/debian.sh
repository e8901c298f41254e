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
    --customize-hook='rm -rf "$1/var/cache/apt/"*.bin' \
    "$codename" "$work/base.tar" "$work/sources"
  gzip -5 -n "$work/base.tar"
  python3 -B "$here/oci_layout.py" "$out" base --cmd /bin/bash "$work/base.tar.gz"
}

# install PACKAGE…: in the bundle's root, leaving neither package lists nor archives behind. This machine's apt downloads (with its
# proxies, certificates and keys); dpkg runs in the chroot.
install() {
  local root=$work/bundle/rootfs
  debian_sources >"$work/sources"
  cat >"$work/apt.conf" <<CONF
Dir "$root";
Dir::Etc::sourcelist "$work/sources";
Dir::Etc::sourceparts "-";
Dir::Etc::trusted "/etc/apt/trusted.gpg";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
DPkg::Chroot-Directory "$root";
DPkg::Options { "--force-unsafe-io"; };
APT::Sandbox::User "root";
APT::Install-Recommends "false";
$(proxies)
CONF
  unshare --mount --propagation private bash -euo pipefail -c '
    root=$1 work=$2; shift 2
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    for directory in var/lib/apt/lists var/cache/apt var/log tmp; do mount -t tmpfs tmpfs "$root/$directory"; done
    mkdir -p "$root/var/log/apt" "$root/var/cache/apt/archives/partial" "$root/var/lib/apt/lists/partial"
    export APT_CONFIG=$work/apt.conf
    apt-get update -qq
    apt-get install -y -qq -o Dpkg::Use-Pty=0 "$@"
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
  nginx) derive nginx-light ;;
  *) echo "debian.sh: unknown image '$name'" >&2; exit 1 ;;
esac
