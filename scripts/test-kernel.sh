#!/bin/bash
# Runs mounts, contents and crash takeover on Debian 12's own kernel (6.1: no file-backed EROFS, no FUSE RESEND) in a QEMU guest.
#
# The guest has no network: image, programs and libraries are on its disk. tests/kernel/guest.sh says what is checked.
#
#   scripts/test-kernel.sh [--bin DIR] [--image NAME] [--accel tcg|kvm] [--timeout SECONDS]
set -euo pipefail

source_dir=$(cd "$(dirname "$0")/.." && pwd)
bin_dir=$source_dir/build/release/bin
image=base
accel=tcg
timeout_seconds=900
while [ $# -gt 0 ]; do
  case $1 in
    --bin) bin_dir=$2; shift 2 ;;
    --image) image=$2; shift 2 ;;
    --accel) accel=$2; shift 2 ;;
    --timeout) timeout_seconds=$2; shift 2 ;;
    *) sed -n '2,7p' "$0"; exit 2 ;;
  esac
done

cache=${BANYAN_CACHE:-/var/cache/banyan-test-images}
work=$(mktemp -d "${TMPDIR:-/tmp}/banyan-kernel.XXXXXX")
qemu_pid=
cleanup() {
  [ -z "$qemu_pid" ] || kill "$qemu_pid" 2>/dev/null || true
  ! mountpoint -q "$work/disk" || umount "$work/disk"
  rm -rf "$work"
}
trap cleanup EXIT

# ---- The kernel: Debian's package, unpacked and not installed. ----
kernel_package() { apt-cache depends linux-image-amd64 2>/dev/null | awk '/Depends: linux-image-6/ {print $2; exit}'; }
package=$(kernel_package)
if [ -z "$package" ]; then
  apt-get update -q -o DPkg::Lock::Timeout=600 >/dev/null
  package=$(kernel_package)
fi
kernel=$cache/kernel/$package
if [ ! -e "$kernel/complete" ]; then
  rm -rf "$kernel"
  mkdir -p "$kernel"
  (cd "$kernel" && apt-get download -q "$package" 2>/dev/null >/dev/null &&
    dpkg-deb --fsys-tarfile ./*.deb | tar -x ./boot ./lib/modules && rm -- *.deb)
  depmod -b "$kernel" "${package#linux-image-}"
  touch "$kernel/complete"
fi
release=${package#linux-image-}

# ---- The initial RAM disk: busybox and the modules that reach the disk and that Banyan needs. ----
initrd=$work/initrd
mkdir -p "$initrd"/{bin,proc,sys,dev,modules,root}
cp /bin/busybox "$initrd/bin/busybox"
ln -s busybox "$initrd/bin/sh"
: > "$initrd/modules/order"
for module in virtio_pci virtio_blk crc32c_generic crc32c-intel ext4 fuse erofs loop overlay; do
  modprobe -d "$kernel" -S "$release" --show-depends "$module" 2>/dev/null | awk '/^insmod/ {print $2}'
done | awk '!seen[$0]++' | while read -r file; do
  cp "$file" "$initrd/modules/"
  basename "$file" >> "$initrd/modules/order"
done
cp "$source_dir/tests/kernel/init" "$initrd/init"
chmod +x "$initrd/init"
(cd "$initrd" && find . | cpio -o -H newc --quiet | gzip -1) > "$work/initrd.gz"

# ---- The disk: programs with their libraries, the image converted in an OCI layout, and the tree it should show. ----
reference=$("$source_dir/tests/images/make_image.sh" "$image")
truncate -s 3G "$work/disk.img"
mkfs.ext4 -q -F -O ^has_journal "$work/disk.img"
mkdir "$work/disk"
mount -o loop "$work/disk.img" "$work/disk"
disk=$work/disk
mkdir -p "$disk"/{bin,lib64,proc,sys,dev,tmp,data,mnt,programs}
cp /bin/busybox "$disk/bin/"
ln -s busybox "$disk/bin/sh"
tools=("$bin_dir/banyan" "$bin_dir/banyan-peer-agent" "$bin_dir/banyan-keeper" "$bin_dir/../tests/compare_trees")
cp "${tools[@]}" "$disk/programs/"
ldd "${tools[@]}" | awk '$3 ~ /^\// {print $3} $1 ~ /^\// && NF == 2 {print $1}' | sort -u | grep -v ':$' | while read -r library; do
  mkdir -p "$disk$(dirname "$library")"
  cp -L "$library" "$disk$library"
done
cp "$source_dir/tests/kernel/guest.sh" "$disk/guest.sh"
"$bin_dir/banyan" --quiet --data-root "$work/convert" convert "$reference" "oci:$disk/image:test"
umoci unpack --image "$disk/image:test" "$disk/expected" >/dev/null
umount "$disk"

# ---- Boot. ----
qemu-system-x86_64 -machine q35 -accel "$accel" -cpu max -smp 2 -m 2048 -nographic -no-reboot -nic none \
  -kernel "$kernel/boot/vmlinuz-$release" -initrd "$work/initrd.gz" \
  -append "console=ttyS0 panic=-1 quiet" \
  -drive "file=$work/disk.img,format=raw,if=virtio,cache=unsafe" </dev/null > "$work/console" 2>&1 &
qemu_pid=$!
deadline=$((SECONDS + timeout_seconds))
while kill -0 "$qemu_pid" 2>/dev/null && [ $SECONDS -lt $deadline ]; do sleep 1; done
tr -d '\r' < "$work/console" | grep -a '^kernel-test:' || true
if ! grep -aq '^kernel-test: .* PASS' "$work/console"; then
  echo "kernel-test: the guest did not pass; its console ended with:" >&2
  tail -n 60 "$work/console" >&2
  exit 1
fi
