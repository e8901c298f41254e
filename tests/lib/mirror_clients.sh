# shellcheck shell=bash
# What real clients do with a mirror, for the end-to-end scripts of the programs that hold one. Source it after e2e.sh.
#
#   mirror_clients <mirror host:port> <registry host:port> <repository> <tag>
#
# The registry must hold the image; the mirror must take the registry's name as a path prefix or have it as its default.
# Returns non-zero and says which client failed.

# mirror_same_range <url of the mirror> <url of the registry> <Range value>
mirror_same_range() {
  local dir
  dir=$(mktemp -d)
  curl -sS -o "$dir/ours" -D "$dir/ours.head" -H "Range: $3" "$1" || true
  curl -sS -o "$dir/theirs" -D "$dir/theirs.head" -H "Range: $3" "$2" || true
  local ours theirs verdict=0
  ours=$(grep -i -E '^(HTTP/|content-range:)' "$dir/ours.head" | tr -d '\r' | tr '[:upper:]' '[:lower:]' | sed 's|^http/1.1 \([0-9]*\).*|\1|')
  theirs=$(grep -i -E '^(HTTP/|content-range:)' "$dir/theirs.head" | tr -d '\r' | tr '[:upper:]' '[:lower:]' | sed 's|^http/1.1 \([0-9]*\).*|\1|')
  if [[ $ours != 416* || $theirs != 416* ]]; then
    [[ $ours == "$theirs" ]] && cmp -s "$dir/ours" "$dir/theirs" || verdict=1
  fi
  [[ $verdict == 0 ]] || echo "range $3: the mirror said '$ours', the registry '$theirs'" >&2
  rm -rf "$dir"
  return $verdict
}

mirror_clients() {
  local mirror=$1 registry=$2 repository=$3 tag=$4
  local dir layer ours theirs range
  dir=$(mktemp -d)
  local through="docker://$mirror/$repository:$tag" direct="docker://$registry/$repository:$tag"

  ours=$(skopeo inspect --raw --tls-verify=false "$through" | sha256sum) || { echo "skopeo inspect" >&2; return 1; }
  theirs=$(skopeo inspect --raw --tls-verify=false "$direct" | sha256sum)
  [[ $ours == "$theirs" ]] || { echo "skopeo inspect: another manifest" >&2; return 1; }

  ours=$(skopeo list-tags --tls-verify=false "docker://$mirror/$repository" | sed -n '/Tags/,$p')
  theirs=$(skopeo list-tags --tls-verify=false "docker://$registry/$repository" | sed -n '/Tags/,$p')
  [[ $ours == "$theirs" ]] || { echo "skopeo list-tags: other tags" >&2; return 1; }

  skopeo copy -q --insecure-policy --preserve-digests --src-tls-verify=false "$through" "oci:$dir/ours:x" &&
    skopeo copy -q --insecure-policy --preserve-digests --src-tls-verify=false "$direct" "oci:$dir/theirs:x" &&
    diff -r "$dir/ours/blobs" "$dir/theirs/blobs" >&2 || { echo "skopeo copy" >&2; return 1; }

  layer=$(skopeo inspect --tls-verify=false "$through" | sed -n 's/.*"\(sha256:[0-9a-f]*\)".*/\1/p' | tail -1)
  for range in bytes=0- bytes=0-0 bytes=100-199 bytes=-7 bytes=999999999999-; do
    mirror_same_range "http://$mirror/v2/$repository/blobs/$layer" "http://$registry/v2/$repository/blobs/$layer" "$range" ||
      return 1
  done
  rm -rf "$dir"
}
