"""Writes an OCI layout with an image that only a benchmark wants.

    synthetic_image.py inodes|big-file DIRECTORY

inodes: 500,000 files of up to 100 bytes in 1,000 directories. big-file: model.bin of 20 GB, all holes but the first and last
bytes, as GNU tar writes it sparsely (PAX 1.0).
"""
import gzip
import hashlib
import io
import json
import os
import sys
import tarfile


def inodes(tar):
    for directory in range(1000):
        info = tarfile.TarInfo(f"data/{directory:04}")
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(info)
        for number in range(499):
            contents = f"{directory}/{number}\n".encode() * (number % 10)
            info = tarfile.TarInfo(f"data/{directory:04}/entry-{number:04}.txt")
            info.size, info.mtime = len(contents), 1_700_000_000 + number
            tar.addfile(info, io.BytesIO(contents))


def big_file(tar):
    size, begin, end = 20_000_000_000, b"begin of it\n", b"the end now\n"
    segments = [(0, len(begin)), (size - len(end), len(end)), (size, 0)]
    table = f"{len(segments)}\n" + "".join(f"{offset}\n{length}\n" for offset, length in segments)
    body = table.encode().ljust(512, b"\0") + begin + end
    info = tarfile.TarInfo("model.bin")
    info.size = len(body)
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "model.bin",
                        "GNU.sparse.realsize": str(size)}
    tar.addfile(info, io.BytesIO(body))


def main():
    kind, directory = sys.argv[1:]
    blobs = os.path.join(directory, "blobs", "sha256")
    os.makedirs(blobs)

    def put(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(blobs, digest), "wb") as blob:
            blob.write(data)
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        {"inodes": inodes, "big-file": big_file}[kind](tar)
    oci = "application/vnd.oci.image."
    layer = put(gzip.compress(raw.getvalue(), 1, mtime=0), oci + "layer.v1.tar+gzip")
    config = put(json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {
        "type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(raw.getvalue()).hexdigest()]}}).encode(),
                 oci + "config.v1+json")
    manifest = put(json.dumps({"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": config,
                               "layers": [layer]}).encode(), oci + "manifest.v1+json")
    manifest["annotations"] = {"org.opencontainers.image.ref.name": kind}
    with open(os.path.join(directory, "index.json"), "w") as index:
        json.dump({"schemaVersion": 2, "manifests": [manifest]}, index)
    with open(os.path.join(directory, "oci-layout"), "w") as layout:
        json.dump({"imageLayoutVersion": "1.0.0"}, layout)


main()
