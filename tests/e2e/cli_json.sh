#!/usr/bin/env bash
# --json everywhere: each command of the program, once when it succeeds and once when it fails, prints one JSON document and nothing beside it; an error's
# document has code, subject, message and advice, and its exit status is the code's. Commands are the program's own list: a new one without a case here fails.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/containerd.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"
source "$SOURCE_DIR/tests/lib/cluster.sh"
command -v jq >/dev/null || { echo "needs jq"; exit $SKIP; }
declare -A GOOD BAD

# call NAME [ARGUMENT…]: sets EXIT; output in $WORK/out and $WORK/err.
call() {
  local name=$1
  shift
  EXIT=0
  # shellcheck disable=SC2086
  banyan --json $name "$@" >"$WORK/out" 2>"$WORK/err" || EXIT=$?
}
one_document() { jq -es 'length == 1' "$1" >/dev/null || fail "$2: not one JSON document: $(head -c 500 "$1")"; }
# shows FILTER: the document of the last call.
shows() { jq -e "$1" "$WORK/out" >/dev/null || fail "not so: $1: $(cat "$WORK/out")"; }

# good NAME [ARGUMENT…]: exit status 0; nothing but notes on standard error. Of `run` standard output is the container's, and the document is on the other.
good() {
  call "$@"
  [[ $EXIT == 0 ]] || fail "banyan --json $*: exit status $EXIT: $(cat "$WORK/err")"
  if [[ $1 == run ]]; then
    [[ ! -s $WORK/out ]] || fail "banyan --json $*: on standard output: $(cat "$WORK/out")"
    mv "$WORK/err" "$WORK/out"
    : >"$WORK/err"
  fi
  one_document "$WORK/out" "banyan --json $*"
  ! grep -v '^banyan: ' "$WORK/err" >&2 || fail "banyan --json $*: more than notes on standard error"
  GOOD[$1]=1
}
# bad STATUS CODE ADVICE NAME [ARGUMENT…]: ADVICE are words of it, or nothing.
bad() {
  local status=$1 code=$2 advice=$3
  shift 3
  call "$@"
  [[ $EXIT == "$status" ]] || fail "banyan --json $*: exit status $EXIT, not $status: $(cat "$WORK/err")"
  one_document "$WORK/out" "banyan --json $*"
  jq -e --arg code "$code" --arg advice "$advice" \
    '.error | .code == $code and (.subject | length) > 0 and (.message | length) > 0 and (.advice | contains($advice))' "$WORK/out" >/dev/null ||
    fail "banyan --json $*: not $code with advice of '$advice': $(cat "$WORK/out")"
  [[ -s $WORK/err ]] && ! grep -v '^banyan: ' "$WORK/err" >&2 || fail "banyan --json $*: on standard error: $(cat "$WORK/err")"
  BAD[$1]=1
}

log "keys"
good "keys generate" --dir "$WORK/keys"
first=$(jq -r .id "$WORK/out")
[[ $(stat -c %a "$(jq -r .private "$WORK/out")") == 600 ]] || fail "others may read the private key"
bad 8 ALREADY_EXISTS "" "keys generate" --dir "$WORK/keys"
good "keys rotate" --dir "$WORK/keys"
second=$(jq -r .id "$WORK/out")
[[ $first != "$second" ]] || fail "rotating made no other key"
good "keys list" --dir "$WORK/keys"
shows "[.[] | {id, signs}] | sort_by(.signs) == [{id: \"$first\", signs: false}, {id: \"$second\", signs: true}]"
good "keys public" --dir "$WORK/keys"
shows ".id == \"$second\" and (.pem | startswith(\"-----BEGIN PUBLIC KEY-----\"))"
openssl pkey -pubin -in <(jq -r .pem "$WORK/out") -noout || fail "openssl cannot read the public key"
for verb in rotate list public; do bad 3 NOT_FOUND "" "keys $verb" --dir "$WORK/none"; done

log "images"
start_registry
make_oci "$WORK/oci" app one >/dev/null
push_image "oci:$WORK/oci:app" app:1
image=docker://$REGISTRY/app:1 none=docker://$REGISTRY/none:1
silent=127.0.0.1:$(free_port)
DATA_ROOT=$WORK/converter
good convert "$image"
good inspect "$image"
shows '.layers | length == 2'
good verify "$image"
shows .clean
good extract "$image" "$WORK/tree"
for command in convert inspect verify "extract - $WORK/tree2"; do
  read -r name _ directory <<<"$command"
  bad 3 NOT_FOUND "" "$name" "$none" ${directory:+"$directory"}
done
bad 5 UNAVAILABLE "the registry is up" inspect "docker://$silent/app:1"

log "what the agent does"
start_proxy_of_registry
start_manager
start_peer a
DATA_ROOT=$WORK/a/data
bad 3 NOT_FOUND "" mount "$none" "$WORK/view"
good mount "$image" "$WORK/view"
cat "$WORK/view/own.bin" >/dev/null
good stats
good stats "$WORK/view"
shows '.first_touches | length > 0'
bad 3 NOT_FOUND "" stats "$WORK/tree"
good ls
shows '(.mounts | length) == 1 and (.images | length) == 1'
good info
shows .keeper
good starts
shows '.starts | length == 1'
good run "$image" -- /bin/true
shows '.exit_code == 0'
bad 3 NOT_FOUND "" run "$none" -- /bin/true
good prefetch "$image"
[[ ! -s $WORK/err ]] || fail "prefetch --json shows progress: $(cat "$WORK/err")"
shows '.present_bytes > 0 and .present_bytes == .device_bytes'
bad 3 NOT_FOUND "" prefetch "$none"
good pin "$REGISTRY/app:1"
good unpin "$REGISTRY/app:1"
shows '.pinned == false'
for command in pin unpin drop; do bad 3 NOT_FOUND "" "$command" "$REGISTRY/none:1"; done
good scrub
shows '.chunks_checked > 0 and .bad_chunks == []'
good doctor --no-containerd
shows .ok
bad 2 INVALID_ARGUMENT "" doctor --no-such-option
good umount "$WORK/view"
bad 3 NOT_FOUND "" umount "$WORK/view"
good drop
shows .freed_bytes
DATA_ROOT=$WORK/nobody
for command in info stats starts drop; do bad 5 UNAVAILABLE banyan-peer-agent "$command"; done
DATA_ROOT=$WORK/$(printf 'x%.0s' {1..100})
for command in ls scrub; do bad 2 INVALID_ARGUMENT "" "$command"; done

log "the cluster"
good nodes --manager "$MANAGER" --token-file "$TOKEN"
shows '[.nodes[] | .node] == ["a"]'
good preheat "$REGISTRY/app:1" --manager "$MANAGER" --token-file "$TOKEN"
shows '[.nodes[] | .state] == ["done"]'
good preheat "$REGISTRY/app:1" --detach --manager "$MANAGER" --token-file "$TOKEN"
good tree --manager "$MANAGER" --token-file "$TOKEN"
good drain a --manager "$MANAGER" --token-file "$TOKEN"
shows .draining
good conversions --proxy "$STATUS"
for command in nodes tree "drain a" "preheat $REGISTRY/app:1"; do
  # shellcheck disable=SC2086
  set -- $command
  bad 5 UNAVAILABLE BANYAN_TREE_MANAGER "$@" --manager "$silent"
  bad 4 UNAUTHENTICATED --token-file "$@" --manager "$MANAGER"
done
bad 5 UNAVAILABLE BANYAN_REGISTRY_PROXY conversions --proxy "$silent"

log "containerd"
good install --containerd --root "$WORK/machine" --dry-run
shows '.applied == false and (.files | length) > 0'
[[ ! -e $WORK/machine ]] || fail "--dry-run wrote"
good install --containerd --root "$WORK/machine" --yes
shows .applied
bad 2 INVALID_ARGUMENT "" install
start_containerd native
good pull "$REGISTRY/app:1" --containerd "$CONTAINERD_SOCKET"
shows '.image_id != "" and .lazy == false'
bad 3 NOT_FOUND "" pull "$REGISTRY/none:1" --containerd "$CONTAINERD_SOCKET"
bad 5 UNAVAILABLE "systemctl status containerd" pull "$REGISTRY/app:1" --containerd "$WORK/none.sock"

log "no command is forgotten"
# Those of several words as well, whatever their depth.
banyan --print-commands >"$WORK/table"
jq -r 'def leaves($above): ($above + .name) as $name | if .commands == [] then $name else .commands[] | leaves($name + " ") end; .commands[] | leaves("")' \
  "$WORK/table" >"$WORK/names"
(($(wc -l <"$WORK/names") >= 28)) || fail "only $(wc -l <"$WORK/names") commands"
while read -r name; do
  [[ -n ${GOOD[$name]:-} && -n ${BAD[$name]:-} ]] || fail "no case here lets \`banyan --json $name\` $([[ -z ${GOOD[$name]:-} ]] && echo succeed || echo fail)"
  bad 2 INVALID_ARGUMENT "" "$name" --no-such-option
done <"$WORK/names"
[[ ${#GOOD[@]} == "$(wc -l <"$WORK/names")" ]] || fail "cases of commands that there are not: ${!GOOD[*]}"
bad 2 INVALID_ARGUMENT "" frobnicate
log "$(wc -l <"$WORK/names") commands"
