#!/usr/bin/env bash
# Installs the Debian 12 packages that Banyan is built, tested and linted with. Does nothing when all of them are there.
set -euo pipefail

packages=(
  # Build.
  cmake ninja-build g++ ccache pkg-config git ca-certificates
  libgrpc++-dev protobuf-compiler-grpc libprotobuf-dev protobuf-compiler libboost-dev librocksdb-dev
  libzstd-dev libssl-dev libisal-dev libxxhash-dev libcurl4-openssl-dev libspdlog-dev libfmt-dev libcli11-dev
  node-d3  # a part of the dashboard, embedded into the tree-manager
  nlohmann-json3-dev libexpected-dev libtomlplusplus-dev prometheus-cpp-dev libsystemd-dev libre2-dev libtorrent-rasterbar-dev libgtest-dev libgmock-dev libbenchmark-dev
  # What a node runs.
  containerd runc
  # What the scripts call.
  iproute2 kmod procps
  # Test: images, a registry, the tools whose answers ours are compared with.
  mmdebstrap umoci skopeo docker-registry nginx-light apache2-utils erofs-utils zstd openssl python3 jq attr acl libcap2-bin
  fio cpio busybox-static qemu-system-x86 e2fsprogs bc time
  chromium fonts-inter  # for the dashboard's tests and pictures
  golang-go golang-github-containerd-containerd-dev stargz-snapshotter buildah podman
  aria2 transmission-cli
  # What operators use: metrics, packages, manifests, man pages, completions.
  prometheus lintian man-db zsh fish bash-completion python3-yaml python3-kubernetes nftables curl debianutils
  # Lint and fuzz.
  clang clang-format clang-tidy lld libclang-rt-14-dev
)
# Another package of it conflicts with Debian's.
command -v kubectl >/dev/null || packages+=(kubernetes-client)

missing=()
for package in "${packages[@]}"; do
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) == installed ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then exit 0; fi

sudo=()
if ((EUID != 0)); then sudo=(sudo -n); fi
export DEBIAN_FRONTEND=noninteractive
apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600)
echo "installing: ${missing[*]}"
"${apt[@]}" update -qq </dev/null
"${apt[@]}" install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" </dev/null
