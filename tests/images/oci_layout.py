#!/usr/bin/env python3
"""Writes an OCI image layout with one image out of layer files (tar, gzip or zstd, told apart by their first bytes).

    oci_layout.py OUT NAME [--cmd ARG]... LAYER...
"""
import argparse
import gzip
import hashlib
import json
import os
import shutil
import subprocess

SUFFIX = {"tar": "", "gzip": "+gzip", "zstd": "+zstd"}


def compression_of(path):
    with open(path, "rb") as f:
        magic = f.read(4)
    if magic[:2] == b"\x1f\x8b":
        return "gzip"
    # A zstd stream may begin with a skippable frame.
    if magic == b"\x28\xb5\x2f\xfd" or (magic[1:] == b"\x2a\x4d\x18" and 0x50 <= magic[0] <= 0x5F):
        return "zstd"
    return "tar"


def hash_stream(stream):
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return "sha256:" + digest.hexdigest()


def diff_id_of(path):
    compression = compression_of(path)
    if compression == "zstd":
        with subprocess.Popen(["zstd", "-dc", path], stdout=subprocess.PIPE) as child:
            digest = hash_stream(child.stdout)
        if child.returncode != 0:
            raise RuntimeError(f"zstd -dc {path} failed")
        return digest
    with gzip.open(path) if compression == "gzip" else open(path, "rb") as stream:
        return hash_stream(stream)


class Layout:
    """A layout under construction. Layers are moved in, in order; finish() writes configuration, manifest and index."""

    def __init__(self, out):
        self.out = out
        self.layers, self.diff_ids = [], []
        os.makedirs(f"{out}/blobs/sha256", exist_ok=True)

    def _descriptor(self, media_type, digest, size):
        return {"mediaType": media_type, "digest": digest, "size": size}

    def _put_json(self, media_type, value):
        data = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{self.out}/blobs/sha256/{digest}", "wb") as f:
            f.write(data)
        return self._descriptor(media_type, "sha256:" + digest, len(data))

    def add_layer(self, path, diff_id=None):
        with open(path, "rb") as f:
            digest = hash_stream(f)
        size = os.path.getsize(path)
        media_type = "application/vnd.oci.image.layer.v1.tar" + SUFFIX[compression_of(path)]
        self.diff_ids.append(diff_id or diff_id_of(path))
        self.layers.append(self._descriptor(media_type, digest, size))
        shutil.move(path, f"{self.out}/blobs/sha256/{digest.removeprefix('sha256:')}")

    def add_layers_of(self, parent):
        """Takes over the layers of the one image of another layout."""
        def blob(digest):
            return f"{parent}/blobs/sha256/{digest.removeprefix('sha256:')}"
        with open(f"{parent}/index.json", encoding="utf-8") as f:
            manifest_digest = json.load(f)["manifests"][0]["digest"]
        with open(blob(manifest_digest), encoding="utf-8") as f:
            manifest = json.load(f)
        with open(blob(manifest["config"]["digest"]), encoding="utf-8") as f:
            self.diff_ids += json.load(f)["rootfs"]["diff_ids"]
        for layer in manifest["layers"]:
            self.layers.append(layer)
            shutil.copy(blob(layer["digest"]), f"{self.out}/blobs/sha256/")

    def finish(self, name, cmd):
        config = self._put_json("application/vnd.oci.image.config.v1+json", {
            "created": "2024-01-01T00:00:00Z", "architecture": "amd64", "os": "linux",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": cmd},
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "test"} for _ in self.diff_ids]})
        manifest = self._put_json("application/vnd.oci.image.manifest.v1+json", {
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": self.layers})
        manifest["annotations"] = {"org.opencontainers.image.ref.name": name}
        with open(f"{self.out}/index.json", "w", encoding="utf-8") as f:
            json.dump({"schemaVersion": 2, "manifests": [manifest]}, f)
        with open(f"{self.out}/oci-layout", "w", encoding="utf-8") as f:
            json.dump({"imageLayoutVersion": "1.0.0"}, f)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("name")
    parser.add_argument("--cmd", action="append", default=[])
    parser.add_argument("layer", nargs="+")
    arguments = parser.parse_args()
    layout = Layout(arguments.out)
    for layer in arguments.layer:
        layout.add_layer(layer)
    layout.finish(arguments.name, arguments.cmd or ["/bin/sh"])


if __name__ == "__main__":
    main()
