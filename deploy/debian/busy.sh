  # The agent keeps a record of each mount.
  data_root=$(sed -n 's/^data_root *= *"\(.*\)".*/\1/p' /etc/banyan/peer-agent.toml 2>/dev/null | head -n 1)
  busy=$(ls -A "${data_root:-/var/lib/banyan}/mounts" 2>/dev/null || true)
  if [ -n "$busy" ]; then
    echo "@PACKAGE@: images are mounted, and containers may read from them: @UNIT@ runs on." >&2
    echo "When they have gone: systemctl stop @UNIT@" >&2
  fi
