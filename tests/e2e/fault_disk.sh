#!/usr/bin/env bash
# fault_disk.sh rot|full|crash: a disk that flips bits, is full, or lost what was last written.
#
# rot: scrub names the damaged chunks, which are fetched again; damaged metadata and maps are made again by the next
# mount. full: an image larger than its data root reads right all the same; a conversion without room ends in a clear
# error and publishes nothing. crash: agent and keeper are killed while they fetch and the end of RocksDB's log is cut off,
# chunks of the device files are lost; the next start works.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/faults.sh"

start_registry
view=$WORK/view
case ${1:-} in full) mib=100 ;; crash) mib=60 ;; *) mib=12 ;; esac
small_image one "$mib"
push_image "oci:$WORK/one.layout:x" test/one:1
image=docker://$REGISTRY/test/one:1

# Cold, so that the kernel's memory of good bytes hides nothing.
whole() { echo 3 >/proc/sys/vm/drop_caches; "$COMPARE_TREES" "$WORK/one.tree" "$view" || fail "$1: wrong or no answer"; }
mount_one() { banyan --quiet mount "$image" "$view" || fail "does not mount: $(tail -5 "$DATA_ROOT/agent.log")"; }
# begun_again PID: the keeper has begun another agent than that.
begun_again() { [[ $(agent_pid) != "$1" ]] && banyan stats >/dev/null 2>&1; }
kill_keeper() { kill -9 "${STARTED[-1]}"; wait "${STARTED[-1]}" 2>/dev/null || true; unset 'STARTED[-1]'; }

# flip FILE…: one bit in the middle of the data of each (not in a hole).
flip() {
  python3 - "$@" <<'PY'
import os, sys
for path in sys.argv[1:]:
    fd = os.open(path, os.O_RDWR)
    begin = os.lseek(fd, 0, os.SEEK_DATA)
    at = begin + (os.lseek(fd, begin, os.SEEK_HOLE) - begin) // 2
    byte = os.pread(fd, 1, at)
    os.pwrite(fd, bytes([byte[0] ^ 4]), at)
    os.fsync(fd)
PY
}

# scrub STATUS BAD [OPTION…]: with that exit status and so many bad chunks named.
scrub() {
  local status=0
  banyan scrub >"$WORK/scrub" 2>&1 || status=$?
  log "scrub: exit $status: $(tr '\n' ';' <"$WORK/scrub")"
  [[ $status == "$1" ]] || fail "scrub: exit $status instead of $1"
  [[ $(grep -cE '^bad, dropped: chunk [0-9]+ of layer sha256:[0-9a-f]{64}' "$WORK/scrub") == "$2" ]] ||
    fail "scrub does not name $2 chunks"
}

rot() {
  banyan --quiet convert "$image"
  start_agent 30
  mount_one
  whole "cold"
  banyan umount "$view"
  scrub 0 0

  log "devices rot under a running agent, nothing mounted"
  flip "$DATA_ROOT"/store/devices/*
  scrub 1 2
  scrub 0 0
  mount_one
  whole "after scrub"
  banyan umount "$view"

  log "devices rot while no agent runs"
  stop_agents "$DATA_ROOT"
  flip "$DATA_ROOT"/store/devices/*
  start_agent 30
  scrub 1 2
  mount_one
  whole "after the restart"

  log "devices rot under a mount; the chunks are dropped when it has gone"
  flip "$DATA_ROOT"/store/devices/*
  scrub 1 2
  banyan umount "$view"
  mount_one
  whole "mounted again"
  banyan umount "$view"

  log "devices rot under a mount that reads through the agent"
  stop_agents "$DATA_ROOT"
  rm -rf "$DATA_ROOT/store"
  start_agent 30
  mount_one
  cat "$view"/*/7 >"$WORK/sevens"
  flip "$DATA_ROOT"/store/devices/*
  scrub 1 2
  echo 3 >/proc/sys/vm/drop_caches
  whole "after scrub, still mounted"
  banyan umount "$view"

  log "metadata, map and small blobs rot"
  mount_one
  banyan umount "$view"
  stop_agents "$DATA_ROOT"
  ls "$DATA_ROOT/metadata" "$DATA_ROOT/store/blobs/sha256" >"$WORK/names"
  grep -q erofs "$WORK/names" || fail "there is no metadata file to damage"
  find "$DATA_ROOT/metadata" "$DATA_ROOT/store/blobs/sha256" "$DATA_ROOT/resolved" -type f | while read -r file; do flip "$file"; done
  start_agent 30
  mount_one
  whole "after damage to metadata"
  banyan umount "$view"
  log "the same under a running agent, each alone"
  local file
  for file in "$DATA_ROOT"/metadata/*.erofs "$DATA_ROOT"/metadata/*.map "$DATA_ROOT"/store/blobs/sha256/*; do
    [[ -f $file ]] || continue
    flip "$file"
    mount_one
    whole "${file##*/} damaged"
    banyan umount "$view"
  done
  log "a damaged record of a mount hinders no other"
  mount_one
  stop_agents "$DATA_ROOT"
  umount -l "$view" || true
  mkdir -p "$DATA_ROOT/mounts"
  echo '{"half a rec' >"$DATA_ROOT/mounts/$(printf 'x%.0s' {1..64}).json"
  start_agent 30
  wait_for 10 mountpoint -q "$view" || fail "the good mount was not restored: $(tail -5 "$DATA_ROOT/agent.log")"
  whole "restored beside a damaged record"
  banyan umount "$view"
}

# on_small_disk KIND MIB: a file system of that size at $WORK/small, with the data root on it.
on_small_disk() {
  mkdir -p "$WORK/small"
  if [[ $1 == tmpfs ]]; then
    mount -t tmpfs -o "size=${2}m" tmpfs "$WORK/small"
  else
    truncate -s "${2}M" "$WORK/small.img"
    mkfs.ext4 -q -F -m 0 "$WORK/small.img"
    mount -o loop "$WORK/small.img" "$WORK/small"
  fi
  DATA_ROOT=$WORK/small/data
}
off_small_disk() {
  stop_agents "$WORK/small"
  wait_for 5 umount "$WORK/small"
  DATA_ROOT=$WORK/data
}

full() {
  local kind pid
  log "no room to convert"
  on_small_disk tmpfs 8
  clearly 7 "no space left" "$BANYAN_BIN/banyan" --data-root "$DATA_ROOT" --plain-http --quiet convert "$image"
  [[ -z $(ls "$DATA_ROOT/spool") ]] || fail "left in the spool"
  off_small_disk
  clearly 3 "no Banyan artifact" "$BANYAN_BIN/banyan" --data-root "$DATA_ROOT" --plain-http inspect "$image"
  banyan --quiet convert "$image"
  banyan --quiet verify "$image"

  for kind in ext4 tmpfs; do
    log "an image of 90 MB on a $kind of 40 MB"
    on_small_disk "$kind" 40
    start_agent 60
    pid=$(agent_pid)
    cat /dev/zero >"$WORK/small/hog" 2>/dev/null || true
    clearly 7 "no space left" "$BANYAN_BIN/banyan" --data-root "$DATA_ROOT" --plain-http --quiet mount "$image" "$view"
    rm "$WORK/small/hog"
    mount_one
    log "somebody else has taken all the room: nothing can be stored, nothing evicted"
    cat /dev/zero >"$WORK/small/hog" 2>/dev/null || true
    timeout 120 "$COMPARE_TREES" "$WORK/one.tree" "$view" || fail "$kind, no room at all: wrong or no answer"
    rm "$WORK/small/hog"
    echo 3 >/proc/sys/vm/drop_caches
    log "room again, but less than the image wants"
    timeout 120 "$COMPARE_TREES" "$WORK/one.tree" "$view" || fail "$kind: wrong or no answer"
    df -m "$WORK/small" | tail -1 >&2
    log "and all of it at once, cold"
    echo 3 >/proc/sys/vm/drop_caches
    [[ $(read_all "$WORK/one.tree" "$view") =~ ^[0-9]+\ right$ ]] || fail "$kind: wrong or no answer"
    log "the last of the room goes to somebody else"
    cat /dev/zero >"$WORK/small/hog" 2>/dev/null || true
    echo 3 >/proc/sys/vm/drop_caches
    timeout 120 "$COMPARE_TREES" "$WORK/one.tree" "$view" || fail "$kind, full: wrong or no answer"
    log "the agent is killed and begins again, on the full disk"
    kill -9 "$pid"
    wait_for 20 begun_again "$pid" || fail "$kind, full: the agent does not begin again: $(tail -5 "$DATA_ROOT/agent.log")"
    pid=$(agent_pid)
    echo 3 >/proc/sys/vm/drop_caches
    timeout 120 "$COMPARE_TREES" "$WORK/one.tree" "$view" || fail "$kind, full, restarted: wrong or no answer"
    banyan umount "$view"
    log "another mount on the full disk: $(banyan mount "$image" "$view" 2>&1 || true)"
    if mountpoint -q "$view"; then
      whole "$kind, full, second mount"
      banyan umount "$view"
    fi
    rm "$WORK/small/hog"
    mount_one
    whole "$kind, room again"
    banyan umount "$view"
    scrub 0 0
    [[ $(agent_pid) == "$pid" ]] || fail "the agent died: $(tail -5 "$DATA_ROOT/agent.log")"
    off_small_disk
  done
}

crash() {
  local round log_file
  banyan --quiet convert "$image"
  start_agent 30
  for round in 1 2 3 4; do
    mount_one
    "$COMPARE_TREES" "$WORK/one.tree" "$view" >"$WORK/compared" 2>&1 &
    STARTED=("$!" "${STARTED[@]}")
    sleep "0.$((round * 3))"
    [[ $round == 1 ]] || sleep 2  # so that presence has been written
    log "round $round: killing agent and keeper"
    local agent
    agent=$(agent_pid)
    kill_keeper
    kill -9 "$agent" 2>/dev/null || true
    wait_for 5 bash -c "! kill -0 $agent"
    # Its FUSE connection died with the keeper: a mount that is left must be made anew, one that has gone as well.
    ((round % 2)) || umount -l "$view"
    log_file=$(find "$DATA_ROOT/store/index" -name '*.log' -size +0 | sort | tail -n 1)
    case $round in
      1) [[ -z $log_file ]] || truncate -s -7 "$log_file" ;;
      2) [[ -z $log_file ]] || truncate -s $(($(stat -c %s "$log_file") / 2)) "$log_file" ;;
      3) [[ -z $log_file ]] || : >"$log_file" ;;
      4) for file in "$DATA_ROOT"/store/devices/*; do
           fallocate -p -o 0 -l $(($(stat -c %s "$file") / 2)) "$file"
         done ;;
    esac
    log "cut: ${log_file##*/}"
    start_agent 30
    wait_for 10 mountpoint -q "$view" || mount_one
    whole "after the crash"
    scrub 0 0
    banyan umount "$view"
    # Rounds 1 and 2 begin cold.
    ((round > 1)) || { stop_agents "$DATA_ROOT"; rm -rf "$DATA_ROOT/store"; start_agent 30; }
  done
}

"${1:?rot, full or crash}"
log ok
