"""A next version of an image, as builds make them: what conversion and a rolling update of a fleet find in common with the one before.

`package`: in the largest layer above the base one package is newer (the one nearest to a tenth of the layer): its Python files have a line more,
its programs and libraries another build ID, and it still works. `base`: the first layer is built anew; a line of dpkg's status and the
version in etc/debian_version are others, a file is new. In a layer that is built anew every entry has another time, as builds leave it;
its other contents are the same.
"""
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile

sys.path.insert(0, os.path.realpath(f"{os.path.dirname(os.path.abspath(__file__))}/../../tests/images"))
import oci_layout

A_DAY = 86400
# Of ELF: 4 bytes of name, 20 of description, type 3, then the name and the build ID.
BUILD_ID = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0"


def blob(layout, digest):
    return f"{layout}/blobs/{digest.replace(':', '/')}"


def layers_of(layout):
    """Of the layout's one image, the lowest first: [(descriptor, diff ID), …]."""
    def read(path):
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    manifest = read(blob(layout, read(f"{layout}/index.json")["manifests"][0]["digest"]))
    return list(zip(manifest["layers"], read(blob(layout, manifest["config"]["digest"]))["rootfs"]["diff_ids"]))


def files_of_a_package(layer):
    """Names of the files of the package whose files come nearest to a tenth of the layer, and its name."""
    sizes, lists = {}, {}
    with tarfile.open(layer) as tar:
        for entry in tar:
            if entry.isfile():
                sizes[entry.name.removeprefix("./")] = entry.size
                if match := re.search(r"var/lib/dpkg/info/([^/:]+)(:[a-z0-9]+)?\.list$", entry.name):
                    lists[match[1]] = tar.extractfile(entry).read().decode().splitlines()
    # Debian's merged /usr: lists say /lib where the tar says usr/lib.
    files = {package: {name for line in lines for name in (line.lstrip("/"), f"usr{line}") if name in sizes} for package, lines in lists.items()}
    wanted = sum(sizes.values()) / 10
    package = min(sorted(files), key=lambda name: abs(sum(sizes[file] for file in files[name]) - wanted))
    return package, files[package]


def rebuild(layer, out, change, added=()):
    """Writes the layer again, gzipped, each file's contents through change(name, data); `added`: [(name, data), …]."""
    with tarfile.open(layer, mode="r|*") as old, gzip.open(out, "wb", compresslevel=6) as zipped, \
            tarfile.open(fileobj=zipped, mode="w|", format=tarfile.PAX_FORMAT) as new:
        for entry in old:
            entry.mtime += A_DAY
            if not entry.isfile():
                new.addfile(entry)
                continue
            data = change(entry.name.removeprefix("./"), old.extractfile(entry).read())
            entry.size = len(data)
            new.addfile(entry, io.BytesIO(data))
        for name, data in added:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 1_700_000_000
            new.addfile(entry, io.BytesIO(data))


def other_base(name, data):
    if name == "etc/debian_version":
        return data.rstrip() + b".1\n"
    return data.replace(b"\nVersion: 1.", b"\nVersion: 2.", 1) if name == "var/lib/dpkg/status" else data


def newer(name, data):
    if name.endswith(".py"):
        return b"# version 2\n" + data
    if data.startswith(b"\x7fELF") and (at := data.find(BUILD_ID) + len(BUILD_ID)) >= len(BUILD_ID):
        return data[:at] + hashlib.sha1(data).digest() + data[at + 20:]
    return data


def next_version(layout, name, out, changes):
    """Writes the next version of a layout's image to a new layout; `changes` are of ("package", "base"). Returns what of it is other, in words."""
    layers, said = layers_of(layout), []
    largest = max(range(1, len(layers)), key=lambda number: layers[number][0]["size"])
    made = oci_layout.Layout(out)
    with tempfile.TemporaryDirectory(prefix="banyan-version.", dir="/var/tmp") as work:
        for number, (descriptor, diff_id) in enumerate(layers):
            old, new = blob(layout, descriptor["digest"]), f"{work}/layer"
            if number == largest and "package" in changes:
                package, files = files_of_a_package(old)
                rebuild(old, new, lambda file, data: newer(file, data) if file in files else data)
                said.append(f"a newer {package}")
                diff_id = None
            elif number == 0 and "base" in changes:
                rebuild(old, new, other_base, [("etc/build", b"2\n")])
                said.append("three small files of the base layer")
                diff_id = None
            else:
                shutil.copy(old, new)
            made.add_layer(new, diff_id)
    made.finish(name, ["ready"])
    return " and ".join(said)
