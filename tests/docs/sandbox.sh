#!/usr/bin/env bash
# sandbox.sh SCRIPT: runs it on a machine of its own (tests/docs/README.md). BANYAN_BIN: the programs. What is mounted, started and bound there ends with it.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"

if [[ ${BANYAN_SANDBOX:-} != inside ]]; then
  for program in docker-registry skopeo containerd openssl; do
    command -v "$program" >/dev/null || { echo "needs $program"; exit $SKIP; }
  done
  layout=$("$SOURCE_DIR/tests/images/make_image.sh" python)
  # All that is begun inside dies with the process namespace.
  BANYAN_SANDBOX=inside BANYAN_BIN=$BANYAN_BIN SANDBOX_WORK=$WORK SANDBOX_IMAGE=$layout \
    unshare --mount --propagation private --net --pid --fork --kill-child --mount-proc "$0" "$@" || exit $?
  exit 0
fi

trap - EXIT
rmdir "$WORK"  # e2e.sh made another one
WORK=$SANDBOX_WORK
script=$1
cp "$script" "$WORK/script"

# Directories of the system that are changed: private copies. What Banyan and containerd store must not lie on overlayfs.
for directory in /etc /usr /root; do
  mkdir -p "$WORK/overlay$directory/upper" "$WORK/overlay$directory/work"
  mount -t overlay overlay -o "lowerdir=$directory,upperdir=$WORK/overlay$directory/upper,workdir=$WORK/overlay$directory/work" "$directory"
done
mkdir "$WORK/lib"
mount --bind "$WORK/lib" /var/lib
mount --make-rshared /
for directory in /run /mnt /srv; do mount -t tmpfs tmpfs "$directory"; done
rm -rf /etc/banyan /etc/containerd
ip link set lo up

log "names, certificates, a registry"
names=(registry.example manager.example proxy.example cache.example)
printf '127.0.0.1 %s\n' localhost "$(hostname)" "${names[@]}" >/etc/hosts
mkdir "$WORK/tls"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout "$WORK/tls/key.pem" -out "$WORK/tls/cert.pem" \
  -subj "/CN=registry.example" -addext "subjectAltName=DNS:registry.example" 2>/dev/null
cat "$WORK/tls/cert.pem" >>/etc/ssl/certs/ca-certificates.crt
cat >"$WORK/registry.yml" <<YML
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $WORK/registry}, delete: {enabled: true}}
http: {addr: "127.0.0.1:443", secret: banyan, tls: {certificate: $WORK/tls/cert.pem, key: $WORK/tls/key.pem}}
YML
OTEL_TRACES_EXPORTER=none docker-registry serve "$WORK/registry.yml" >"$WORK/registry.log" 2>&1 </dev/null &
wait_for 20 curl --silent --fail https://registry.example/v2/ || fail "no registry: $(tail -3 "$WORK/registry.log")"
for tag in 1 2; do
  skopeo --insecure-policy copy --quiet --preserve-digests "$SANDBOX_IMAGE" "docker://registry.example/app:$tag" </dev/null
done

log "programs, units, samples"
for program in banyan banyan-peer-agent banyan-keeper banyan-registry-proxy banyan-tree-manager; do cp "$BANYAN_BIN/$program" /usr/bin; done
cp "$SOURCE_DIR/tests/docs/fake_systemctl.py" /usr/bin/systemctl
export FAKE_SYSTEMD=$WORK/systemd
cp "$SOURCE_DIR"/deploy/systemd/*.service /etc/systemd/system
mkdir -p /etc/banyan
cp "$SOURCE_DIR"/deploy/*.toml /etc/banyan

cd "$SOURCE_DIR"
status=0
timeout 500 bash "$WORK/script" </dev/null || status=$?
if ((status != 0)); then
  for file in "$WORK"/systemd/*.log; do [[ -e $file ]] && { log "the end of $file:"; tail -n 5 "$file" >&2; }; done
fi
exit $status
