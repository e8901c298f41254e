#!/usr/bin/env -S python3 -B
"""Makes an image of images.py as an OCI layout: `make.py NAME…` prints `oci:DIR:NAME` for each, `make.py --list` what there is.

Images are made once and kept below ${BANYAN_CACHE:-/var/cache/banyan-test-images}, as those of tests/images, which they begin with. A
directory's name ends with a hash of what decides its contents, and only what is finished bears it; makers wait for each other.

Packages: this machine's apt downloads what the image lacks (its sources, keys, proxies and lists; the image's own dpkg status), and
the image's dpkg installs it in a chroot. Root.
"""
import fcntl
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

from images import IMAGES

TEST_IMAGES = os.path.realpath(f"{os.path.dirname(os.path.abspath(__file__))}/../../tests/images")
sys.path.insert(0, TEST_IMAGES)
import oci_layout

CACHE = os.environ.get("BANYAN_CACHE", "/var/cache/banyan-test-images")
# Arguments: the root, the directory of the archives. Pre-dependencies may want a second pass of dpkg.
INSTALL = """
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
for directory in tmp var/log var/cache/apt; do mount -t tmpfs tmpfs "$0/$directory"; done
mkdir "$0/var/cache/apt/archives"
mount --bind "$1" "$0/var/cache/apt/archives"
for pass in 1 2 3; do
  chroot "$0" dpkg --force-unsafe-io --recursive --install /var/cache/apt/archives && exit 0
done
exit 1
"""


def run(*command, **options):
    """Returns what it prints; ends this program, with all that it said, when it fails."""
    done = subprocess.run(command, check=False, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}{done.stderr}make.py: {' '.join(command[:3])} …: exit status {done.returncode}")
    return done.stdout


def parent_of(image):
    """The directory of its parent's layout."""
    return run(f"{TEST_IMAGES}/make_image.sh", image.parent).strip().removeprefix("oci:").rsplit(":", 1)[0]


def directory_of(image, parent):
    with open(os.path.abspath(__file__), "rb") as own:
        inputs = hashlib.sha256(own.read())
    # The command is not in the image: it is given to the container.
    inputs.update(repr((os.path.basename(parent), image.packages, image.layers)).encode())
    return f"{CACHE}/bench-{image.name}-{inputs.hexdigest()[:16]}"


def install(packages, root, work):
    archives = f"{work}/archives"
    os.makedirs(f"{archives}/partial")
    if not run("apt-get", "indextargets", "--format", "$(ORIGIN)"):
        run("apt-get", "update", "-qq")
    run("apt-get", "install", "-y", "-qq", "--download-only", "-o", f"Dir::State::status={root}/var/lib/dpkg/status",
        "-o", f"Dir::Cache::archives={archives}", "-o", "APT::Sandbox::User=root", "-o", "APT::Install-Recommends=false",
        "-o", "DPkg::Lock::Timeout=600", *packages)
    shutil.rmtree(f"{archives}/partial")
    run("unshare", "--mount", "--propagation", "private", "bash", "-euo", "pipefail", "-c", INSTALL, root, archives,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"})


def with_packages(image, parent, work):
    """A layout with the parent's image and a layer of packages."""
    layout = f"{work}/packages"
    shutil.copytree(parent, layout)
    run("umoci", "unpack", "--image", f"{layout}:{image.parent}", f"{work}/bundle")
    install(image.packages, f"{work}/bundle/rootfs", work)
    run("umoci", "repack", "--image", f"{layout}:{image.name}", f"{work}/bundle")
    run("umoci", "rm", "--image", f"{layout}:{image.parent}")
    run("umoci", "gc", "--layout", layout)
    return layout


def layer_of(files):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for path, contents in files.items():
            info = tarfile.TarInfo(path)
            data = contents.encode()
            info.size, info.mode, info.mtime = len(data), 0o644, 1_700_000_000
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), 6, mtime=0)


def make(image, parent, out):
    with tempfile.TemporaryDirectory(prefix="banyan-image.") as work:
        layout = oci_layout.Layout(out)
        layout.add_layers_of(with_packages(image, parent, work) if image.packages else parent)
        for files in image.layers:
            with open(f"{work}/layer", "wb") as file:
                file.write(layer_of(files))
            layout.add_layer(f"{work}/layer")
        layout.finish(image.name, list(image.command))


def ensure(name):
    """Makes the image if need be; returns its layout's directory."""
    image = IMAGES[name]
    parent = parent_of(image)
    directory = directory_of(image, parent)
    with open(f"{directory}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(directory):
            print(f"making image {name}", file=sys.stderr)
            shutil.rmtree(f"{directory}.making", ignore_errors=True)
            make(image, parent, f"{directory}.making")
            os.rename(f"{directory}.making", directory)
    return directory


def main():
    names = sys.argv[1:]
    if names == ["--list"]:
        for image in IMAGES.values():
            print(f"{image.name:9} {image.what}")
        return
    unknown = [name for name in names if name not in IMAGES]
    if unknown or not names:
        sys.exit(f"make.py: no image {' '.join(unknown)}; there are {' '.join(IMAGES)}")
    for name in names:
        print(f"oci:{ensure(name)}:{name}")


if __name__ == "__main__":
    main()
