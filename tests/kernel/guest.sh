#!/bin/sh
# Runs inside the guest of scripts/test-kernel.sh, on an old kernel. Every line of the verdict starts with "kernel-test:".
/bin/busybox --install -s /bin
export PATH=/programs:/bin
export TMPDIR=/tmp
ip link set lo up
say() { echo "kernel-test: $(cut -d ' ' -f 1 /proc/uptime) s: $*"; }
fail() {
  say "FAIL: $*"
  tail -n 40 /data/*/agent.log
  poweroff -f
}
# compare PART DIRECTORY: of the image, "" for all of it.
compare() { compare_trees --ignore-mtime-of-root "/expected/rootfs$1" "$2$1" > /tmp/differences 2>&1 || { cat /tmp/differences; return 1; }; }
agent_pid() { pidof banyan-peer-agent; }

say "kernel $(uname -r)"
image=oci:/image:test

# The forms: auto must find out by trying that files cannot be mounted here, and take loop devices. These are compared whole once.
for form in auto loop tree; do
  root=/data/$form part=
  mkdir -p "$root" "/mnt/$form"
  banyan --data-root "$root" mount --form "$form" "$image" "/mnt/$form" >/tmp/mounted 2>&1 || fail "mount --form $form: $(cat /tmp/mounted)"
  if [ $form = auto ]; then
    grep -qF '(form: loop)' /tmp/mounted || fail "form auto: $(cat /tmp/mounted)"
    part=/etc
  fi
  compare "$part" "/mnt/$form" || fail "form $form: the tree differs"
  banyan --data-root "$root" umount "/mnt/$form" || fail "umount of form $form"
  say "form $form: mounted, ${part:-all of it} equal to umoci's tree, unmounted"
done
if banyan --data-root /data/file mount --form file "$image" /mnt/file 2>/tmp/refused; then fail "form file on this kernel"; fi
say "form file is refused: $(tail -n 1 /tmp/refused | cut -c 1-150)"
[ -z "$(losetup -a)" ] || fail "loop devices are left: $(losetup -a)"

# Takeover without RESEND (this kernel has none): the agent is killed twice while readers read a cold image.
root=/data/crash
banyan --data-root "$root" mount --form loop "$image" /mnt/crash || fail "mount for the crash test"
cd /expected/rootfs && find . -type f | sort > /tmp/files && cd /
head -n 800 /tmp/files > /tmp/some
(cd /expected/rootfs && xargs -a /tmp/some sha256sum > /tmp/right)
for reader in 1 2 3 4; do
  (cd /mnt/crash && xargs -a /tmp/some sha256sum > "/tmp/read.$reader" 2> "/tmp/errors.$reader") &
done
for round in 1 2; do
  sleep 0.5
  old=$(agent_pid)
  kill -9 "$old" || fail "no agent to kill"
  n=0
  while new=$(agent_pid); [ -z "$new" ] || [ "$new" = "$old" ]; do
    n=$((n + 1)); [ $n -lt 300 ] || fail "no new agent after kill $round"
    sleep 0.1
  done
  say "agent $old killed, $new has taken over; $(cat /tmp/read.* | wc -l) of 3200 reads were done"
done
wait
for reader in 1 2 3 4; do
  [ ! -s "/tmp/errors.$reader" ] || fail "reader $reader: $(head -n 3 "/tmp/errors.$reader")"
  cmp -s /tmp/right "/tmp/read.$reader" || fail "reader $reader read wrong bytes"
done
say "4 readers x $(wc -l < /tmp/some) files across two kill -9: all right"
compare "" /mnt/crash || fail "the tree differs after the takeover"
banyan --data-root "$root" umount /mnt/crash || fail "umount after the takeover"
say "PASS"
