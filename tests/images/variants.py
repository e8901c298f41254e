#!/usr/bin/env python3
"""Many images that differ by one small layer: variants.py BASE_LAYOUT OUT COUNT.

OUT becomes an OCI layout with the images v0, v1, …: BASE_LAYOUT's only one, and above it a layer
with the file /variant/number. What BASE_LAYOUT says of its layers is taken as it is, so that nothing large is read again.
"""
import gzip
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def blob_path(layout, digest):
    return f"{layout}/blobs/{digest.replace(':', '/')}"


def load(layout, digest):
    with open(blob_path(layout, digest), "rb") as blob:
        return json.load(blob)


def put(layout, data):
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    with open(blob_path(layout, digest), "wb") as blob:
        blob.write(data)
    return {"digest": digest, "size": len(data)}


def layer_of(number):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        directory = tarfile.TarInfo("variant")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(directory)
        text = f"{number}\n".encode()
        file = tarfile.TarInfo("variant/number")
        file.size = len(text)
        tar.addfile(file, io.BytesIO(text))
    return raw.getvalue()


def main():
    base, out, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with open(f"{base}/index.json", encoding="utf-8") as file:
        manifest = load(base, json.load(file)["manifests"][0]["digest"])
    config = load(base, manifest["config"]["digest"])
    os.makedirs(f"{out}/blobs/sha256")
    for layer in manifest["layers"]:
        shutil.copy(blob_path(base, layer["digest"]), blob_path(out, layer["digest"]))
    images = []
    for number in range(count):
        raw = layer_of(number)
        layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **put(out, gzip.compress(raw, mtime=0))}
        diff_ids = config["rootfs"]["diff_ids"] + ["sha256:" + hashlib.sha256(raw).hexdigest()]
        own = {"os": config["os"], "architecture": config["architecture"], "config": {"Cmd": ["/bin/sh"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        descriptor = {"mediaType": manifest["config"]["mediaType"], **put(out, json.dumps(own).encode())}
        text = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor, "layers": manifest["layers"] + [layer]})
        images.append({"mediaType": MANIFEST, **put(out, text.encode()), "annotations": {"org.opencontainers.image.ref.name": f"v{number}"}})
    with open(f"{out}/oci-layout", "w", encoding="utf-8") as file:
        json.dump({"imageLayoutVersion": "1.0.0"}, file)
    with open(f"{out}/index.json", "w", encoding="utf-8") as file:
        json.dump({"schemaVersion": 2, "manifests": images}, file)


main()
