#!/usr/bin/env bash
# fault_registry.sh transient|permanent|commands: a registry that refuses, stalls, cuts, flips a bit or ignores ranges.
#
# transient: every file reads right once the trouble is over. permanent: readers get EIO, the log says why, the mount
# goes, and nothing has crashed or given wrong bytes. commands: convert, inspect and mount end in one clear line and the
# right exit code, and leave nothing that later counts as whole.
#
# Most of it is waiting for deadlines, so faults go side by side, each with a faulty registry and an agent of its own.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/faults.sh"

small_image one
start_registry
TREE=$WORK/one.tree
banyan=("$BANYAN_BIN/banyan" --plain-http --quiet)

# Each of the faults that a read of data can meet, and what the log is to say of it if it lasts.
readonly DATA_FAULTS=(
  "status=401|answered 401|wants credentials"
  "status=403|answered 403"
  "status=404|answered 404"
  "status=416|answered 416"
  "status=500|answered 500"
  "status=503|answered 503"
  "stall=1000|stalled|no answer|deadline"
  "hang|stalled|no answer|deadline"
  "cut=1000|connection was cut"
  "flip=1000|digest"
  "whole|ignores the Range"
)

# Faults that last and yet hinder nobody: a whole blob holds the range as well, if that is not far from its start.
harmless() { [[ $1 == whole ]]; }

# on REPOSITORY: what follows is about it.
on() {
  image=docker://$FAULTY/test/$1:1
  direct=docker://$REGISTRY/test/$1:1
  view=$WORK/view
}

mounted_fresh() {
  break_registry
  start_agent "$1"
  banyan --quiet mount "$image" "$view"
}

gone() {
  local begin=$SECONDS
  [[ $(agent_pid) == "$1" ]] || fail "the agent died: $(tail -5 "$DATA_ROOT/agent.log")"
  banyan umount "$view"
  ((SECONDS - begin < 5)) || fail "umount took $((SECONDS - begin)) s"
}

# each_fault FUNCTION: FUNCTION FAULT WORDS for all of them.
each_fault() {
  local entry number=0
  push_image "oci:$WORK/one.layout:x" test/one:1
  banyan --quiet convert "docker://$REGISTRY/test/one:1"
  for entry in "${DATA_FAULTS[@]}"; do
    beside "$1.$((++number))" one "$1" "${entry%%|*}" "${entry#*|}"
  done
  finish_all
}

fault_passes() {
  local fault=$1 times pid begin
  mounted_fresh 300
  pid=$(agent_pid)
  # A stall is noticed after 10 s.
  case $fault in stall* | hang) times=1 ;; *) times=3 ;; esac
  break_registry "$fault path=/blobs/ range times=$times"
  begin=$SECONDS
  timeout 120 "$COMPARE_TREES" "$TREE" "$view" || fail "$fault, then good: wrong or no answer"
  (($(faults_seen) == times)) || fail "$fault: met $(faults_seen) times instead of $times"
  log "$times x $fault, then good: right after $((SECONDS - begin)) s"
  ((SECONDS - begin < 60)) || fail "$fault: took too long"
  gone "$pid"
}
transient() { each_fault fault_passes; }

fault_stays() {
  local fault=$1 words=$2 pid begin result
  mounted_fresh 3
  pid=$(agent_pid)
  break_registry "$fault path=/blobs/ range"
  begin=$SECONDS
  result=$(timeout 60 bash -c "$(declare -f read_all); read_all '$TREE' '$view'") || fail "$fault: reads hang"
  log "$fault for ever: $result after $((SECONDS - begin)) s"
  (($(faults_seen) > 0)) || fail "$fault: never met"
  if harmless "$fault"; then
    [[ $result =~ ^[0-9]+\ right$ ]] || fail "$fault: $result"
  else
    # A chunk that came whole may be shown, though its neighbour is bad.
    [[ $result =~ ^[0-9]+\ EIO(, [0-9]+ right)?$ ]] || fail "$fault: $result"
    grep -E "gave up after" "$DATA_ROOT/agent.log" | grep -E "layer sha256:" | grep -E "$words" >/dev/null ||
      fail "$fault: the log does not say so: $(tail -5 "$DATA_ROOT/agent.log")"
    log "$(grep -E "gave up after" "$DATA_ROOT/agent.log" | head -n 1)"
  fi
  gone "$pid"
  break_registry
  banyan --quiet mount "$image" "$view"
  "$COMPARE_TREES" "$TREE" "$view" || fail "$fault: wrong once it was over"
  gone "$pid"
}
permanent() { each_fault fault_stays; }

# No artifact beside the image, and nothing of the commands left behind.
nothing_published() {
  break_registry
  clearly 3 "no Banyan artifact" "${banyan[@]}" --data-root "$DATA_ROOT" inspect "$direct"
  [[ -z $(ls "$DATA_ROOT/spool" 2>/dev/null) ]] || fail "left in the spool"
}

convert_fails() {
  local status=$1 words=$2 attempt
  shift 2
  for attempt in 1 2 3; do
    break_registry "$@"
    log "convert, $*"
    clearly "$status" "$words" "${banyan[@]}" --data-root "$DATA_ROOT" convert "$image"
    (($(faults_seen) == 0)) || break
    # docker-registry now and then answers 500 to an upload by itself, after uploads that were cut off before.
    log "the registry failed before the fault (attempt $attempt): $(grep -E 'level=(error|warning)' "$REGISTRY_LOG" | tail -n 2 | cut -c1-400)"
    rm -rf "$DATA_ROOT"
  done
  (($(faults_seen) > 0)) || fail "$*: never met"
  nothing_published
  rm -rf "$DATA_ROOT"  # what was converted is not converted again
}

convert_copes() {
  break_registry "$@"
  "${banyan[@]}" --data-root "$DATA_ROOT" convert --force "$image" || fail "convert did not cope with $*"
  log "convert copes with $*"
  (($(faults_seen) > 0)) || fail "$*: never met"
}

# reads_fail COMMAND STATUS WORDS FAULT…
reads_fail() {
  local command=$1 status=$2 words=$3
  shift 3
  break_registry "$@"
  log "$command, $*"
  case $command in
    inspect) clearly "$status" "$words" "${banyan[@]}" --data-root "$DATA_ROOT" inspect "$image" ;;
    mount) clearly "$status" "$words" "${banyan[@]}" --data-root "$DATA_ROOT" mount "$image" "$view" ;;
  esac
  (($(faults_seen) > 0)) || fail "$*: never met"
  [[ -z $(mounts_below "$view") ]] || fail "mounted after all"
}

# beside NAME REPOSITORY COMMAND…: in the background, with a directory, a faulty registry and data root of its own; at most
# four at once. finish_one, finish_all: waits, tells what they said, and fails if one has.
declare -A BESIDE=()
beside() {
  ((${#BESIDE[@]} < 4)) || finish_one
  local name=$1 repository=$2
  shift 2
  (
    WORK=$WORK/$name STARTED=()
    mkdir "$WORK"
    DATA_ROOT=$WORK/data
    trap clean_up EXIT
    trap 'exit 143' HUP INT TERM
    start_faulty_registry
    on "$repository"
    "$@"
  ) >"$WORK/$name.out" 2>&1 </dev/null &
  BESIDE[$!]=$name
  STARTED+=("$!")
}
finish_one() {
  local pid status=0
  wait -n -p pid "${!BESIDE[@]}" || status=$?
  cat "$WORK/${BESIDE[$pid]}.out" >&2
  ((status == 0)) || fail "${BESIDE[$pid]}"
  unset "BESIDE[$pid]"
}
finish_all() { while ((${#BESIDE[@]} > 0)); do finish_one; done; }

# The slow ones: each try waits 10 s for a byte.
convert_stalls() { convert_fails 5 "stalled" "stall=1000 method=GET path=/blobs/sha256"; }
convert_copes_with_all() {
  convert_copes "status=503 times=2" "status=500 method=PATCH times=1" "cut=100000 method=GET path=/blobs/sha256 times=2"
  convert_copes "status=503 method=PUT times=2" "stall=50000 method=GET path=/blobs/sha256 times=1"
  break_registry
  "${banyan[@]}" --data-root "$DATA_ROOT" verify "$direct"
}
mount_hangs() {
  break_registry
  "${banyan[@]}" --data-root "$WORK/converter" convert "$direct"
  start_agent 5
  reads_fail mount 5 "stalled" "hang path=/blobs/"
}

commands() {
  local command repository
  for repository in one stalls copes hangs; do push_image "oci:$WORK/one.layout:x" "test/$repository:1"; done
  beside stalls stalls convert_stalls
  beside hangs hangs mount_hangs
  beside copes copes convert_copes_with_all
  start_faulty_registry
  on one
  convert_fails 4 "answered 401" "status=401"
  convert_fails 4 "answered 403" "status=403"
  convert_fails 3 "answered 404" "status=404"
  convert_fails 5 "answered 500" "status=500"
  convert_fails 5 "answered 503" "status=503 path=/manifests/"
  convert_fails 6 "wrong bytes" "flip=40 method=GET path=/manifests/"
  convert_fails 6 "digest|gzip|damaged" "flip=100000 method=GET path=/blobs/sha256"
  convert_fails 5 "cut" "cut=0 method=GET path=/blobs/sha256"
  convert_fails 5 "answered 500" "status=500 method=PATCH"
  convert_fails 5 "answered 503" "status=503 method=PUT path=/uploads/"
  convert_fails 4 "answered 403" "status=403 method=POST"
  convert_fails 5 "answered 500" "status=500 method=PUT path=/manifests/"
  break_registry
  "${banyan[@]}" --data-root "$DATA_ROOT" convert "$image"
  start_agent 5
  for command in inspect mount; do
    reads_fail "$command" 4 "answered 401" "status=401"
    reads_fail "$command" 4 "answered 403" "status=403"
    reads_fail "$command" 3 "answered 404" "status=404"
    reads_fail "$command" 5 "answered 500" "status=500"
    reads_fail "$command" 5 "answered 503" "status=503 path=/blobs/"
    reads_fail "$command" 6 "wrong bytes" "flip=40 method=GET path=/manifests/"
    reads_fail "$command" 6 "wrong bytes" "flip=40 path=/blobs/"
    # Of the artifact alone: that is no image that wants converting.
    reads_fail "$command" 4 "answered 403" "status=403 path=/manifests/sha256:"
    reads_fail "$command" 6 "wrong bytes" "flip=40 path=/manifests/sha256:"
    reads_fail "$command" 5 "cut" "cut=20 path=/blobs/"
  done
  break_registry
  banyan --quiet mount "$image" "$view"
  "$COMPARE_TREES" "$TREE" "$view"
  banyan umount "$view"
  finish_all
}

"${1:?transient, permanent or commands}"
log ok
