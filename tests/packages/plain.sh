#!/usr/bin/env bash
# The part of packages.sh that runs without systemd, in namespaces of its own: process 1 is this script.
set -euo pipefail
root=$PACKAGES_ROOT work=$PACKAGES_WORK
log() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }
fail() { log "FAILED: $*"; for file in "$work"/*.log; do log "the end of $file"; tail -n 4 "$file" >&2; done; exit 1; }
wait_for() {
  local deadline=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do ((SECONDS < deadline)) || return 1; sleep 0.1; done
}
inside() { chroot "$root" "$@" </dev/null; }

mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t tmpfs tmpfs "$root/run"
ip link set lo up
echo "127.0.0.1 localhost" >"$root/etc/hosts"

cat >"$work/registry.yml" <<YML
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $work/registry}, delete: {enabled: true}}
http: {addr: "127.0.0.1:5000", secret: banyan}
YML
OTEL_TRACES_EXPORTER=none docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 </dev/null &
wait_for 20 curl --silent --fail http://127.0.0.1:5000/v2/ || fail "no registry"
skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci:$PACKAGES_OCI:app" docker://127.0.0.1:5000/app:1 </dev/null
inside banyan --quiet --plain-http --data-root /tmp/converter convert docker://127.0.0.1:5000/app:1

log "the daemons, by hand, with the sample configurations"
if pgrep -a banyan >&2; then fail "something was started though there is no systemd"; fi
mkdir -p "$root"/run/banyan "$root"/run/credentials/banyan-{registry-proxy,tree-manager}.service
cp "$root/etc/banyan/keys/signing.pem" "$root/run/credentials/banyan-registry-proxy.service/"
cp "$root/etc/banyan/token" "$root/run/credentials/banyan-tree-manager.service/"
printf '[metrics]\naddress = "127.0.0.1:5066"\n' >>"$root/etc/banyan/peer-agent.toml"
start() { inside "$@" >"$work/${1##*/}.log" 2>&1 & }
start /usr/bin/banyan-registry-proxy --config /etc/banyan/registry-proxy.toml
start /usr/bin/banyan-tree-manager --config /etc/banyan/tree-manager.toml
start /usr/bin/banyan-keeper --socket /run/banyan/keeper.sock --supervise -- /usr/bin/banyan-peer-agent --config /etc/banyan/peer-agent.toml
for port in 5050 4651 5065 5066; do wait_for 30 curl --silent --fail "http://127.0.0.1:$port/readyz" || fail "port $port does not answer"; done
status_of() { curl --silent --output /dev/null --write-out '%{http_code}' "http://127.0.0.1:$1"; }
[[ $(status_of 5065/v2/) == 200 && $(status_of 5065/metrics) == 200 ]] || fail "the agent has no mirror at 5065"
[[ $(status_of 5066/v2/) == 404 && $(status_of 5066/metrics) == 200 ]] || fail "at 5066 are not metrics alone"
agent() { pgrep -xf '/usr/bin/banyan-peer-agent --config /etc/banyan/peer-agent.toml'; }

log "a reader, as a container is one"
inside banyan --quiet --plain-http mount docker://127.0.0.1:5000/app:1 /mnt
cat >"$work/reader.py" <<'PY'
import hashlib, os, sys, time
path, out = sys.argv[1:3]
wanted, rounds = None, 0
while not os.path.exists(out + ".stop"):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    digest = hashlib.sha256()
    while piece := os.read(fd, 1 << 18):
        digest.update(piece)
        time.sleep(0.005)
    os.close(fd)
    wanted = wanted or digest.digest()
    assert digest.digest() == wanted, "wrong bytes"
    rounds += 1
    with open(out + ".new", "w") as file:
        file.write(str(rounds))
    os.rename(out + ".new", out)
PY
python3 "$work/reader.py" "$root/mnt/own.bin" "$work/rounds" >"$work/reader.log" 2>&1 &
reader=$!
rounds() { cat "$work/rounds" 2>/dev/null || echo 0; }
# reads_on WHEN: two more whole rounds.
reads_on() {
  local from
  from=$(rounds)
  wait_for 60 eval "(( \$(rounds) >= $from + 2 ))" || fail "the reader does not read on $1: $(cat "$work/reader.log")"
  kill -0 "$reader" 2>/dev/null || fail "the reader ended $1: $(cat "$work/reader.log")"
}
reads_on "at first"

log "upgrade"
# The operator has enabled the preemption hook.
wants=/etc/systemd/system/multi-user.target.wants
ln -s /lib/systemd/system/banyan-preemption.service "$root$wants/"
before=$(agent)
inside sh -c 'DEBIAN_FRONTEND=noninteractive dpkg -i /debs/later/*.deb' >"$work/dpkg.log" 2>&1 || fail "upgrade: $(cat "$work/dpkg.log")"
[[ $(inside dpkg-query -W -f '${Version}' banyan-peer-agent) == *+1 ]] || fail "it was not upgraded"
inside grep -qx '# a line of the operator' /etc/banyan/peer-agent.toml || fail "the upgrade changed the configuration"
[[ -L $root$wants/banyan-preemption.service ]] || fail "the upgrade disables the preemption hook"
[[ $(agent) == "$before" ]] || fail "the upgrade touched the agent, and nobody can have started it again"
reads_on "after the upgrade"
kill "$before"
wait_for 60 eval '[[ -n $(agent) && $(agent) != "$before" ]]' || fail "the keeper starts no new agent"
reads_on "with the new agent"

log "removal"
inside sh -c 'dpkg -r banyan-peer-agent banyan-keeper' >"$work/dpkg.log" 2>&1 || fail "removal: $(cat "$work/dpkg.log")"
[[ ! -e $root/usr/bin/banyan-peer-agent ]] || fail "the program is still there"
reads_on "after the removal"

log "purge beside a mount: its store stays"
inside dpkg -P banyan-peer-agent >"$work/dpkg.log" 2>&1 || fail "purge: $(cat "$work/dpkg.log")"
[[ -n $(ls -A "$root/var/lib/banyan") ]] || fail "the purge emptied the store under a mount"
[[ ! -e $root/etc/banyan/peer-agent.toml ]] || fail "the purge leaves the agent's configuration"
reads_on "after the purge"
touch "$work/rounds.stop"
wait "$reader" || fail "the reader failed: $(cat "$work/reader.log")"
umount "$root/mnt"

log "purge of the rest"
# Our own process namespace: nobody else's are seen.
for pid in $(pgrep -f "^/usr/bin/banyan-"); do kill "$pid" 2>/dev/null || true; done
wait_for 20 eval '! pgrep -f "^/usr/bin/banyan-"' || fail "they do not end"
inside dpkg -P banyan-keeper banyan-registry-proxy banyan-tree-manager banyan >"$work/dpkg.log" 2>&1 ||
  fail "purge: $(cat "$work/dpkg.log")"
for path in /etc/systemd/system/multi-user.target.wants/banyan-peer-agent.service /etc/banyan/peer-agent.toml /etc/banyan/token /usr/bin/banyan \
  /lib/systemd/system/banyan-keeper.service; do
  [[ ! -e $root$path && ! -L $root$path ]] || fail "the purge leaves $path"
done
left=$(inside find / -xdev -path /proc -prune -o -path /debs -prune -o -path /tmp -prune -o -iname '*banyan*' -print | grep -v "^/var/lib/banyan$" || true)
[[ -z $left ]] || fail "the purge leaves $left"
