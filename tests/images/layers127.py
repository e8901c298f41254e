#!/usr/bin/env python3
"""An image of 127 layers: `layers127.py OUT BASE`, where BASE is the layout of the image `base`, its first layer.

The other 126 are small and do by turns what layers do: add, change and remove files and directories of the base and of
one another, replace one kind by another, link to files of lower layers, hide directories' contents. Which of the base's paths
are hit is drawn with a fixed seed.
"""
import gzip
import json
import random
import sys
import tarfile
import tempfile

import oci_layout
from tar_writer import END, SECOND, Entry, write

LAYERS = 127


def base_paths(base):
    """Plain files and documentation directories of the base, sorted."""
    with open(f"{base}/index.json", encoding="utf-8") as f:
        digest = json.load(f)["manifests"][0]["digest"]
    with open(f"{base}/blobs/sha256/{digest[7:]}", encoding="utf-8") as f:
        layer = json.load(f)["layers"][0]["digest"]
    files, directories = [], []
    with tarfile.open(f"{base}/blobs/sha256/{layer[7:]}") as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            in_doc = name.startswith("usr/share/doc/")
            if member.isfile() and name.startswith(("usr/share/", "etc/", "var/lib/dpkg/")) and not in_doc:
                files.append(name.encode())
            elif member.isdir() and in_doc and name.count("/") == 3:
                directories.append(name.encode())
    return sorted(files), sorted(directories)


class Changes:
    """The layers above the base; remembers which paths live, so that each change meets something."""

    def __init__(self, base):
        self.random = random.Random(127)
        self.files, self.directories = base_paths(base)
        self.linked = [b"srv/0/file"]

    def _entry(self, name, kind, layer, **options):
        mtime = (1_650_000_000 + layer) * SECOND + layer * 1001
        return Entry(name, kind, mtime_ns=mtime, uid=layer % 3, **options)

    def _file(self, name, layer, text=b""):
        data = text or b"layer %d: %s\n" % (layer, name) * self.random.randint(1, 400)
        return self._entry(name, "file", layer, segments=[(0, data)], size=len(data), mode=0o600 + layer % 64)

    def _take(self, paths):
        return paths.pop(self.random.randrange(len(paths)))

    def layer(self, n):
        own = b"srv/%d" % n
        below = b"srv/%d" % max(0, n - 1)
        yield self._entry(own + b"/", "dir", n, mode=0o755)
        yield self._file(own + b"/file", n)
        yield self._file(b"srv/latest", n)  # every layer replaces it
        yield self._entry(own + b"/link", "symlink", n, target=below + b"/file", mode=0o777)
        if n % 3 == 0:
            yield self._entry(own + b"/hard", "link", n, target=self.random.choice(self.linked))
        if n % 4 == 1:
            yield self._file(self._wh(self._take(self.files)), n, b"\n")
        if n % 4 == 2:
            yield self._file(self._take(self.files), n)
        if n % 8 == 3:
            victim = self._take(self.directories)
            yield self._entry(victim + b"/", "dir", n, mode=0o755)
            yield self._file(victim + b"/.wh..wh..opq", n, b"\n")
            yield self._file(victim + b"/instead", n)
        if n % 8 == 5:
            victim = self._take(self.directories)
            yield self._file(self._wh(victim), n, b"\n")
            yield self._file(victim, n, b"a directory was here\n")
        if n % 8 == 7:
            victim = self._take(self.files)
            yield self._file(self._wh(victim), n, b"\n")
            yield self._entry(victim + b"/", "dir", n, mode=0o700)
            yield self._file(victim + b"/in", n)
        if n % 10 == 9:
            yield self._file(self._wh(b"srv/%d" % (n - 5)), n, b"\n")
            self.linked = [p for p in self.linked if not p.startswith(b"srv/%d/" % (n - 5))]
        self.linked.append(own + b"/file")

    @staticmethod
    def _wh(path):
        parent, _, name = path.rpartition(b"/")
        return parent + b"/.wh." + name


def main():
    out, base = sys.argv[1:]
    layout = oci_layout.Layout(out)
    layout.add_layers_of(base)
    changes = Changes(base)
    with tempfile.TemporaryDirectory() as work:
        for n in range(LAYERS - 1):
            entries = list(changes.layer(n))
            if n == 0:
                entries.insert(0, Entry(b"srv/", "dir", mode=0o755))
            with open(f"{work}/layer", "wb") as f:
                f.write(gzip.compress(b"".join(write(entry) for entry in entries) + END, 6, mtime=0))
            layout.add_layer(f"{work}/layer")
    assert len(layout.layers) == LAYERS
    layout.finish("layers127", ["/bin/true"])


if __name__ == "__main__":
    main()
