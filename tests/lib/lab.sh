# Tests in a lab of nodes: `source` it behind e2e.sh. $BANYAN_LAB is the lab's directory, and whatever the exit, the lab goes.
# shellcheck shell=bash

for program in ip tc bridge jq docker-registry; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit $SKIP; }
done
export BANYAN_BIN BANYAN_LAB=$WORK/lab
lab() { "$SOURCE_DIR/scripts/lab.sh" "$@"; }

lab_clean_up() {
  local status=$?
  trap '' INT TERM HUP
  lab down
  (exit "$status")
  clean_up
}
trap lab_clean_up EXIT
