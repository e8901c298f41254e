#!/usr/bin/env python3
"""Writes many small images as OCI layouts, and says what to push.

    small_images.py derived BASE_LAYOUT OUT COUNT     BASE's layers and a layer of one small file (/variant/number) each
    small_images.py wide BASE_LAYOUT OUT COUNT        BASE's layers and a layer of 600 random files (/wide/*, about 9 MB) each
    small_images.py unrelated OUT COUNT               one layer of 100 files (about 1.5 MB) each, nothing in common

Prints one `oci:DIR:v` a line. Layers of BASE are symbolic links, so derived images cost no space.
"""
import gzip
import hashlib
import io
import json
import os
import random
import sys
import tarfile


def put(layout, data):
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{layout}/blobs/sha256/{digest}", "wb") as file:
        file.write(data)
    return {"digest": "sha256:" + digest, "size": len(data)}


def tar_of(files):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for path, data in files:
            info = tarfile.TarInfo(path)
            info.size, info.mode, info.mtime = len(data), 0o755, 1600000000
            tar.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def write_image(layout, config, layers, files):
    os.makedirs(f"{layout}/blobs/sha256", exist_ok=True)
    raw = tar_of(files)
    config = json.loads(json.dumps(config))
    config["rootfs"]["diff_ids"].append("sha256:" + hashlib.sha256(raw).hexdigest())
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **put(layout, gzip.compress(raw, 1, mtime=0))}
    config.pop("history", None)
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = put(layout, json.dumps({
        "schemaVersion": 2, "mediaType": kind, "layers": [*layers, layer],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **put(layout, json.dumps(config).encode())}}).encode())
    with open(f"{layout}/index.json", "w", encoding="utf-8") as file:
        json.dump({"schemaVersion": 2, "manifests": [
            {"mediaType": kind, **manifest, "annotations": {"org.opencontainers.image.ref.name": "v"}}]}, file)
    with open(f"{layout}/oci-layout", "w", encoding="utf-8") as file:
        json.dump({"imageLayoutVersion": "1.0.0"}, file)
    print(f"oci:{layout}:v")


def random_files(directory, seed, count):
    rng = random.Random(seed)
    return [(f"{directory}/{n}", rng.randbytes(rng.randrange(1, 30000))) for n in range(count)]


def derived(base, out, count, files_of):
    def path(digest):
        return f"{base}/blobs/sha256/{digest.removeprefix('sha256:')}"

    def load(name):
        with open(name, encoding="utf-8") as file:
            return json.load(file)
    manifest = load(path(load(f"{base}/index.json")["manifests"][0]["digest"]))
    config = load(path(manifest["config"]["digest"]))
    for i in range(count):
        layout = f"{out}/v{i}"
        os.makedirs(f"{layout}/blobs/sha256")
        for layer in manifest["layers"]:
            os.symlink(path(layer["digest"]), f"{layout}/blobs/sha256/{layer['digest'].removeprefix('sha256:')}")
        write_image(layout, config, manifest["layers"], files_of(i))


def unrelated(out, count):
    config = {"os": "linux", "architecture": "amd64", "config": {"Cmd": ["/run"]}, "rootfs": {"type": "layers", "diff_ids": []}}
    for i in range(count):
        write_image(f"{out}/v{i}", config, [], random_files("data", i, 100))


KINDS = {"derived": lambda i: [("variant/number", f"{i}\n".encode())], "wide": lambda i: random_files("wide", f"wide{i}", 600)}
if sys.argv[1] in KINDS:
    derived(os.path.realpath(sys.argv[2]), sys.argv[3], int(sys.argv[4]), KINDS[sys.argv[1]])
else:
    unrelated(sys.argv[2], int(sys.argv[3]))
