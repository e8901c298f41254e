#!/usr/bin/env bash
# A cluster on one machine: registry, registry proxy, tree-manager and N nodes, each in a network namespace of its own, on a
# switch without a way out, over links as slow as asked for.
#
#   lab.sh [--dir DIR] up N [--rate 100mbit] [--proxy-rate RATE] [--stripes 2 | --star] [--image NAME]… [--keeper]
#                         [--agent-toml FILE] [--proxy-toml FILE] [--manager-toml FILE]
#   lab.sh exec NODE CMD…      in the node's network; `banyan` there means this node's agent
#   lab.sh kill NODE           kill -9 of its daemon          lab.sh stop NODE   SIGTERM, and waits
#   lab.sh start NODE          the daemon again               lab.sh wipe NODE   stops it and empties its store
#   lab.sh cut NODE            silence: the switch drops its packets, both ways       lab.sh heal NODE
#   lab.sh slow NODE [--up | --down] RATE
#   lab.sh stats [--mark] [--json]  bytes by link since the last --mark
#   lab.sh status              who runs          lab.sh env  shell variables that describe the lab
#   lab.sh down
#
# NODE: n1, n2, …, or registry, proxy, manager, with --keeper n1/keeper too. Images (tests/images/make_image.sh: python, base, random-256, …) are in the registry as
# lab.sh env's $LAB_REGISTRY/NAME:1, converted, and in the proxy's store, before any link is shaped. --star: no tree-manager, every
# node is fed by the proxy. RATE is tc's: 100mbit; none: unshaped. The proxy's link is a node's unless --proxy-rate says otherwise; those of registry
# and tree-manager are unshaped. $LAB_CONGESTION: TCP's congestion control in all of it (default cubic, as Debian's kernels have it).
#
# All of a lab is below DIR (default $BANYAN_LAB, else /var/tmp/banyan-lab-UID): labs in different directories do not meet. Addresses are the same
# in all of them. Pid files carry the start time, so only processes that this lab began are ever ended; `down` may be
# called at any time, also after a crash in the middle of anything. Needs root.
# shellcheck shell=bash
set -euo pipefail
shopt -s inherit_errexit nullglob
export LC_ALL=C
script=$(readlink -f "${BASH_SOURCE[0]}")
SOURCE_DIR=$(cd "$(dirname "$script")/.." && pwd)
BANYAN_BIN=${BANYAN_BIN:-$SOURCE_DIR/build/release/bin}
source "$SOURCE_DIR/scripts/lab/network.sh"
source "$SOURCE_DIR/scripts/lab/content.sh"

REGISTRY_PORT=5000 PROXY_PORT=5050 MANAGER_PORT=4650 PEER_PORT=4640 MIRROR_PORT=4650 MANAGER_HTTP_PORT=4651 PROXY_STATUS_PORT=5051

die() { echo "lab.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^# NODE/s/^# \{0,1\}//p' "$script" >&2; exit 2; }

# wait_until SECONDS WHAT COMMAND…
wait_until() {
  local deadline=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || die "gave up waiting for $what"
    sleep 0.05
  done
}

# ---- Processes ----

# Clock ticks from boot to the start of a process; fails when there is none, or a zombie.
started_at() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  read -ra stat <<<"${stat##*) }"
  [[ ${stat[0]} != [ZX] ]] && echo "${stat[19]}"
}

# pid_of FILE: of the process that the file means, if it lives.
pid_of() {
  local pid start now
  read -r pid start 2>/dev/null <"$1" || return 1
  now=$(started_at "$pid") && [[ $now == "$start" ]] && echo "$pid"
}

# A process writes its own pid file and then becomes the program, so a crash of this script leaves none without.
read -r -d '' BECOME <<'SH' || true
read -r stat <"/proc/$$/stat"; stat=(${stat##*) })
echo "$$ ${stat[19]}" >"$0"
exec "$@"
SH

# spawn DIRECTORY NAMESPACE COMMAND…: a daemon with DIRECTORY/pid and DIRECTORY/log.
spawn() {
  local dir=$1 namespace=$2; shift 2
  setsid nsenter --net="$(namespace_file "$namespace")" bash -c "$BECOME" "$dir/pid" "$@" >>"$dir/log" 2>&1 </dev/null 9>&- &
  disown
}

# end_processes SIGNAL-FIRST PID-FILE…: with that signal, after ten seconds with SIGKILL; waits.
end_processes() {
  local signal=$1 file pid deadline=$((SECONDS + 10)); shift
  for file in "$@"; do
    if pid=$(pid_of "$file"); then kill "-$signal" "$pid" 2>/dev/null || true; fi
  done
  for file in "$@"; do
    while pid=$(pid_of "$file"); do
      ((SECONDS < deadline)) || kill -9 "$pid" 2>/dev/null || true
      sleep 0.02
    done
    rm -f "$file"
  done
}

# ---- Daemons ----

daemon_dir() {
  case $1 in
    registry | proxy | manager) echo "$LAB/$1" ;;
    n[1-9]*/keeper) [[ -n $LAB_KEEPER ]] || die "$1: the lab is up without --keeper"; echo "$(daemon_dir "${1%/keeper}")/keeper" ;;
    n[1-9]*) [[ -d $LAB/nodes/$1 ]] || die "no node $1 in $LAB"; echo "$LAB/nodes/$1" ;;
    *) die "no such node: $1" ;;
  esac
}

http_ready() { timeout 2 nsenter --net="$(namespace_file "$1")" bash -c "exec 3<>/dev/tcp/127.0.0.1/$2" 2>/dev/null; }

write_registry_config() {
  cat >"$LAB/registry/config.yml" <<YML
version: 0.1
log: {level: warn}
storage:
  filesystem: {rootdirectory: $LAB/registry/data}
  delete: {enabled: true}
http: {addr: "0.0.0.0:$REGISTRY_PORT", secret: banyan}
YML
}

write_proxy_config() {
  cat >"$LAB/proxy/config.toml" <<TOML
listen = "0.0.0.0:$PROXY_PORT"
status = "0.0.0.0:$PROXY_STATUS_PORT"
data_root = "$LAB/proxy/data"
$(cat "${1:-/dev/null}")
[convert]
enabled = false
[upstreams."$LAB_REGISTRY"]
endpoints = ["http://$LAB_REGISTRY"]
TOML
}

write_manager_config() {
  cat >"$LAB/manager/config.toml" <<TOML
listen = "0.0.0.0:$MANAGER_PORT"
http = "0.0.0.0:$MANAGER_HTTP_PORT"
proxies = ["$(address_of proxy):$PROXY_STATUS_PORT"]
data_root = "$LAB/manager/data"
token_file = "$LAB/token"
stripes = $LAB_STRIPES
$(cat "${1:-/dev/null}")
TOML
}

# write_agent_config NODE [FILE]
write_agent_config() {
  local dir=$LAB/nodes/$1
  {
    printf 'data_root = "%s/data"\n' "$dir"
    [[ -z $LAB_KEEPER ]] || printf 'keeper_socket = "%s/keeper/sock"\n' "$dir"
    cat "${2:-/dev/null}"
    # The lab reaches it, for its metrics; nothing else can.
    printf '[mirror]\naddress = "0.0.0.0:%s"\n' $MIRROR_PORT
    printf '[registries."%s"]\nplain_http = true\nmirrors = ["http://%s"]\n' "$LAB_REGISTRY" "$LAB_PROXY"
    if ((LAB_STRIPES > 0)); then
      printf '[peer]\naddress = "%s:%s"\nnode = "%s"\ntoken_file = "%s/token"\n' "$(address_of "$1")" $PEER_PORT "$1" "$LAB"
      printf '[tree]\nmanager = "%s"\n' "$LAB_MANAGER"
    fi
  } >"$dir/config.toml"
}

# begin NAME: its daemon; returns at once. await NAME: until it answers.
begin() {
  local dir
  dir=$(daemon_dir "$1")
  ! pid_of "$dir/pid" >/dev/null || return 0
  case $1 in
    registry) OTEL_TRACES_EXPORTER=none spawn "$dir" registry docker-registry serve "$dir/config.yml" ;;
    proxy) spawn "$dir" proxy "$BANYAN_BIN/banyan-registry-proxy" --config "$dir/config.toml" ;;
    manager) spawn "$dir" manager "$BANYAN_BIN/banyan-tree-manager" --config "$dir/config.toml" ;;
    */keeper)
      rm -f "$dir/sock"
      spawn "$dir" "${1%/keeper}" "$BANYAN_BIN/banyan-keeper" --socket "$dir/sock"
      ;;
    *)
      rm -f "$dir/data/agent.sock"
      [[ -z $LAB_KEEPER ]] || { begin "$1/keeper"; await "$1/keeper"; }
      spawn "$dir" "$1" "$BANYAN_BIN/banyan-peer-agent" --config "$dir/config.toml"
      ;;
  esac
}
answers() {
  case $1 in
    registry) http_ready registry $REGISTRY_PORT ;;
    proxy) http_ready proxy $PROXY_PORT ;;
    manager) http_ready manager $MANAGER_PORT ;;
    */keeper) [[ -S $(daemon_dir "$1")/sock ]] ;;
    *) [[ -S $LAB/nodes/$1/data/agent.sock ]] && "$BANYAN_BIN/banyan" --data-root "$LAB/nodes/$1/data" --json info </dev/null ;;
  esac
}
await() {
  local dir deadline=$((SECONDS + 60))
  dir=$(daemon_dir "$1")
  until answers "$1" >/dev/null 2>&1; do
    if ((SECONDS >= deadline)) || { [[ -s $dir/pid ]] && ! pid_of "$dir/pid" >/dev/null; }; then
      tail -n 5 "$dir/log" >&2
      die "$1 does not start"
    fi
    sleep 0.05
  done
}

# ---- Commands ----

parse_up() {
  LAB_NODES=${1:-} LAB_RATE=none LAB_PROXY_RATE='' LAB_STRIPES=2 LAB_KEEPER='' LAB_IMAGES=()
  agent_toml='' proxy_toml='' manager_toml=''
  [[ $LAB_NODES =~ ^[1-9][0-9]{0,2}$ ]] && ((LAB_NODES <= 250)) || die "up: how many nodes? (1 to 250)"
  shift
  while (($# > 0)); do
    case $1 in
      --star) LAB_STRIPES=0 ;;
      --keeper) LAB_KEEPER=1 ;;
      --rate | --proxy-rate | --stripes | --image | --agent-toml | --proxy-toml | --manager-toml)
        (($# > 1)) || die "up: $1 needs a value"
        case $1 in
          --rate) LAB_RATE=$2 ;;
          --proxy-rate) LAB_PROXY_RATE=$2 ;;
          --stripes) [[ $2 == [12] ]] || die "up: --stripes 1 or 2"; LAB_STRIPES=$2 ;;
          --image) LAB_IMAGES+=("$2") ;;
          --agent-toml) agent_toml=$2 ;;
          --proxy-toml) proxy_toml=$2 ;;
          --manager-toml) manager_toml=$2 ;;
        esac
        shift
        ;;
      *) die "up: unknown option $1" ;;
    esac
    shift
  done
  LAB_PROXY_RATE=${LAB_PROXY_RATE:-$LAB_RATE}
  LAB_REGISTRY=$(address_of registry):$REGISTRY_PORT
  LAB_PROXY=$(address_of proxy):$PROXY_PORT
  LAB_MANAGER=$(address_of manager):$MANAGER_PORT
}

save_env() {
  local name
  for name in LAB LAB_NODES LAB_RATE LAB_PROXY_RATE LAB_STRIPES LAB_KEEPER LAB_REGISTRY LAB_PROXY LAB_MANAGER BANYAN_BIN; do
    printf '%s=%q\n' "$name" "${!name}"
  done >"$LAB/env.new"
  echo "LAB_NAMESPACES=$(namespace_file '')" >>"$LAB/env.new"  # with a node's name behind it: a file for nsenter --net
  mv "$LAB/env.new" "$LAB/env"
}
load_env() {
  [[ -f $LAB/env ]] || die "no lab in $LAB: lab.sh up N"
  source "$LAB/env"
}
node_names() { local i; for ((i = 1; i <= LAB_NODES; i++)); do echo "n$i"; done; }
server_names() { echo registry; echo proxy; ((LAB_STRIPES == 0)) || echo manager; }

# Compressed and, once read, decompressed: what the nodes' stores and the proxy's may take.
check_space() {
  local image need=0 free
  for image in "${LAB_IMAGES[@]}"; do need=$((need + $(image_kib "$image"))); done
  need=$(((need * 5 / 2 + 65536) * (LAB_NODES + 1)))
  free=$(df --output=avail -k "$LAB" | tail -1)
  ((free > need)) || die "$LAB has $((free >> 10)) MiB free; $LAB_NODES nodes with ${LAB_IMAGES[*]:-no image} may take $((need >> 10)) MiB (--dir)"
}

up() {
  local name
  parse_up "$@"
  for name in banyan banyan-peer-agent banyan-keeper banyan-registry-proxy $( ((LAB_STRIPES == 0)) || echo banyan-tree-manager); do
    [[ -x $BANYAN_BIN/$name ]] || die "no $name in BANYAN_BIN=$BANYAN_BIN"
  done
  for name in docker-registry ip tc bridge jq; do command -v "$name" >/dev/null || die "needs $name (scripts/install-deps.sh)"; done
  [[ ! -e $LAB/env ]] || die "there is a lab in $LAB: lab.sh down"
  take_down  # what a crash has left
  mkdir -p "$LAB"/{registry/data,proxy/data,manager/data,nodes,exec}
  for name in "${LAB_IMAGES[@]}"; do prepare_image "$name"; done
  check_space
  # Whatever fails from here on leaves nothing behind.
  trap 'status=$?; trap - EXIT; ((status == 0)) || take_down; exit $status' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  save_env
  write_node_banyan
  (umask 077; od -An -tx1 -N16 /dev/urandom | tr -d ' \n' >"$LAB/token")

  network_up
  write_registry_config
  write_proxy_config "$proxy_toml"
  write_manager_config "$manager_toml"
  for name in "${LAB_IMAGES[@]}"; do add_image "$name"; done
  for name in $(server_names); do begin "$name"; done
  for name in $(server_names); do await "$name"; done
  for name in "${LAB_IMAGES[@]}"; do warm_proxy "$name"; done
  shape_all
  for name in $(node_names); do
    mkdir -p "$LAB/nodes/$name"/{data,keeper}
    write_agent_config "$name" "$agent_toml"
    begin "$name"
  done
  for name in $(node_names); do await "$name"; done
  counters >"$LAB/mark"
  trap - EXIT
}

# What `banyan` is on a node: the agent's own data root.
write_node_banyan() {
  mkdir -p "$LAB/bin"
  # shellcheck disable=SC2016
  printf '#!/bin/sh\nexec %q --data-root "$LAB_DATA_ROOT" --plain-http "$@"\n' "$BANYAN_BIN/banyan" >"$LAB/bin/banyan"
  chmod +x "$LAB/bin/banyan"
}

wipe() {
  local dir
  dir=$(daemon_dir "$1")
  [[ $1 == n* ]] || die "wipe: $1 is not a node"
  end_processes TERM "$dir/keeper/pid" "$dir/pid"
  unmount_below "$dir/data"
  rm -rf --one-file-system "$dir/data"
  mkdir "$dir/data"
}

# Whatever is there, in whatever state.
take_down() {
  local mount
  [[ -d $LAB ]] || { network_down; return 0; }
  unmount_below "$LAB"
  end_processes TERM "$LAB"/exec/*.pid
  end_processes TERM "$LAB"/nodes/*/keeper/pid "$LAB"/nodes/*/pid "$LAB"/{manager,proxy,registry}/pid
  unmount_below "$LAB"  # what was mounted meanwhile
  network_down
  mount=$(mounts_below "$LAB")
  [[ -z $mount ]] || die "still mounted: $mount"
  rm -rf --one-file-system "$LAB"
}
mounts_below() { awk -v root="$1/" '{ gsub(/\\040/, " ", $5); if (index($5 "/", root) == 1) print $5 }' /proc/self/mountinfo | tac; }
# Lazily: a read may wait for an agent that will not answer any more. Its end frees the mount.
unmount_below() {
  local mount
  while read -r mount; do umount -l "$mount" 2>/dev/null || true; done < <(mounts_below "$1")
}

exec_in() {
  local name=$1 dir; shift
  (($# > 0)) || die "exec: what?"
  dir=$(daemon_dir "$name")
  export PATH=$LAB/bin:$PATH BANYAN_LAB=$LAB LAB_DATA_ROOT=$dir/data
  export BANYAN_TREE_MANAGER=$LAB_MANAGER BANYAN_TOKEN_FILE=$LAB/token
  exec nsenter --net="$(namespace_file "$name")" bash -c "$BECOME" "$LAB/exec/$$.pid" "$@"
}

# rx of the switch's port is what the other end has sent.
stats() {
  local format=table
  while (($# > 0)); do
    case $1 in
      --json) format=json ;;
      --mark) counters >"$LAB/mark.new"; mv "$LAB/mark.new" "$LAB/mark"; return ;;
      *) die "stats: unknown option $1" ;;
    esac
    shift
  done
  counters | jq -s --slurpfile mark "$LAB/mark" '
    .[0] as $now | $now | with_entries(.key as $link | .value |= {
      sent: (.sent - $mark[0][$link].sent), received: (.received - $mark[0][$link].received)})' |
    if [[ $format == json ]]; then cat; else
      jq -r '["link", "sent", "received"], (to_entries[] | [.key, .value.sent, .value.received]) | @tsv' |
        awk -F'\t' 'NR == 1 { printf "%-10s %12s %12s\n", $1, $2, $3; next } { printf "%-10s %9.2f MB %9.2f MB\n", $1, $2 / 1e6, $3 / 1e6 }'
    fi
}

slow() {
  local name=$1 way=both
  case ${2:-} in --up | --down) way=${2#--}; shift ;; esac
  [[ -n ${2:-} ]] || die "slow: which rate?"
  daemon_dir "$name" >/dev/null
  shape "$name" "$2" "$way"
}

status() {
  local name dir
  for name in $(server_names) $(node_names); do
    dir=$(daemon_dir "$name")
    printf '%-10s %-12s %s%s\n' "$name" "$(address_of "$name")" "$(pid_of "$dir/pid" || echo down)" "$(is_cut "$name" && echo ' cut' || true)"
  done
}

# One `up` or `down` at a time; `down` removes the file, and then those who waited on it take its successor.
lock_lab() {
  while true; do
    exec 9>"$LAB.lock"
    flock -w 120 9 || die "another lab.sh is at work on $LAB"
    if [[ /proc/self/fd/9 -ef $LAB.lock ]]; then return; fi
  done
}

((EUID == 0)) || { echo "lab.sh: needs root" >&2; exit 77; }
LAB=${BANYAN_LAB:-/var/tmp/banyan-lab-$EUID}
while [[ ${1:-} == --* ]]; do
  case $1 in
    --dir) LAB=${2:?"--dir: which?"}; shift 2 ;;
    *) usage ;;
  esac
done
LAB=$(realpath -m "$LAB")
command=${1:-}
(($# == 0)) || shift

case $command in
  up | down)
    mkdir -p "$(dirname "$LAB")"
    lock_lab
    if [[ $command == up ]]; then up "$@"; else take_down; rm -f "$LAB.lock"; fi
    ;;
  exec | kill | stop | start | wipe | cut | heal | slow)
    load_env
    [[ -n ${1:-} ]] || die "$command: which node?"
    case $command in
      exec) exec_in "$@" ;;
      kill) end_processes KILL "$(daemon_dir "$1")/pid" ;;
      stop) end_processes TERM "$(daemon_dir "$1")/pid" ;;
      start) begin "$1"; await "$1" ;;
      wipe) wipe "$1" ;;
      cut) set_cut "$1" disabled ;;
      heal) set_cut "$1" forwarding ;;
      slow) slow "$@" ;;
    esac
    ;;
  stats) load_env; stats "$@" ;;
  status) load_env; status ;;
  env) load_env; cat "$LAB/env" ;;
  *) usage ;;
esac
