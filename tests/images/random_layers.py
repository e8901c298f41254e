#!/usr/bin/env python3
"""An image of several layers that nothing can compress: `random_layers.py OUT random-MIBxLAYERS`, each of so many MiB.

/random.bin is in the first layer, /random1.bin in the second, and so on; each from a fixed seed.
"""
import random
import sys
import tarfile
import tempfile

import oci_layout


def main():
    out, name = sys.argv[1:]
    mebibytes, layers = (int(number) for number in name.removeprefix("random-").split("x"))
    layout = oci_layout.Layout(out)
    with tempfile.TemporaryDirectory() as work:
        for number in range(layers):
            source = random.Random(f"{name} {number}")
            with open(f"{work}/random.bin", "wb") as f:
                for _ in range(mebibytes):
                    f.write(source.randbytes(1 << 20))
            with tarfile.open(f"{work}/layer.tar", "w", format=tarfile.USTAR_FORMAT) as tar, open(f"{work}/random.bin", "rb") as f:
                entry = tarfile.TarInfo(f"random{number or ''}.bin")
                entry.size, entry.mode, entry.mtime = mebibytes << 20, 0o644, 1700000000
                tar.addfile(entry, f)
            layout.add_layer(f"{work}/layer.tar")
    layout.finish(name, ["/random.bin"])


if __name__ == "__main__":
    main()
