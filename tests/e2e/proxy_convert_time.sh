#!/usr/bin/env bash
# How long the proxy takes to convert IMAGE (default: scipy) from a docker-registry on this machine: proxy_convert_time.sh [IMAGE]
# [SECONDS]. Fails when it takes longer than that. For a release build on a quiet machine; each run begins cold.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
source "$SOURCE_DIR/tests/lib/proxy.sh"

IMAGE=${1:-scipy}
LIMIT=${2:-0}
start_registry
push_image "$("$SOURCE_DIR/tests/images/make_image.sh" "$IMAGE")" "team/$IMAGE:1"
"$BANYAN_BIN/banyan" keys generate --dir "$WORK/keys" --quiet
start_proxy <<TOML
[sign]
key_file = "$WORK/keys/signing.pem"
[upstreams."$REGISTRY"]
TOML

expect 200 GET "/v2/team/$IMAGE/manifests/1?ns=$REGISTRY"
# The proxy's own clock is read, and seldom is it asked: it needs the processors.
conversion() { "$BANYAN_BIN/banyan" conversions --proxy "$STATUS" --json | jq -r ".[0].$1"; }
for ((i = 0; i < 300; ++i)); do
  [[ $(conversion state) != "done" ]] || break
  sleep 1
done
[[ $(conversion state) == "done" ]] || fail "not converted: $(tail -5 "$PROXY_LOG")"
ms=$(conversion "seconds * 1000 | floor")
bytes=$(metric banyan_converted_source_bytes_total)
cpu=$(awk '{ printf "%.1f", ($14 + $15) / 100 }' "/proc/$PROXY_PID/stat")
rss=$(awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/$PROXY_PID/status")
log "$IMAGE: converted in $ms ms ($bytes bytes of layers, $cpu s of CPU, $rss MiB of memory; load $(cut -d' ' -f1 /proc/loadavg))"
((LIMIT == 0 || ms <= LIMIT * 1000)) || fail "longer than $LIMIT s"
