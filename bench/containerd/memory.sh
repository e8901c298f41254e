#!/usr/bin/env bash
# Memory of 20 running containers from 20 images with one common base: each has imported numpy and sleeps.
#
#   bench/containerd/memory.sh [--json FILE] [--containers N] [SECTION …]     containerd byhand; default: both
#
# The images are the python image and a layer of one small file each. Method: containers run in memory cgroups of their own below one
# parent, and the snapshotter's daemons (agent and keeper, or none) in another; a page is charged to the cgroup that first brings it in. All
# images are pulled and have been run once, caches are dropped, then the containers are started together with nothing else; so the charge is what
# running them takes, whatever else the machine does. `reclaimable dropped` is taken after caches were dropped again: what is mapped or anonymous.
#
# containerd: overlayfs against banyan, by CRI.
# byhand: chroots instead of containers, to weigh what a shared prefix would save: `overlayfs` (directories unpacked once, 20 overlays),
#   `merged` (20 lazy mounts, one an image, as the agent makes them), `prefix` (one lazy mount of the base, 20 overlays of a small layer over it).
#   And what the second lower costs: find and an import through either kind.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ -z ${BANYAN_BENCH_NET:-} ]]; then
  "$here/../../tests/images/make_image.sh" python >/dev/null  # may need the network
  "$here/../../tests/images/make_image.sh" --unpacked python >/dev/null
  BANYAN_BENCH_NET=1 exec unshare --net "${BASH_SOURCE[0]}" "$@"
fi
JSON_FILE='' count=20 sections=()
while (($#)); do
  case $1 in
    --json) JSON_FILE=$(realpath -m "$2"); shift 2 ;;
    --containers) count=$2; shift 2 ;;
    *) sections+=("$1"); shift ;;
  esac
done
((${#sections[@]})) || sections=(containerd byhand)
source "$here/lib.sh"

MEMORY=/sys/fs/cgroup/memory  # cgroup version 1
[[ -f $MEMORY/memory.stat ]] || { echo "needs the memory controller of cgroup version 1"; exit $SKIP; }
export PYTHONDONTWRITEBYTECODE=1

# in_group NAME COMMAND…: becomes the command, in that memory cgroup below the one that is removed at the end. To be run with &.
in_group() {
  local dir=$MEMORY/$CGROUP_PARENT/$1; shift
  mkdir -p "$dir"
  exec sh -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$dir" "$@"
}
move_to_group() { mkdir -p "$MEMORY/$CGROUP_PARENT/$1"; echo "$2" >"$MEMORY/$CGROUP_PARENT/$1/cgroup.procs"; }

# Of all cgroups below a parent: put_charge MODE PARENT PREFIX
put_charge() {
  python3 - "$MEMORY/$2" "$3" "$FIGURE" "$1" "$count" >>"$SAMPLES" <<'PY'
import json, os, sys
root, prefix, figure, mode, count = sys.argv[1:]
sums = {"total": 0, "anonymous": 0, "page cache": 0, "mapped page cache": 0, "kernel": 0}
for directory, _, _ in os.walk(root):
    with open(f"{directory}/memory.stat", encoding="utf-8") as file:
        own = dict(line.split() for line in file)
    kernel = 0
    try:
        with open(f"{directory}/memory.kmem.usage_in_bytes", encoding="utf-8") as file:
            # Hierarchical: only this group's own part is wanted.
            kernel = int(file.read())
        for child in os.scandir(directory):
            if child.is_dir():
                with open(f"{child.path}/memory.kmem.usage_in_bytes", encoding="utf-8") as file:
                    kernel -= int(file.read())
    except OSError:
        pass
    sums["anonymous"] += int(own["rss"])
    sums["page cache"] += int(own["cache"])
    sums["mapped page cache"] += int(own["mapped_file"])
    sums["kernel"] += max(0, kernel)
sums["total"] = sums["anonymous"] + sums["page cache"] + sums["kernel"]
for name, value in sums.items():
    print(json.dumps({"figure": figure, "case": f"{count} running, one base", "mode": mode,
                      "metric": f"{prefix}{name}", "unit": "MiB", "value": round(value / 1048576, 1)}))
PY
}
put_all() {
  put_charge "$1" "$CGROUP_PARENT" ""
  drop_caches
  put_charge "$1" "$CGROUP_PARENT" "reclaimable dropped: "
}

worker='import numpy, time; print(int(numpy.arange(10).sum()), flush=True); time.sleep(100000)'

section_containerd() {
  local mode i pods id
  FIGURE="memory, containerd"
  log "making $count images"
  push_small_images derived "$count" python
  for mode in overlayfs banyan; do
    start_node $mode
    if [[ -n $AGENT_PID ]]; then
      move_to_group daemons "$AGENT_PID"
      move_to_group daemons "$KEEPER_PID"
    fi
    for ((i = 0; i < count; ++i)); do
      pull_cri "bench/derived:$i" >/dev/null
      # Every chunk that the containers will read comes to the node here.
      [[ $(run_container "bench/derived:$i" -- python3 -c 'import numpy; print(open("/variant/number").read().strip())') == "$i" ]] ||
        fail "image $i: wrong contents"
    done
    drop_caches
    [[ -z $AGENT_PID ]] || echo 1 >"$MEMORY/$CGROUP_PARENT/daemons/memory.force_empty" 2>/dev/null || true
    pods=()
    for ((i = 0; i < count; ++i)); do
      cri start "$REGISTRY/bench/derived:$i" --name "v$i" -- python3 -c "$worker" >"$WORK/started.$i"
      pods+=("$(cut -d' ' -f1 "$WORK/started.$i")")
    done
    for ((i = 0; i < count; ++i)); do
      id=$(cut -d' ' -f2 "$WORK/started.$i")
      wait_for 60 bash -c "[[ \$('$CRI_CLIENT' --socket '$CONTAINERD_SOCKET' logs $id) == 45 ]]" || fail "container $i does not run"
    done
    sleep 1
    [[ -z $AGENT_PID ]] || put_charge $mode "$CGROUP_PARENT/daemons" "of it agent and keeper: "
    put_all $mode
    cri rm "${pods[@]}"
    stop_node
    remove_cgroups || true
  done
}

# by_hand MODE: overlays are at $WORK/hand/<i>; all programs run, are measured, and end.
by_hand() {
  local mode=$1 i running=()
  for ((i = 0; i < count; ++i)); do chroot "$WORK/hand/$i" /usr/bin/python3 -c 'import numpy' </dev/null; done
  drop_caches
  for ((i = 0; i < count; ++i)); do
    in_group "$mode$i" chroot "$WORK/hand/$i" /usr/bin/python3 -c "$worker" >"$WORK/hand.$i" </dev/null &
    running+=($!)
  done
  STARTED+=("${running[@]}")
  for ((i = 0; i < count; ++i)); do wait_for 60 test -s "$WORK/hand.$i" || fail "$mode $i does not run"; done
  sleep 1
  put_all "$mode"
  kill "${running[@]}"
  for i in "${running[@]}"; do wait "$i" 2>/dev/null || true; done
  rm -f "$WORK"/hand.*
  remove_cgroups || true
}
# overlay I LOWER: at $WORK/hand/I
overlay() {
  mkdir -p "$WORK/hand/$1" "$WORK/upper/$1/u" "$WORK/upper/$1/w"
  mount -t overlay -o "lowerdir=$2,upperdir=$WORK/upper/$1/u,workdir=$WORK/upper/$1/w" overlay "$WORK/hand/$1"
}
unmount_hands() {
  local mount
  while read -r mount; do umount "$mount"; done < <(mounts_below "$WORK/hand")
  rm -rf --one-file-system "$WORK/hand" "$WORK/upper"
}

# CPU seconds of `find` over a tree and of an import in it, all cached: what the lookups through its layers cost.
put_cost() {
  local i out
  FIGURE="cost of a second lower"
  find "$WORK/hand/0" >/dev/null 2>&1 || true
  chroot "$WORK/hand/0" /usr/bin/python3 -c 'import numpy' </dev/null
  for i in 1 2 3 4 5; do
    out=$( { TIMEFORMAT='%U %S'; time find "$WORK/hand/0" >/dev/null 2>&1; } 2>&1 || true)
    sample "$FIGURE" "cached, CPU" "$1" "find" s "$(awk '{ print $1 + $2 }' <<<"$out")"
    out=$( { TIMEFORMAT='%U %S'; time chroot "$WORK/hand/0" /usr/bin/python3 -c 'import numpy' </dev/null; } 2>&1)
    sample "$FIGURE" "cached, CPU" "$1" "import numpy" s "$(awk '{ print $1 + $2 }' <<<"$out")"
  done
  FIGURE="memory, by hand"
}

section_byhand() {
  local i unpacked
  FIGURE="memory, by hand"
  DATA_ROOT=$WORK/byhand
  log "by hand"
  unpacked=$("$SOURCE_DIR/tests/images/make_image.sh" --unpacked python)
  for ((i = 0; i < count; ++i)); do mkdir -p "$WORK/tops/$i/variant"; echo $i >"$WORK/tops/$i/variant/number"; done
  for ((i = 0; i < count; ++i)); do overlay $i "$WORK/tops/$i:$unpacked"; done
  by_hand overlayfs
  put_cost overlayfs
  unmount_hands

  [[ " ${sections[*]} " == *" containerd "* ]] || push_small_images derived "$count" python
  for ((i = 0; i < count; ++i)); do
    banyan --quiet mount "docker://$REGISTRY/bench/derived:$i" "$WORK/lazy.$i"
    overlay $i "$WORK/lazy.$i"
  done
  by_hand merged
  put_cost merged
  unmount_hands
  for ((i = 0; i < count; ++i)); do banyan --quiet umount "$WORK/lazy.$i"; done

  push_test_image python bench/python:1
  convert_image bench/python:1
  DATA_ROOT=$WORK/byhand banyan --quiet mount "docker://$REGISTRY/bench/python:1" "$WORK/lazy"
  for ((i = 0; i < count; ++i)); do overlay $i "$WORK/tops/$i:$WORK/lazy"; done
  by_hand prefix
  put_cost prefix
  unmount_hands
  banyan --quiet umount "$WORK/lazy"
}

start_far_registry
for section in "${sections[@]}"; do "section_$section"; done
