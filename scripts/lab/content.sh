# What the lab's registry holds: `source`d by scripts/lab.sh.
#
# An image is made, pushed and converted once, in a registry of its own, whose directory is kept beside the test images
# (${BANYAN_CACHE:-/var/cache/banyan-test-images}), under a name that follows from the scripts and sources that decide its bytes.
# The lab's registry starts with links to those files.
# shellcheck shell=bash

content_cache() { echo "${BANYAN_CACHE:-/var/cache/banyan-test-images}"; }

# The directory of a converted image's registry; prints it whether or not it is there.
content_dir() {
  local sources
  sources=$(cd "$SOURCE_DIR" && cat tests/images/*.{sh,py} image-format/*.{h,cc} convert/*.{h,cc} scripts/lab/content.sh | sha256sum | cut -c1-16)
  echo "$(content_cache)/registry-$1-$sources"
}

image_kib() { du -sk "$(content_dir "$1")" | cut -f1; }

# prepare_image NAME: in the cache.
prepare_image() {
  local dir
  dir=$(content_dir "$1")
  [[ ! -d $dir ]] || return 0
  mkdir -p "$(content_cache)"
  (
    flock 8
    [[ ! -d $dir ]] || exit 0
    rm -rf "$dir.making"
    convert_into "$1" "$dir.making"
    mv "$dir.making" "$dir"
  ) 8>"$dir.lock"
}

# convert_into NAME DIRECTORY: a docker-registry on DIRECTORY, for as long as it takes.
convert_into() (
  exec 9>&-
  image=$1 dir=$2 work=$(mktemp -d)
  layout=$("$SOURCE_DIR/tests/images/make_image.sh" "$image")
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  printf 'version: 0.1\nlog: {level: warn}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:%s", secret: banyan}\n' \
    "$dir" "$port" >"$work/config.yml"
  OTEL_TRACES_EXPORTER=none docker-registry serve "$work/config.yml" >"$work/log" 2>&1 </dev/null 8>&- &
  registry=$!
  trap 'kill $registry; wait $registry || true; rm -rf "$work"' EXIT
  wait_until 10 "a registry on port $port" bash -c "exec 3<>/dev/tcp/127.0.0.1/$port"
  skopeo --insecure-policy copy --quiet --preserve-digests --dest-tls-verify=false "$layout" "docker://127.0.0.1:$port/$image:1" </dev/null
  "$BANYAN_BIN/banyan" --quiet --plain-http --data-root "$work/data" convert "docker://127.0.0.1:$port/$image:1" </dev/null >&2
)

# add_image NAME: to the lab's registry, which does not run yet. Blobs never change, so links to them do; small files may.
add_image() {
  local from to=$LAB/registry/data/docker/registry/v2
  from=$(content_dir "$1")/docker/registry/v2
  mkdir -p "$to/blobs" "$to/repositories"
  cp -rl --no-clobber "$from/blobs/." "$to/blobs/" 2>/dev/null || cp -r --no-clobber "$from/blobs/." "$to/blobs/"
  cp -r "$from/repositories/." "$to/repositories/"
}

# warm_proxy NAME: the proxy holds all of the image's artifact before anybody asks.
warm_proxy() {
  nsenter --net="$(namespace_file proxy)" python3 "$SOURCE_DIR/scripts/lab/artifact.py" --warm "127.0.0.1:$PROXY_PORT" "$LAB_REGISTRY" "$1" 1 >"$LAB/$1.json"
}
