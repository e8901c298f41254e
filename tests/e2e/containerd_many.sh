#!/usr/bin/env bash
# Many at once: `containerd_many.sh containers|images|layers|pulls`.
#
# containers: ten containers of one image share one mount. images: fifty images mounted at once, each with a running container, in
# little memory. layers: an image of 127 layers. pulls: twenty pulls at once, of one image and of many.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lib/containerd.sh"

# Of images; a mount that several of them share is not one.
agent_mounts() { banyan --json ls | jq '[.mounts[] | select(.directory | contains("/snapshots/"))] | length'; }
agent_rss_kib() { awk '/^VmRSS/ { print $2 }' "/proc/$AGENT_PID/status"; }

# variants COUNT: lazy/v:0 … are converted: the base image with a small layer of its own each.
variants() {
  local i base
  base=$("$SOURCE_DIR/tests/images/make_image.sh" base)
  base=${base#oci:}
  python3 -B "$SOURCE_DIR/tests/images/variants.py" "${base%:base}" "$WORK/variants" "$1"
  for ((i = 0; i < $1; ++i)); do
    push_image "oci:$WORK/variants:v$i" "lazy/v:$i"
    convert_image "lazy/v:$i"
  done
  rm -rf "$WORK/variants"
}

containers() {
  push_test_image python lazy/python:1
  convert_image lazy/python:1
  start_node_agent
  start_containerd banyan
  pull_cri lazy/python:1
  local i started=() out
  for i in 1 2 3 4 5 6 7 8 9 10; do
    cri start "$REGISTRY/lazy/python:1" --name "c$i" -- \
      python3 -c "import numpy, time; print($i + numpy.arange(4).sum(), flush=True); time.sleep(600)" >"$WORK/started.$i" &
    started+=($!)
  done
  for i in "${started[@]}"; do wait "$i" || fail "a container did not start"; done
  for i in 1 2 3 4 5 6 7 8 9 10; do
    out=$(cut -d' ' -f2 "$WORK/started.$i")
    wait_for 60 bash -c "[[ \$('$CRI_CLIENT' --socket '$CONTAINERD_SOCKET' logs $out) == $((i + 6)) ]]" || fail "container $i: wrong or no output"
  done
  log "ten containers: $(agent_mounts) mounts, agent's RSS $(agent_rss_kib) KiB"
  [[ $(agent_mounts) == 1 ]] || fail "$(agent_mounts) mounts for ten containers of one image"
}

images() {
  local i count=50
  variants $count
  start_node_agent
  start_containerd banyan
  for ((i = 0; i < count; ++i)); do
    pull_cri "lazy/v:$i" >/dev/null
    cri start "$REGISTRY/lazy/v:$i" --name "v$i" -- sh -c 'cat /variant/number; sleep 600' >"$WORK/started.$i"
  done
  for ((i = 0; i < count; ++i)); do
    wait_for 30 bash -c "[[ \$('$CRI_CLIENT' --socket '$CONTAINERD_SOCKET' logs $(cut -d' ' -f2 "$WORK/started.$i")) == $i ]]" || fail "image $i: wrong or no output"
  done
  log "$count images: $(agent_mounts) mounts, agent's RSS $(agent_rss_kib) KiB"
  [[ $(agent_mounts) == "$count" ]] || fail "$(agent_mounts) mounts for $count images"
  [[ -n ${BANYAN_SANITIZED:-} ]] || (($(agent_rss_kib) <= 100 * 1024)) || fail "the agent takes more than 100 MiB"
}

layers() {
  push_test_image layers127 lazy/layers:1
  convert_image lazy/layers:1
  start_node_agent
  start_containerd banyan
  local line begin
  line=$(registry_log_lines)
  begin=$EPOCHREALTIME
  pull_cri lazy/layers:1
  log "127 layers pulled in $(((${EPOCHREALTIME/./} - ${begin/./}) / 1000)) ms"
  run_container lazy/layers:1 --timing "$WORK/timing" -- sh -c 'ls -R / 2>/dev/null | wc -l' || fail "it does not start"
  log "$(cat "$WORK/timing")"
  sleep 0.3
  [[ $(layers_fetched lazy/layers:1 "$line") == 0 ]] || fail "original layers were downloaded"
}

pulls() {
  variants 10
  start_node_agent
  start_containerd banyan
  local i pids=() line
  line=$(registry_log_lines)
  for ((i = 0; i < 20; ++i)); do
    # Each image by two clients at once.
    pull_cri "lazy/v:$((i / 2))" >"$WORK/pull.$i" 2>&1 &
    pids+=($!)
  done
  for ((i = 0; i < 20; ++i)); do wait "${pids[i]}" || fail "pull $i: $(cat "$WORK/pull.$i")"; done
  sleep 0.3
  for ((i = 0; i < 10; ++i)); do
    [[ $(layers_fetched "lazy/v:$i" "$line") == 0 ]] || fail "original layers of v$i were downloaded"
    [[ $(run_container "lazy/v:$i" -- cat /variant/number) == "$i" ]] || fail "v$i: wrong contents"
  done
}

start_registry
case ${1:?part} in
  containers | images | layers | pulls) "$1" ;;
  *) fail "unknown part $1" ;;
esac
