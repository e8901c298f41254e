#!/usr/bin/env bash
# What the daemons show is what docs/metrics.md says, neither less nor more, with those types and labels; promtool finds nothing to say about it; a
# real Prometheus scrapes all of them without a warning, and every rule and every query of the dashboard works on what it has.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
for program in prometheus promtool jq; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit $SKIP; }
done
source "$SOURCE_DIR/tests/lib/proxy.sh"
source "$SOURCE_DIR/tests/lib/cluster.sh"
doc=$SOURCE_DIR/docs/metrics.md
deploy=$SOURCE_DIR/deploy/prometheus
metrics_doc() { python3 -B "$SOURCE_DIR/tests/tools/metrics_doc.py" "$@"; }

log "rules and dashboard, by themselves"
promtool check rules "$deploy/banyan.rules.yml" >&2
promtool test rules "$deploy/banyan.rules.test.yml" >&2
for alert in $(sed -n 's/^ *- alert: //p' "$deploy/banyan.rules.yml"); do
  grep -q "name: $alert fires" "$deploy/banyan.rules.test.yml" || fail "no test lets $alert fire"
  grep -q "name: $alert quiet" "$deploy/banyan.rules.test.yml" || fail "no test keeps $alert quiet"
done
# A test of rules that cannot fail would prove nothing.
mkdir "$WORK/blunt"
sed 's/> 0$/> 1e9/' "$deploy/banyan.rules.yml" >"$WORK/blunt/banyan.rules.yml"
cp "$deploy/banyan.rules.test.yml" "$WORK/blunt"
if promtool test rules "$WORK/blunt/banyan.rules.test.yml" >/dev/null 2>&1; then fail "blunted rules pass their tests"; fi
metrics_doc dashboard "$doc" "$deploy/banyan.rules.yml" "$SOURCE_DIR/deploy/grafana/banyan.json" >"$WORK/dashboard.rules.yml"
promtool check rules "$WORK/dashboard.rules.yml" >&2
while read -r anchor; do
  grep '^#' "$SOURCE_DIR/docs/troubleshooting.md" | tr '[:upper:]' '[:lower:]' | sed 's/^#* *//; s/[^a-z0-9 -]//g; s/ /-/g' | grep -qx "$anchor" ||
    fail "docs/troubleshooting.md has no section #$anchor"
done < <(sed -n 's/.*docs\/troubleshooting.md#//p' "$deploy/banyan.rules.yml" | sort -u)

log "the daemons: registry, proxy, tree-manager, two nodes that share an image"
start_registry
make_oci "$WORK/oci" app one 8 >/dev/null
push_image "oci:$WORK/oci:app" app:1
DATA_ROOT=$WORK/converter banyan --quiet convert "docker://$REGISTRY/app:1"
start_proxy_of_registry
start_manager
start_peer a
start_peer b
for node in a b; do
  mkdir "$WORK/$node.view"
  on "$node" banyan --quiet mount "docker://$REGISTRY/app:1" "$WORK/$node.view"
  cat "$WORK/$node.view/own.bin" >/dev/null
done
# Each call that the command line makes fails once: the series of that method begins.
echo another-token >"$WORK/another-token"
refused() {
  local status=0
  banyan "$@" --manager "$MANAGER" --token-file "$WORK/another-token" >/dev/null 2>"$WORK/refused" || status=$?
  [[ $status == 4 ]] && grep -q -- --token-file "$WORK/refused" || fail "banyan $* with another token: exit status $status: $(cat "$WORK/refused")"
}
refused tree
refused tree no-such-function
refused nodes
refused nodes --peer-to-peer on
refused drain a
refused preheat "$REGISTRY/app:1"

declare -A url=([banyan-peer-agent]=${HTTP_OF[a]} [banyan-registry-proxy]=$PROXY [banyan-tree-manager]=$MANAGER_HTTP)
pages=()
for daemon in "${!url[@]}"; do
  page "${url[$daemon]}" /metrics >"$WORK/$daemon.metrics"
  pages+=("$daemon=$WORK/$daemon.metrics")
  log "$daemon: $(grep -vc '^#' "$WORK/$daemon.metrics") series"
  promtool check metrics <"$WORK/$daemon.metrics" >"$WORK/promtool" 2>&1 || fail "$daemon: promtool check metrics: $(cat "$WORK/promtool")"
  [[ ! -s $WORK/promtool ]] || fail "$daemon: promtool check metrics: $(cat "$WORK/promtool")"
done
log "the document"
metrics_doc check "$doc" "${pages[@]}" || fail "docs/metrics.md is not what the daemons show"
# value METRIC: of node a, all its series together.
value() { awk -v name="$1" '{ split($1, part, "{") } part[1] == name { sum += $2 } END { printf "%d\n", sum }' "$WORK/banyan-peer-agent.metrics"; }
(($(value banyan_fetch_bytes_total) >= 8 << 20)) || fail "node a read 8 MiB and shows $(value banyan_fetch_bytes_total) bytes"
(($(value banyan_reads_total) > 0)) || fail "node a shows no reads"
[[ $(value banyan_keeper_connected) == 1 && $(value banyan_keeper_sessions) == 1 ]] ||
  fail "node a has a keeper with one session and shows $(value banyan_keeper_connected), $(value banyan_keeper_sessions)"
for method in Functions Tree Nodes SetPeerToPeer Drain Preheat; do
  grep -q "^banyan_tree_rpc_errors_total{.*method=\"$method\"" "$WORK/banyan-tree-manager.metrics" || fail "no failed call of $method is shown"
done

log "the document's test has teeth"
noticed() { ! metrics_doc check "$WORK/changed.md" "${pages[@]}" 2>/dev/null || fail "$1 goes unnoticed"; }
grep -v '`banyan_mounts`' "$doc" >"$WORK/changed.md"; noticed "a metric that is not documented"
sed 's/`banyan_mounts`/`banyan_mountz`/' "$doc" >"$WORK/changed.md"; noticed "a documented metric that does not exist"
sed 's/`banyan_mounts` | gauge/`banyan_mounts` | counter/' "$doc" >"$WORK/changed.md"; noticed "another type"
sed 's/`from`: store, upstream/`from`: store/' "$doc" >"$WORK/changed.md"; noticed "another label value"
sed 's/`from`: store, upstream/`from`: store, upstream, moon/' "$doc" >"$WORK/changed.md"; noticed "a label value that does not exist"
sed 's/ Preheat, PreheatProgress,//' "$doc" >"$WORK/changed.md"; noticed "a call that is not documented"
sed 's/`from`: store/`form`: store/' "$doc" >"$WORK/changed.md"; noticed "another label"

log "Prometheus scrapes all of them"
PROMETHEUS=127.0.0.1:$(free_port)
sed -e 's/^\(  *scrape_interval\|  *evaluation_interval\): .*/\1: 1s/' \
  -e "s/\"127.0.0.1:5065\"/\"${HTTP_OF[a]}\", \"${HTTP_OF[b]}\"/" -e "s/127.0.0.1:5050/$PROXY/" -e "s/127.0.0.1:4651/$MANAGER_HTTP/" \
  -e "s#\[banyan.rules.yml\]#[$deploy/banyan.rules.yml, $WORK/dashboard.rules.yml]#" "$deploy/prometheus.yml" >"$WORK/prometheus.yml"
promtool check config "$WORK/prometheus.yml" >&2
prometheus --config.file "$WORK/prometheus.yml" --storage.tsdb.path "$WORK/tsdb" --web.listen-address "$PROMETHEUS" --log.format=logfmt \
  >"$WORK/prometheus.log" 2>&1 </dev/null &
STARTED+=("$!")
wait_for 30 page "$PROMETHEUS" /-/ready || fail "Prometheus does not start: $(tail -3 "$WORK/prometheus.log")"
query() { page "$PROMETHEUS" "/api/v1/query?query=$(jq -rn --arg q "$1" '$q|@uri')"; }
scraped() { [[ $(query 'sum(up)' | jq -r '.data.result[0].value[1]') == 4 ]]; }
wait_for 30 scraped || fail "not all of four targets are up: $(page "$PROMETHEUS" /api/v1/targets | jq -c '.data.activeTargets[] | {scrapeUrl, lastError}')"
# A few rounds of scrapes and of every rule.
rules() { page "$PROMETHEUS" /api/v1/rules; }
evaluated() { rules | jq -e '[.data.groups[].rules[] | .health] | all(. == "ok")'; }
wait_for 30 evaluated || fail "rules: $(rules | jq -c '.data.groups[].rules[] | select(.health != "ok") | {name, lastError}')"
sleep 3
[[ $(page "$PROMETHEUS" /api/v1/targets | jq '[.data.activeTargets[] | select(.lastError != "")] | length') == 0 ]] || fail "a scrape failed"
firing=$(rules | jq -r '.data.groups[].rules[] | select(.type == "alerting" and .state == "firing") | .name')
[[ -z $firing ]] || fail "alerts of a healthy cluster: $firing"
(($(rules | jq '[.data.groups[] | select(.name == "dashboard") | .rules[]] | length') >= 30)) || fail "the dashboard's queries were not loaded"
if grep -E 'level=(warn|error)' "$WORK/prometheus.log" >&2; then fail "Prometheus complains"; fi
for node in a b; do on "$node" banyan --quiet umount "$WORK/$node.view"; done
log "all well"
