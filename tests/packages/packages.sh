#!/usr/bin/env bash
# The Debian packages on a machine of their own, a minimal Debian 12 with what they depend on: they install and nothing is
# started where there is no systemd; the daemons run with the sample configurations; an upgrade and a removal leave the
# reader of a lazy mount alone; after a purge nothing is left. lintian has no error to name, and deploy/kubernetes/Containerfile makes an image of them.
# `packages.sh systemd` does the same (but lintian and image) where systemd is the machine's process 1.
#
# The machine is made once (apt, minutes at most) and kept beside the test images as the upper directory of an overlay over
# the image "base"; a run adds a layer of its own and needs no network.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"
for program in cpack lintian mmdebstrap docker-registry; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit $SKIP; }
done
here=$(dirname "${BASH_SOURCE[0]}")
packages=(banyan banyan-keeper banyan-peer-agent banyan-registry-proxy banyan-tree-manager)
part=${1:-plain}

# systemd's control group, which must be ours to make, and to mount as a machine sees it.
PACKAGES_GROUP=
may_boot() {
  local hierarchy=/sys/fs/cgroup kind=(-t cgroup2)
  [[ ! -d $hierarchy/systemd ]] || hierarchy+=/systemd kind=(-t cgroup -o 'none,name=systemd')
  PACKAGES_GROUP=$(mktemp -d "$hierarchy/banyan-packages.XXXXXX" 2>&1) || { echo "$PACKAGES_GROUP"; PACKAGES_GROUP=; return 1; }
  # shellcheck disable=SC2016
  unshare --mount --propagation private bash -ec 'echo $$ >"$1/cgroup.procs"; shift; exec unshare --cgroup mount "$@" banyan /mnt' - "$PACKAGES_GROUP" "${kind[@]}" 2>&1
}
# What was in it has been killed with its process namespace, and may take a moment to end.
group_clean_up() {
  local status=$? deadline=$((SECONDS + 10))
  trap '' INT TERM HUP
  set +e
  while [[ -n $PACKAGES_GROUP && -d $PACKAGES_GROUP ]]; do
    find "$PACKAGES_GROUP" -depth -type d -exec rmdir {} + 2>/dev/null && break
    ((SECONDS < deadline)) || { log "$PACKAGES_GROUP is left"; status=1; break; }
    sleep 0.2
  done
  (exit "$status")
  clean_up
}
if [[ $part == systemd ]]; then
  trap group_clean_up EXIT
  may_boot || { echo "no control group for a systemd here (see above)"; exit $SKIP; }
fi

log "the packages"
"$SOURCE_DIR/scripts/packages.sh" --built "$(dirname "$BANYAN_BIN")" "$WORK/packages" >"$WORK/cpack.log" 2>&1 ||
  fail "scripts/packages.sh: $(tail -n 5 "$WORK/cpack.log")"
mkdir "$WORK/later"
for name in "${packages[@]}"; do
  deb=$(echo "$WORK"/packages/"${name}"_0.*.deb)
  [[ -f $deb ]] || fail "no package $name"
  # A later version of the same: for the upgrade.
  dpkg-deb --raw-extract "$deb" "$WORK/raw"
  sed -i 's/^Version: .*/&+1/' "$WORK/raw/DEBIAN/control"
  dpkg-deb -Znone --root-owner-group --build "$WORK/raw" "$WORK/later/$name.deb" >/dev/null
  rm -rf "$WORK/raw"
done
if [[ $part == plain ]]; then
  # Not ours to mend: a first upload closes no bug.
  lintian --no-cfg --fail-on error --suppress-tags initial-upload-closes-no-bugs "$WORK"/packages/*.deb >"$WORK/lintian" 2>&1 ||
    fail "lintian: $(cat "$WORK/lintian")"
  warnings=$(awk '/^W:/ { print $3 }' "$WORK/lintian" | sort | uniq -c | tr -s ' \n' ' ')
  log "lintian: no error; warnings: ${warnings:-none}"
fi

# mount_root LOWER UPPER: an overlay at $root.
root=$WORK/root
mkdir "$root"
mount_root() {
  mkdir -p "$2/upper" "$2/work"
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$root"
}

# apt_in_root ARGUMENT…: this machine's apt downloads, the dpkg in $root installs.
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
  # shellcheck disable=SC2016
  APT_CONFIG=$WORK/apt.conf DEBIAN_FRONTEND=noninteractive unshare --mount --propagation private bash -euo pipefail -c '
    mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; shift; exec apt-get "$@"' - "$root" "$@" \
    </dev/null >>"$WORK/apt.log" 2>&1 || fail "apt-get $1: $(tail -n 15 "$WORK/apt.log")"
}

log "a machine"
base=$("$SOURCE_DIR/tests/images/make_image.sh" --unpacked base)
needs=$(for deb in "$WORK"/packages/*.deb; do dpkg-deb --field "$deb" Depends | tr ',' '\n'; done |
  sed 's/^ *//; /^banyan/d' | sort -u | paste -sd, -)
# And what the preemption hook calls; the Containerfile installs these as well.
needs+=,ca-certificates,curl
[[ $part != systemd ]] || needs+=,systemd,systemd-sysv
machine=$(dirname "$(dirname "$base")")/packages-$(sha256sum <<<"$base $needs" | cut -c1-16)
(
  flock 9
  if [[ ! -d $machine ]]; then
    rm -rf "$machine.making"
    mount_root "$base" "$machine.making"
    [[ -n $(apt-get indextargets) ]] || apt-get update -qq
    apt_in_root update -qq
    apt_in_root satisfy -y -qq "$needs"
    apt_in_root clean
    rm -rf "${root:?}"/var/lib/apt/lists/*
    umount "$root"
    mv "$machine.making" "$machine"
  fi
) 9>"$machine.lock"
mount_root "$machine/upper:$base" "$WORK/overlay"
if [[ $part == plain ]]; then
  log "an image of the packages"
  export PACKAGES_ROOT=$root PACKAGES_WORK=$WORK SOURCE_DIR
  unshare --mount --propagation private --net --pid --fork --kill-child --mount-proc bash "$here/image.sh"
fi
# As on a machine with a disk: the store does not lie on overlayfs.
mkdir -p "$root"/debs/{now,later} "$root/var/lib/banyan" "$WORK/var-lib-banyan"
mount --bind "$WORK/var-lib-banyan" "$root/var/lib/banyan"
cp "$WORK"/packages/*.deb "$root/debs/now"
cp "$WORK"/later/*.deb "$root/debs/later"

log "installation"
in_root() { unshare --mount --propagation private sh -ec 'mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; exec chroot "$@"' - "$root" "$@" </dev/null; }
echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/test"
in_root env DEBIAN_FRONTEND=noninteractive sh -c 'cd /debs/now && apt-get install -y ./*.deb' >"$WORK/dpkg.log" 2>&1 ||
  fail "installation: $(tail -n 15 "$WORK/dpkg.log")"
for name in "${packages[@]}"; do
  [[ $(in_root dpkg-query -W -f '${db:Status-Status}' "$name") == installed ]] || fail "$name is not installed"
done
for file in /usr/bin/banyan-peer-agent /lib/systemd/system/banyan-keeper.service /etc/banyan/peer-agent.toml /etc/banyan/token \
  /etc/banyan/keys/signing.pem /usr/share/bash-completion/completions/banyan /usr/share/zsh/vendor-completions/_banyan \
  /usr/share/fish/vendor_completions.d/banyan.fish /usr/share/banyan/{banyan-preemption,banyan.nft,prometheus/banyan.rules.yml,grafana/banyan.json} \
  /usr/share/banyan/containerd/{config-v2.toml,config-v3.toml,certs.d/_default/hosts.toml}; do
  [[ -s $root$file ]] || fail "the packages lack $file"
done
[[ $(stat -c %a "$root/etc/banyan/token") == 600 ]] || fail "everybody may read /etc/banyan/token"
wants=/etc/systemd/system/multi-user.target.wants
[[ -L $root$wants/banyan-peer-agent.service ]] || fail "the agent's unit is not enabled"
[[ ! -e $root$wants/banyan-preemption.service && ! -L $root$wants/banyan-preemption.service ]] || fail "the preemption hook is enabled"
units=0
while IFS=: read -r unit program; do
  units=$((units + 1))
  in_root test -x "$program" || fail "${unit##*/} runs $program, which is not there"
done < <(grep -HoP '^Exec\w+=[-@:+!]*\K\S+' "$root"/lib/systemd/system/banyan-*.service)
((units >= 7)) || fail "only $units programs in the units"
changed=$(in_root dpkg --verify "${packages[@]}") || true
# A minimal Debian leaves manuals and documents out; the packages have them all the same (checked below).
changed=$(grep -vE '^missing +/usr/share/(man|doc)/' <<<"$changed" || true)
[[ -z $changed ]] || fail "dpkg --verify: $changed"
listed=$(for deb in "$WORK"/packages/*.deb; do dpkg-deb --contents "$deb"; done | awk '{ print $6 }')
for page in "$SOURCE_DIR"/docs/man/*; do
  grep -qx "./usr/share/man/man${page##*.}/${page##*/}.gz" <<<"$listed" || fail "no package has the manual page ${page##*/}"
done
# Its own configuration must not be overwritten by an upgrade.
echo '# a line of the operator' >>"$root/etc/banyan/peer-agent.toml"

log "an image"
make_oci "$WORK/oci" app one 8 >/dev/null
export PACKAGES_ROOT=$root PACKAGES_WORK=$WORK PACKAGES_OCI=$WORK/oci PACKAGES_GROUP
unshare --mount --propagation private --net --pid --fork --kill-child --mount-proc bash "$here/$part.sh"
log "all well"
