#!/usr/bin/env python3
"""An image of one layer that nothing can compress: `random_image.py OUT random-MIB`.

/random.bin holds so many MiB from a fixed seed, /random.sha256 its SHA-256 in hex.
"""
import hashlib
import io
import random
import sys
import tarfile
import tempfile

import oci_layout


def main():
    out, name = sys.argv[1:]
    mebibytes = int(name.removeprefix("random-"))
    source = random.Random(name)
    with tempfile.TemporaryDirectory() as work:
        digest = hashlib.sha256()
        with open(f"{work}/random.bin", "wb") as f:
            for _ in range(mebibytes):
                block = source.randbytes(1 << 20)
                digest.update(block)
                f.write(block)
        with tarfile.open(f"{work}/layer.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            def add(path, size, stream):
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode, entry.mtime = size, 0o644, 1700000000
                tar.addfile(entry, stream)
            with open(f"{work}/random.bin", "rb") as f:
                add("random.bin", mebibytes << 20, f)
            hexadecimal = digest.hexdigest().encode()
            add("random.sha256", len(hexadecimal), io.BytesIO(hexadecimal))
        layout = oci_layout.Layout(out)
        layout.add_layer(f"{work}/layer.tar")
        layout.finish(name, ["/random.bin"])


if __name__ == "__main__":
    main()
