# A private containerd for the end-to-end scripts: `source tests/lib/containerd.sh` after tests/lib/e2e.sh.
#
# start_registry                      (e2e.sh) the registry that images are pulled from
# start_node_agent                    keeper and agent with a configuration file; sets SNAPSHOTTER_SOCKET and MIRROR
# start_containerd [SNAPSHOTTER]      banyan (default; needs start_node_agent first) or overlayfs, Debian's own
# pull_cri NAME:TAG; run_container NAME:TAG -- CMD…; cri …
#
# Root, state, socket, cgroups and hosts.toml are below $WORK or named after this process: nothing of the machine's own containerd is
# touched. Whatever the exit, pods, shims, mounts and cgroups go. Several can run one after another in a script
# (stop_containerd between), with different snapshotters: that is how benchmarks compare.
# shellcheck shell=bash

CRI_CLIENT=${CRI_CLIENT:-$(dirname "$BANYAN_BIN")/tests/cri_client}
for program in containerd ctr runc "$CRI_CLIENT"; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit $SKIP; }
done

CGROUP_PARENT=banyan-e2e-$$
CONTAINERD_DIR=         # of the running one
CONTAINERD_SOCKET=
SNAPSHOTTER_SOCKET=
MIRROR=
PAUSE_IMAGE=banyan.test/pause:1

cri() { "$CRI_CLIENT" --socket "$CONTAINERD_SOCKET" --log-root "$CONTAINERD_DIR/logs" --cgroup-parent "/$CGROUP_PARENT" "$@" </dev/null; }
k8s_ctr() { ctr --address "$CONTAINERD_SOCKET" --namespace k8s.io "$@" </dev/null; }

# An OCI archive with a static program that sleeps for ever: the sandbox image of every pod.
make_pause_image() {
  local dir=$WORK/pause
  [[ -f $dir/pause.tar ]] && return
  mkdir -p "$dir/root"
  echo '#include <unistd.h>
int main(void) { for (;;) pause(); }' >"$dir/pause.c"
  gcc -static -O1 -o "$dir/root/pause" "$dir/pause.c"
  tar -C "$dir/root" -czf "$dir/layer.tar.gz" pause
  python3 -B "$SOURCE_DIR/tests/images/oci_layout.py" "$dir/layout" pause --cmd /pause "$dir/layer.tar.gz"
  skopeo --insecure-policy copy --quiet "oci:$dir/layout:pause" "docker-archive:$dir/pause.tar:$PAUSE_IMAGE" </dev/null
}

# write_hosts_toml HOST [MIRROR]: how containerd reaches a plain-HTTP registry, through the mirror first if one is named.
write_hosts_toml() {
  local dir=$CONTAINERD_DIR/certs.d/$1
  mkdir -p "$dir"
  {
    printf 'server = "http://%s"\n' "$1"
    [[ -z ${2:-} ]] || printf '[host."http://%s"]\n  capabilities = ["pull", "resolve"]\n' "$2"
    printf '[host."http://%s"]\n  capabilities = ["pull", "resolve"]\n' "$1"
  } >"$dir/hosts.toml"
}

write_containerd_config() {
  local snapshotter=$1
  cat >"$CONTAINERD_DIR/config.toml" <<TOML
version = 2
root = "$CONTAINERD_DIR/root"
state = "$CONTAINERD_DIR/state"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.restart"]
[grpc]
  address = "$CONTAINERD_SOCKET"
[ttrpc]
  address = "$CONTAINERD_SOCKET.ttrpc"
[debug]
  level = "${CONTAINERD_LOG_LEVEL:-info}"
[plugins."io.containerd.internal.v1.opt"]
  path = "$CONTAINERD_DIR/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$CONTAINERD_DIR/cni"
    conf_dir = "$CONTAINERD_DIR/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
    disable_snapshot_annotations = false
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "$CONTAINERD_DIR/certs.d"
TOML
  [[ -z $SNAPSHOTTER_SOCKET ]] || cat >>"$CONTAINERD_DIR/config.toml" <<TOML
[proxy_plugins.banyan]
  type = "snapshot"
  address = "$SNAPSHOTTER_SOCKET"
TOML
}

# start_containerd [SNAPSHOTTER]: on a fresh root, with the pause image and hosts.toml for $REGISTRY (through $MIRROR, if there is one).
start_containerd() {
  CONTAINERD_SNAPSHOTTER=${1:-banyan}
  CONTAINERD_DIR=$(mktemp -d "$WORK/c.XXX")
  CONTAINERD_SOCKET=$CONTAINERD_DIR/c.sock
  mkdir -p "$CONTAINERD_DIR"/{logs,cni,certs.d}
  make_pause_image
  write_containerd_config "$CONTAINERD_SNAPSHOTTER"
  [[ -z ${REGISTRY:-} ]] || write_hosts_toml "$REGISTRY" "$MIRROR"
  run_containerd
  k8s_ctr images import --snapshotter "$CONTAINERD_SNAPSHOTTER" "$WORK/pause/pause.tar" >/dev/null ||
    fail "cannot import the pause image: $(tail -3 "$CONTAINERD_DIR/log")"
}

# The process alone, on the root of $CONTAINERD_DIR: also for a restart after kill -9.
run_containerd() {
  # Its own session: signals of a terminal do not reach it, and it does not take ours.
  setsid containerd --config "$CONTAINERD_DIR/config.toml" >>"$CONTAINERD_DIR/log" 2>&1 </dev/null &
  CONTAINERD_PID=$!
  STARTED+=("$CONTAINERD_PID")
  wait_for 20 cri version || fail "containerd does not answer: $(tail -5 "$CONTAINERD_DIR/log")"
}

# Pods and their processes first, then containerd; its root stays.
stop_containerd() {
  [[ -n $CONTAINERD_DIR ]] || return 0
  timeout 60 "$CRI_CLIENT" --socket "$CONTAINERD_SOCKET" --timeout 20 rmall >/dev/null 2>&1 || log "not all pods could be removed"
  kill "$CONTAINERD_PID" 2>/dev/null || true
  wait "$CONTAINERD_PID" 2>/dev/null || true
  CONTAINERD_DIR=
}

# What is left in our cgroups is killed and the cgroups go (both cgroup versions).
remove_cgroups() {
  local dir pid attempt
  for attempt in 1 2 3 4 5 6 7 8 9 10; do
    while read -r dir; do
      while read -r pid; do kill -9 "$pid" 2>/dev/null; done <"$dir/cgroup.procs"
    done < <(find /sys/fs/cgroup -type d -path "*/$CGROUP_PARENT*" 2>/dev/null)
    find /sys/fs/cgroup -depth -type d -path "*/$CGROUP_PARENT*" -exec rmdir {} + 2>/dev/null
    [[ -z $(find /sys/fs/cgroup -type d -path "*/$CGROUP_PARENT*" 2>/dev/null) ]] && return
    sleep 0.1
  done
  log "cgroups named $CGROUP_PARENT are left"
}

containerd_clean_up() {
  local status=$?
  trap '' INT TERM HUP
  set +e
  if ((status != 0)) && [[ -n $CONTAINERD_DIR ]]; then
    log "the end of containerd's log:"; tail -n 8 "$CONTAINERD_DIR/log" | cut -c1-400 >&2
    [[ ! -f $WORK/agent.log ]] || { log "the end of the agent's log:"; tail -n 15 "$WORK/agent.log" | cut -c1-400 >&2; }
  fi
  stop_containerd
  remove_cgroups
  # Shims outlive containerd when it was killed; SIGTERM is not enough for them.
  local pid
  for pid in $(processes_of "$WORK"); do
    [[ $(cat "/proc/$pid/comm" 2>/dev/null) == containerd-shim* ]] && kill -9 "$pid"
  done
  (exit "$status")
  clean_up
}
trap containerd_clean_up EXIT

# start_node_agent [EXTRA_TOML]: keeper and agent, with $DATA_ROOT, a snapshotter's socket and a mirror for $REGISTRY. The keeper is not
# told to restart the agent: AGENT_PID can be killed and run_agent called again.
start_node_agent() {
  mkdir -p "$DATA_ROOT"
  SNAPSHOTTER_SOCKET=$WORK/snapshotter.sock
  MIRROR=127.0.0.1:$(free_port)
  AGENT_CONFIG=$WORK/peer-agent.toml
  {
    printf 'data_root = "%s"\n' "$DATA_ROOT"
    printf 'keeper_socket = "%s"\n' "$WORK/keeper.sock"
    printf '[snapshotter]\nsocket = "%s"\n' "$SNAPSHOTTER_SOCKET"
    printf '[mirror]\naddress = "%s"\n' "$MIRROR"
    [[ -z ${REGISTRY:-} ]] || printf '[registries."%s"]\nplain_http = true\n' "$REGISTRY"
    printf '%s\n' "${1:-}"
  } >"$AGENT_CONFIG"
  "$BANYAN_BIN/banyan-keeper" --socket "$WORK/keeper.sock" >>"$WORK/keeper.log" 2>&1 </dev/null &
  KEEPER_PID=$!
  STARTED+=("$KEEPER_PID")
  wait_for 5 test -S "$WORK/keeper.sock" || fail "no keeper: $(tail -3 "$WORK/keeper.log")"
  run_agent
}
run_agent() {
  "$BANYAN_BIN/banyan-peer-agent" --config "$AGENT_CONFIG" >>"$WORK/agent.log" 2>&1 </dev/null &
  AGENT_PID=$!
  STARTED+=("$AGENT_PID")
  wait_for 15 agent_answers || fail "the agent does not answer: $(tail -5 "$WORK/agent.log")"
}
agent_answers() { [[ -S $SNAPSHOTTER_SOCKET ]] && banyan --json info; }

# push_test_image IMAGE NAME:TAG: makes the test image (tests/images) and pushes it.
push_test_image() {
  local layout
  layout=$("$SOURCE_DIR/tests/images/make_image.sh" "$1")
  push_image "$layout" "$2"
}
# convert_image NAME:TAG: in the registry, with a data root of its own: the node must fetch what it shows.
convert_image() { DATA_ROOT=$WORK/converter banyan --quiet convert "docker://$REGISTRY/$1"; }

pull_cri() { cri pull "$REGISTRY/$1"; }
# run_container NAME:TAG [OPTIONS] -- CMD…: to its end; prints its output, returns its exit code.
run_container() { local image=$1; shift; cri run "$REGISTRY/$image" "$@"; }

# Digests of the image's own layers, of the first platform if it is an index.
layer_digests() { skopeo inspect --raw --tls-verify=false "docker://$REGISTRY/$1" </dev/null | jq -r '.layers[].digest'; }

# blobs_fetched LINE: digests of the blobs that the registry was asked for with GET since that line of its log.
blobs_fetched() {
  tail -n "+$(($1 + 1))" "$REGISTRY_LOG" | awk -F'"' '$2 ~ /^GET .*\/blobs\// { split($2, a, " "); print a[2] }' |
    grep -o 'sha256:[0-9a-f]*' | sort -u || true
}
# layers_fetched NAME:TAG LINE: how many of the image's original layers the registry was asked for since then.
layers_fetched() {
  comm -12 <(layer_digests "$1" | sort -u) <(blobs_fetched "$2") | wc -l
}

# Names of snapshots that the snapshotter has (of all containerd namespaces).
snapshot_count() { k8s_ctr snapshots --snapshotter "$CONTAINERD_SNAPSHOTTER" ls | tail -n +2 | wc -l; }
# EROFS mounts and trees of the agent's data root: what containers see.
lazy_mounts() { awk '$0 ~ " - erofs " || $0 ~ " - fuse" { print $5 }' /proc/self/mountinfo | grep -c "^$DATA_ROOT/.*" || true; }

# remove_image_wait NAME:TAG: removes it and waits until containerd's garbage collector has run.
remove_image_wait() { cri rmi "$REGISTRY/$1"; k8s_ctr content prune references >/dev/null 2>&1 || true; }
