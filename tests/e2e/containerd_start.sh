#!/usr/bin/env bash
# Real containerd and runc start IMAGE through the snapshotter: `containerd_start.sh python|node|jre|nginx`.
#
# Unconverted: pulled and unpacked as ever. Converted: the pull and the run download no original layer, as the registry's log
# shows, and the output is the same. Then the same by `ctr-remote image rpull`, where that program is installed.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lib/containerd.sh"

image=${1:?image}
case $image in
  python) command=(python3 -c 'import numpy; print("numpy", numpy.arange(10).sum())'); want='numpy 45' ;;
  node) command=(node -e 'console.log("node", [1, 2, 3].map(x => x * x).join())'); want='node 1,4,9' ;;
  jre) command=(sh -c 'java -Xshare:auto -version 2>&1 | grep -o "^openjdk version"'); want='openjdk version' ;;
  nginx) command=(sh -c 'mkdir -p /var/log/nginx && nginx -t 2>&1 | tail -1 | grep -o "test is successful"'); want='test is successful' ;;
  *) fail "no command for image $image" ;;
esac

start_registry
push_test_image "$image" "test/$image:plain"
push_test_image base test/other:1
# Another repository: the artifact of a converted image must not be found for the plain one.
push_test_image "$image" "lazy/$image:1"
convert_image "lazy/$image:1"
start_node_agent
start_containerd banyan

# run_and_check NAME:TAG: the command's output is right.
run_and_check() {
  local got
  got=$(run_container "$1" --timing "$WORK/timing" -- "${command[@]}") || fail "$1: the command failed: $got"
  [[ $got == "$want" ]] || fail "$1: got '$got', want '$want'"
  log "$1: $got; $(cat "$WORK/timing")"
}

line=$(registry_log_lines)
begin=$EPOCHREALTIME
pull_cri "test/$image:plain"
log "unconverted: pulled in $(((${EPOCHREALTIME/./} - ${begin/./}) / 1000)) ms"
layers=$(layer_digests "test/$image:plain" | sort -u | wc -l)
run_and_check "test/$image:plain"
sleep 0.3  # the registry writes a line when an answer has been sent
[[ $(layers_fetched "test/$image:plain" "$line") == "$layers" ]] || fail "the unconverted image's layers were not downloaded"

# Its layers are unpacked here now, under the same chain ids: the lazy one is to be a first pull on the node.
cri rmi "$REGISTRY/test/$image:plain"
wait_for 30 bash -c "[[ \$(ctr --address '$CONTAINERD_SOCKET' -n k8s.io snapshots --snapshotter banyan ls | tail -n +2 | wc -l) -le 1 ]]" ||
  fail "the removed image's snapshots stay: $(k8s_ctr snapshots --snapshotter banyan ls)"

line=$(registry_log_lines)
begin=$EPOCHREALTIME
pull_cri "lazy/$image:1"
log "converted: pulled in $(((${EPOCHREALTIME/./} - ${begin/./}) / 1000)) ms"
run_and_check "lazy/$image:1"
sleep 0.3
fetched=$(layers_fetched "lazy/$image:1" "$line")
[[ $fetched == 0 ]] || fail "$fetched original layers of the converted image were downloaded"
log "converted: $(registry_bytes "$line") bytes from the registry, no original layer"
banyan --json ls | jq -e --arg ref "$REGISTRY/lazy/$image:1" \
  '[.images[] | select(.reference | endswith($ref))] | length == 1' >/dev/null || fail "banyan ls does not list it: $(banyan ls)"
banyan --json starts | jq -e '.starts | length >= 1' >/dev/null || fail "banyan starts shows nothing"
banyan starts >&2

if command -v ctr-remote >/dev/null; then
  cri rmi "$REGISTRY/lazy/$image:1"
  line=$(registry_log_lines)
  ctr-remote --address "$CONTAINERD_SOCKET" --namespace remote image rpull --plain-http --snapshotter banyan \
    "$REGISTRY/lazy/$image:1" </dev/null >"$WORK/rpull" 2>&1 || fail "rpull: $(tail -3 "$WORK/rpull")"
  sleep 0.3
  [[ $(layers_fetched "lazy/$image:1" "$line") == 0 ]] || fail "rpull downloaded original layers"
  # runc keeps the containers of all of a machine's containerds in one place, by namespace and name.
  got=$(ctr --address "$CONTAINERD_SOCKET" --namespace remote run --rm --snapshotter banyan --net-host \
    --cgroup "/$CGROUP_PARENT/remote" "$REGISTRY/lazy/$image:1" "remote-$$" "${command[@]}" </dev/null) || fail "ctr run after rpull failed"
  [[ ${got//$'\r'/} == "$want" ]] || fail "after rpull: got '$got'"
  log "rpull: $got"
fi
