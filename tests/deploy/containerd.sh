#!/usr/bin/env bash
# deploy/containerd: the snippets set what `banyan install --containerd` writes into an empty configuration of that version, and this machine's containerd
# understands the one that is meant for it.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
same() {
  python3 - "$1" "$2" <<'PY' || fail "$1 is not what banyan install writes"
import sys, tomllib
one, two = (tomllib.load(open(path, "rb")) for path in sys.argv[1:3])
if one != two: sys.exit(f"{one}\n{two}")
PY
}
for version in 2 3; do
  root=$WORK/v$version
  mkdir -p "$root/etc/containerd"
  echo "version = $version" >"$root/etc/containerd/config.toml"
  banyan --quiet install --containerd --yes --root "$root" >/dev/null
  same "$SOURCE_DIR/deploy/containerd/config-v$version.toml" "$root/etc/containerd/config.toml"
  same "$SOURCE_DIR/deploy/containerd/certs.d/_default/hosts.toml" "$root/etc/containerd/certs.d/_default/hosts.toml"
  banyan --quiet install --containerd --uninstall --yes --root "$root" >/dev/null
  [[ $(cat "$root/etc/containerd/config.toml") == "version = $version" && ! -e $root/etc/containerd/certs.d/_default ]] || fail "version $version: --uninstall leaves something"
done
if command -v containerd >/dev/null; then
  containerd --config "$SOURCE_DIR/deploy/containerd/config-v2.toml" config dump >"$WORK/dump" 2>/dev/null
  for line in 'snapshotter = "banyan"' 'disable_snapshot_annotations = false' 'address = "/run/banyan/snapshotter.sock"' 'config_path = "/etc/containerd/certs.d"'; do
    grep -qF "$line" "$WORK/dump" || fail "containerd does not take: $line"
  done
fi
