#!/usr/bin/env bash
# The part of packages.sh with systemd as process 1. Called with the packages installed in the chroot, where they could not be started.
set -euo pipefail
root=$PACKAGES_ROOT work=$PACKAGES_WORK here=$(dirname "${BASH_SOURCE[0]}")
log() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }
wait_for() {
  local deadline=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do ((SECONDS < deadline)) || return 1; sleep 0.1; done
}
export PACKAGES_ROOT here
unshare --mount --propagation private --net --pid --fork --kill-child bash -c 'echo $$ >"$PACKAGES_GROUP/cgroup.procs"; exec unshare --cgroup bash "$here/boot.sh"' \
  >"$work/boot.log" 2>&1 </dev/null &
machine=$!
end() {
  local status=$?
  kill -9 "$machine" 2>/dev/null || true
  wait "$machine" 2>/dev/null || true
  exit "$status"
}
trap end EXIT
trap 'exit 143' TERM INT HUP
fail() {
  log "FAILED: $*"
  on journalctl --no-pager -n 40 -o cat >&2 || tail -n 5 "$work/boot.log" >&2
  exit 1
}
child() { process=$(cat "/proc/$machine/task/$machine/children" 2>/dev/null) && process=${process%% *} && [[ -n $process ]]; }
wait_for 10 child || { log "no machine: $(cat "$work/boot.log")"; exit 1; }
# on CMD…: on that machine.
on() { nsenter --target "$process" --mount --net --pid --cgroup --root --wd=/ env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@" </dev/null; }
on_network() { nsenter --target "$process" --net "$@"; }
wait_for 60 on systemctl is-system-running --wait || true
case $(on systemctl is-system-running || true) in running | degraded) ;; *) fail "systemd does not come up" ;; esac
active() { [[ $(on systemctl is-active "$1") == active ]]; }
# A minimal Debian has no kill but the shell's.
runs() { on sh -c "kill -0 $1" 2>/dev/null; }
pid_of() { on systemctl show --property MainPID --value "$1"; }

log "after a boot, all services run"
services=(banyan-keeper banyan-peer-agent banyan-registry-proxy banyan-tree-manager)
for service in "${services[@]}"; do wait_for 60 active "$service" || fail "$service is not active: $(on systemctl status --no-pager "$service" || true)"; done
for port in 5050 4651 5065; do wait_for 30 on_network curl --silent --fail "http://127.0.0.1:$port/readyz" || fail "port $port does not answer"; done

[[ $(on systemctl is-enabled banyan-preemption) == disabled ]] || fail "the preemption hook is enabled"
units=("${services[@]/#//lib/systemd/system/}")
on systemd-analyze verify --man=no --recursive-errors=no "${units[@]/%/.service}" /lib/systemd/system/banyan-preemption.service >"$work/verify.log" 2>&1 || fail "units: $(cat "$work/verify.log")"
[[ ! -s $work/verify.log ]] || fail "units: $(cat "$work/verify.log")"

log "removed, purged and installed again while systemd runs"
on dpkg -P banyan-peer-agent banyan-keeper banyan-registry-proxy banyan-tree-manager banyan >"$work/dpkg.log" 2>&1 || fail "purge: $(cat "$work/dpkg.log")"
for service in "${services[@]}"; do ! active "$service" || fail "$service runs after its purge"; done
on sh -c 'dpkg -i /debs/now/*.deb' >"$work/dpkg.log" 2>&1 || fail "installation: $(cat "$work/dpkg.log")"
for service in "${services[@]}"; do wait_for 30 active "$service" || fail "$service was not started: $(on systemctl status --no-pager "$service" || true)"; done
[[ $(on stat -c %U:%a /etc/banyan/token) == root:600 ]] || fail "the token is not root's alone"

log "the preemption hook: a node among peers is drained once its cloud (played) announces its end"
cat >>"$root/etc/banyan/peer-agent.toml" <<'TOML'
[peer]
address = "127.0.0.1:4640"
node = "spot-1"
token_file = "/etc/banyan/token"
[tree]
manager = "127.0.0.1:4650"
TOML
# What systemctl edit writes.
mkdir "$root/etc/systemd/system/banyan-preemption.service.d"
cat >"$root/etc/systemd/system/banyan-preemption.service.d/override.conf" <<'UNIT'
[Service]
Environment=BANYAN_CLOUD=gcp BANYAN_TOKEN_FILE=/etc/banyan/token BANYAN_NODE=spot-1
Environment=BANYAN_METADATA=http://127.0.0.1:8169 BANYAN_PREEMPTION_INTERVAL=0.2
UNIT
metadata=$work/metadata/computeMetadata/v1/instance
mkdir -p "$metadata"
printf FALSE >"$metadata/preempted"
on_network python3 -m http.server --bind 127.0.0.1 --directory "$work/metadata" 8169 >"$work/metadata.log" 2>&1 </dev/null &
wait_for 10 on_network curl --silent --fail http://127.0.0.1:8169/computeMetadata/v1/instance/preempted || fail "no metadata service"
on systemctl daemon-reload
on systemctl restart banyan-peer-agent
on systemctl enable --now --quiet banyan-preemption
state() { on banyan --json nodes --token-file /etc/banyan/token | jq -r '.nodes[] | select(.node == "spot-1") | .state'; }
is() { [[ $(state) == "$1" ]]; }
wait_for 20 is live || fail "the node is $(state)"
sleep 1
active banyan-preemption || fail "the hook does not wait: $(on systemctl status --no-pager banyan-preemption || true)"
is live || fail "the node is $(state) before anything was announced"
printf TRUE >"$metadata/new"
mv "$metadata/new" "$metadata/preempted"
wait_for 20 is draining || fail "the node is $(state): $(on journalctl --no-pager -u banyan-preemption -o cat || true)"
printf FALSE >"$metadata/preempted"
done_with_it() { [[ $(on systemctl is-active banyan-preemption) == inactive ]]; }  # else failed
wait_for 10 done_with_it || fail "the hook did not end well: $(on systemctl status --no-pager banyan-preemption || true)"
on systemctl start banyan-preemption

log "an image, and a reader, as a container is one"
cat >"$work/registry.yml" <<YML
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $work/registry}, delete: {enabled: true}}
http: {addr: "127.0.0.1:5000", secret: banyan}
YML
OTEL_TRACES_EXPORTER=none on_network docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 </dev/null &
wait_for 20 on_network curl --silent --fail http://127.0.0.1:5000/v2/ || fail "no registry"
on_network skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci:$PACKAGES_OCI:app" docker://127.0.0.1:5000/app:1 </dev/null
on banyan --quiet --plain-http --data-root /tmp/converter convert docker://127.0.0.1:5000/app:1
mkdir -p "$root/srv"
on mkdir -p /srv/app
on banyan --quiet --plain-http mount docker://127.0.0.1:5000/app:1 /srv/app
cat >"$root/srv/reader.sh" <<'READER'
# A process of the machine that reads, drops what the kernel has cached, and reads again; one line a round.
wanted=$(sha256sum </srv/app/own.bin)
while [ ! -e /srv/stop ]; do
  dd if=/srv/app/own.bin of=/dev/null bs=1M iflag=nocache status=none || exit 1
  dd if=/srv/app/own.bin iflag=nocache count=0 status=none
  [ "$(sha256sum </srv/app/own.bin)" = "$wanted" ] || exit 1
  echo round
  sleep 0.05
done
READER
: >"$work/rounds"
nsenter --target "$process" --mount --net --pid --root --wd=/ sh /srv/reader.sh >"$work/rounds" 2>"$work/reader.err" </dev/null &
reader=$!
rounds() { wc -l <"$work/rounds"; }
reads_on() {
  local from
  from=$(rounds)
  wait_for 30 eval "(( \$(rounds) >= $from + 3 ))" || fail "the reader does not read on $1: $(cat "$work/reader.err")"
  kill -0 "$reader" 2>/dev/null || fail "the reader ended $1: $(cat "$work/reader.err")"
}
reads_on "at first"

agent=$(pid_of banyan-peer-agent)
on systemctl reload banyan-peer-agent || fail "the agent cannot be told to read its configuration again"
read_again() { on journalctl --no-pager -u banyan-peer-agent -o cat | grep "configuration read again"; }
wait_for 10 read_again || fail "the agent does not read its configuration again"
[[ $(pid_of banyan-peer-agent) == "$agent" ]] || fail "a reload restarts the agent"

log "upgrade: the agent is restarted, the keeper is not"
agent=$(pid_of banyan-peer-agent) keeper=$(pid_of banyan-keeper)
on sh -c 'dpkg -i /debs/later/*.deb' >"$work/dpkg.log" 2>&1 || fail "upgrade: $(cat "$work/dpkg.log")"
for service in "${services[@]}"; do wait_for 30 active "$service" || fail "$service does not run after the upgrade"; done
[[ $(pid_of banyan-peer-agent) != "$agent" ]] || fail "the agent was not restarted"
[[ $(pid_of banyan-keeper) == "$keeper" ]] || fail "the keeper was restarted"
reads_on "after the upgrade"

log "removal: an agent whose image is mounted runs on"
agent=$(pid_of banyan-peer-agent)
on dpkg -r banyan-peer-agent banyan-keeper >"$work/dpkg.log" 2>&1 || fail "removal: $(cat "$work/dpkg.log")"
grep -q "runs on" "$work/dpkg.log" || fail "the removal does not say that the agent runs on: $(cat "$work/dpkg.log")"
runs "$agent" || fail "the removal ended the agent"
if active banyan-preemption; then fail "the removal leaves the preemption hook running"; fi
runs "$keeper" || fail "the removal ended the keeper"
reads_on "after the removal"
touch "$root/srv/stop"
wait "$reader" || fail "the reader failed: $(cat "$work/reader.err")"
on umount /srv/app
on systemctl stop banyan-peer-agent banyan-keeper
if runs "$agent"; then fail "the agent cannot be stopped"; fi

log "purge"
on dpkg -P banyan-peer-agent banyan-keeper banyan-registry-proxy banyan-tree-manager banyan >"$work/dpkg.log" 2>&1 || fail "purge: $(cat "$work/dpkg.log")"
left=$(on systemctl list-unit-files --no-legend 'banyan*' || true)  # none is an error to it
[[ -z $left ]] || fail "units are left: $left"
[[ ! -L $root/etc/systemd/system/multi-user.target.wants/banyan-preemption.service ]] || fail "the purge leaves the preemption hook's link"
log "removed"
