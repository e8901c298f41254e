# Tests in a lab of nodes: `source` it behind e2e.sh (and containerd.sh). $BANYAN_LAB is the lab's directory, and whatever the
# exit, the lab goes.
# shellcheck shell=bash

for program in ip tc bridge jq docker-registry; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit $SKIP; }
done
export BANYAN_BIN BANYAN_LAB=$WORK/lab
lab() { "$SOURCE_DIR/scripts/lab.sh" "$@"; }

# Then what the others do at the exit.
eval "set -- $(trap -p EXIT)"
LAB_NEXT_CLEAN_UP=$3
lab_clean_up() {
  local status=$?
  trap '' INT TERM HUP
  lab down
  (exit "$status")
  "$LAB_NEXT_CLEAN_UP"
}
trap lab_clean_up EXIT
