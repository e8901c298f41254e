#!/usr/bin/env bash
# The Debian packages on a fresh machine (a minimal Debian 12 in a chroot): they install with what they depend on and nothing is started, as there is no
# systemd; the daemons run with the sample configurations; an upgrade and a removal leave the reader of a lazy mount alone; after a purge nothing is
# left. lintian has no error to name. `packages.sh systemd` does the same where systemd is the machine's process 1.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"
for program in cpack lintian mmdebstrap docker-registry; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit $SKIP; }
done
here=$(dirname "${BASH_SOURCE[0]}")
packages=(banyan banyan-keeper banyan-peer-agent banyan-registry-proxy banyan-tree-manager)
part=${1:-plain}

log "the packages"
(cd "$(dirname "$BANYAN_BIN")" && cpack -G DEB -B "$WORK/packages") >"$WORK/cpack.log" 2>&1 || fail "cpack: $(tail -n 5 "$WORK/cpack.log")"
for name in "${packages[@]}"; do
  deb=$(echo "$WORK"/packages/"${name}"_0.*.deb)
  [[ -f $deb ]] || fail "no package $name"
  # A later version of the same: for the upgrade.
  dpkg-deb --raw-extract "$deb" "$WORK/raw"
  sed -i 's/^Version: .*/&+1/' "$WORK/raw/DEBIAN/control"
  mkdir -p "$WORK/later"
  dpkg-deb --root-owner-group --build "$WORK/raw" "$WORK/later/$name.deb" >/dev/null
  rm -rf "$WORK/raw"
done
if [[ $part == plain ]]; then
  # Not ours to mend here: no bug number for a first upload, no hardening flags of Debian's build, native.
  lintian --no-cfg --fail-on error --suppress-tags initial-upload-closes-no-bugs "$WORK"/packages/*.deb >"$WORK/lintian" 2>&1 ||
    fail "lintian: $(cat "$WORK/lintian")"
  log "lintian: no error; $(grep -c '^W:' "$WORK/lintian" || true) warnings: $(grep '^W:' "$WORK/lintian" | awk '{ print $3 }' | sort | uniq -c | tr -s ' \n' ' ')"
fi

log "a fresh machine"
base=$("$SOURCE_DIR/tests/images/make_image.sh" --unpacked base)
root=$WORK/root
mkdir -p "$WORK/upper" "$WORK/overlay-work" "$root" "$WORK/var-lib-banyan"
mount -t overlay overlay -o "lowerdir=$base,upperdir=$WORK/upper,workdir=$WORK/overlay-work" "$root"
rm -rf "${root:?}"/{debs,etc/banyan}
mkdir -p "$root/debs/now" "$root/debs/later" "$root/var/lib/banyan"
# As on a machine with a disk: the store does not lie on overlayfs.
mount --bind "$WORK/var-lib-banyan" "$root/var/lib/banyan"
cp "$WORK"/packages/*.deb "$root/debs/now"
cp "$WORK"/later/*.deb "$root/debs/later"

# This machine's apt downloads, the chroot's dpkg installs.
apt_in_root() {
  apt-get indextargets --format '$(ORIGIN)|$(SIGNED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)' 'Created-By: Packages' | sort -u |
    awk -F'|' '$1 == "Debian" { option = ($2 ~ /^\//) ? "[signed-by=" $2 "] " : ""; print "deb " option $3, $4, $5 }' >"$WORK/sources"
  cat >"$WORK/apt.conf" <<CONF
Dir "$root";
Dir::Etc::sourcelist "$WORK/sources";
Dir::Etc::sourceparts "-";
Dir::Etc::trusted "/etc/apt/trusted.gpg";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
DPkg::Chroot-Directory "$root";
DPkg::Options { "--force-unsafe-io"; };
APT::Sandbox::User "root";
APT::Install-Recommends "false";
$(apt-config dump --format '%F "%v";%n' Acquire | grep -i proxy || true)
CONF
  APT_CONFIG=$WORK/apt.conf DEBIAN_FRONTEND=noninteractive LC_ALL=C unshare --mount --propagation private bash -euo pipefail -c '
    mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; shift; exec apt-get "$@"' - "$root" "$@" </dev/null
}
apt_in_root update -qq >"$WORK/apt.log" 2>&1 || fail "apt-get update: $(tail -n 3 "$WORK/apt.log")"
extra=()
[[ $part != systemd ]] || extra=(systemd systemd-sysv)
apt_in_root install -y -qq "$root"/debs/now/*.deb "${extra[@]}" >"$WORK/apt.log" 2>&1 || fail "apt-get install: $(tail -n 15 "$WORK/apt.log")"
for name in "${packages[@]}"; do
  [[ $(chroot "$root" dpkg-query -W -f '${db:Status-Status}' "$name") == installed ]] || fail "$name is not installed"
done
for file in /usr/bin/banyan-peer-agent /lib/systemd/system/banyan-keeper.service /etc/banyan/peer-agent.toml /etc/banyan/token /etc/banyan/keys/signing.pem \
  /usr/share/man/man1/banyan-mount.1.gz /usr/share/bash-completion/completions/banyan; do
  [[ -s $root$file ]] || fail "the packages lack $file"
done
[[ $(stat -c %a "$root/etc/banyan/token") == 600 ]] || fail "everybody may read /etc/banyan/token"
[[ -L $root/etc/systemd/system/multi-user.target.wants/banyan-peer-agent.service ]] || fail "the agent's unit is not enabled"
[[ -z $(chroot "$root" dpkg --verify "${packages[@]}") ]] || fail "dpkg --verify: $(chroot "$root" dpkg --verify "${packages[@]}")"
# Its own configuration must not be overwritten by an upgrade.
echo '# a line of the operator' >>"$root/etc/banyan/peer-agent.toml"

log "an image"
make_oci "$WORK/oci" app one 8 >/dev/null
export PACKAGES_ROOT=$root PACKAGES_WORK=$WORK PACKAGES_OCI=$WORK/oci
unshare --mount --propagation private --net --pid --fork --kill-child --mount-proc bash "$here/$part.sh"
log "all well"
