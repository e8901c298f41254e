#!/usr/bin/env bash
# Becomes process 1 of $PACKAGES_ROOT: its systemd. To be called in new mount, network, process and control group namespaces.
set -euo pipefail
root=$PACKAGES_ROOT
mount --rbind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir -p "$root"/dev/{pts,shm}
for node in null zero full random urandom tty fuse loop-control; do mknod "$root/dev/$node" c $((0x$(stat -c %t "/dev/$node"))) $((0x$(stat -c %T "/dev/$node"))); chmod 666 "$root/dev/$node"; done
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
# systemd's own hierarchy, of this control group namespace.
mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
if [[ -d /sys/fs/cgroup/systemd ]]; then
  mkdir "$root/sys/fs/cgroup/systemd"
  mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
else
  umount "$root/sys/fs/cgroup"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
fi
ip link set lo up
cd "$root"
pivot_root . mnt
umount -l /mnt
# As on a machine; systemd leaves that to whoever makes a container. Services' credentials are mounts that must show.
mount --make-rshared /
exec env -i container=banyan-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --log-target=journal
