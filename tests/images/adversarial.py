#!/usr/bin/env python3
"""The adversarial image: everything that a layer may hold, in every way of writing it down.

    adversarial.py layout NAME OUT    an OCI layout with the image NAME
    adversarial.py create NAME DIR    the tree that it means, created in the empty directory DIR (needs root)

NAME: `adversarial`, or `adversarial-umoci`, which leaves out what umoci 0.4.7 cannot unpack or reads otherwise than the
specification: plain and zstd layers, gzip header checksums, GNU's old sparse files, bare names below implied directories, overlayfs' own xattrs, files too large to write in full.
"""
import gzip
import os
import struct
import subprocess
import sys
import tempfile
import zlib

import oci_layout
from tar_writer import BLOCK, END, SECOND, Entry, Tree, pax_header, write


def file(name, data=b"", **options):
    return Entry(name, "file", segments=[(0, data)] if data else [], size=len(data), **options)


def sparse(name, size, segments, how, **options):
    return Entry(name, "file", segments=segments, size=size, sparse=how, **options)


def directory(name, mode=0o755, **options):
    return Entry(name, "dir", mode=mode, **options)


def symlink(name, target, **options):
    return Entry(name, "symlink", target=target, mode=0o777, **options)


def link(name, target, **options):
    return Entry(name, "link", target=target, **options)


def whiteout(path):
    parent, _, name = path.rpartition(b"/")
    return file((parent + b"/" if parent else b"") + b".wh." + name)


def opaque(path):
    return file(path + b"/.wh..wh..opq")


def noise(size, seed):
    """Incompressible, reproducible bytes."""
    out, state = bytearray(), seed
    while len(out) < size:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out += state.to_bytes(8, "little")
    return bytes(out[:size])


def acl(*entries):
    """The value of system.posix_acl_*: version 2, then (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NO_ID = 0xFFFFFFFF
ACCESS_ACL = acl((0x01, 6, NO_ID), (0x02, 7, 70000), (0x04, 4, NO_ID), (0x10, 7, NO_ID), (0x20, 4, NO_ID))
DEFAULT_ACL = acl((0x01, 7, NO_ID), (0x04, 5, NO_ID), (0x08, 7, 12), (0x10, 7, NO_ID), (0x20, 0, NO_ID))
# cap_net_raw,cap_net_bind_service+ep, revision 2.
CAPABILITY = struct.pack("<IIIII", 0x02000001, (1 << 13) | (1 << 10), 0, 0, 0)

LONG_NAME = b"n" * 255
LONG_PATH = b"long/" + b"/".join(b"%03d" % i + b"p" * 60 for i in range(20))


def ordinary(full):
    """Kinds, modes, owners, times, xattrs, names."""
    yield directory(b"./", mtime_ns=1_500_000_000 * SECOND + 7, how="pax")
    for name in (b"bin", b"etc", b"data", b"dev", b"names", b"times", b"ids", b"xattrs", b"links", b"links/far", b"gone",
                 b"gone/deep", b"opaque", b"opaque/kept", b"becomes-file", b"becomes-file/x", b"long", b"sparse", b"twice"):
        yield directory(name + b"/", mtime_ns=1_550_000_000 * SECOND + 1)
    # The same facts in each dialect. V7 marks a directory by its trailing slash only.
    yield directory(b"v7dir/", how="v7")
    yield file(b"v7dir/file", b"v7\n", how="v7")
    yield file(b"data/gnu", b"gnu\n", how="gnu", uid=70_000, gid=3_000_000_000, mtime_ns=-86_400 * SECOND)
    yield file(b"data/ustar-prefix/".ljust(60, b"u") + b"/" + b"v" * 90, b"u", how="ustar") if full else file(b"data/u", b"u", how="ustar")
    yield file(b"data/empty")
    yield file(b"data/block", noise(4096, 1))
    yield file(b"data/block+1", noise(4097, 2))
    yield file(b"data/one", b"1")
    yield file(b"data/zeros", bytes(300_000))
    yield file(b"data/noise", noise(2_500_000, 3))
    yield file(b"data/text", b"".join(b"line %d of a text that compresses\n" % i for i in range(60_000)))
    # Modes.
    yield file(b"bin/setuid", b"#!\n", mode=0o4755)
    yield file(b"bin/setgid", b"#!\n", mode=0o2755, gid=42)
    yield file(b"bin/all", b"#!\n", mode=0o7777, uid=1, gid=1)
    yield file(b"bin/none", b"secret\n", mode=0)
    yield directory(b"bin/sticky/", 0o1777)
    yield directory(b"bin/setgid-dir/", 0o2775, gid=70_001)
    # Devices and FIFOs.
    yield Entry(b"dev/null", "char", mode=0o666, device=(1, 3))
    yield Entry(b"dev/high", "char", mode=0o600, device=(511, 1_048_575), how="gnu")
    yield Entry(b"dev/disk", "block", mode=0o660, gid=6, device=(259, 300))
    yield Entry(b"dev/fifo", "fifo", mode=0o622)
    # Owners.
    for value in (65_535, 65_536, 2_097_151, 2_097_152, 4_294_967_294):
        yield file(b"ids/%d" % value, uid=value, gid=4_294_967_294 - value)
    # Times.
    for name, ns in ((b"epoch", 0), (b"epoch-1ns", -1), (b"minus1.5", -1_500_000_000), (b"year1906", -2_000_000_000 * SECOND),
                     (b"nanosecond", SECOND + 1), (b"half", SECOND // 2), (b"year2200", 7_258_118_400 * SECOND + 999_999_999)):
        yield file(b"times/" + name, mtime_ns=ns)
    yield symlink(b"times/link", b"epoch", mtime_ns=-5 * SECOND - 5)
    # Extended attributes.
    yield file(b"xattrs/capability", b"\x7fELF", mode=0o755, xattrs={b"security.capability": CAPABILITY})
    yield file(b"xattrs/user", xattrs={b"user.one": b"1", b"user.binary": bytes(range(256)),
                                       b"user.newline": b"a=b\n3 c\n", b"user." + b"n" * 200: noise(1500, 9)})
    yield file(b"xattrs/acl", mode=0o674, xattrs={b"system.posix_acl_access": ACCESS_ACL})
    yield directory(b"xattrs/default-acl/", 0o750, xattrs={b"system.posix_acl_default": DEFAULT_ACL, b"user.d": b"d"})
    yield file(b"xattrs/trusted", xattrs={b"trusted.t": b"\xff\0"})
    # Links.
    yield file(b"links/a", noise(10_000, 4), uid=5, mode=0o640)
    yield link(b"links/b", b"links/a", uid=5, mode=0o640)
    yield link(b"links/far/c", b"./links/b", uid=5, mode=0o640)
    yield file(b"links/later", b"to be linked to from above\n")
    yield symlink(b"links/absolute", b"/etc/../data/one")
    yield symlink(b"links/dangling", b"nowhere/at/all")
    yield symlink(b"links/long", b"t" * 3000)
    yield symlink(b"links/long-gnu", b"g" * 300, how="gnu")
    yield symlink(b"links/bytes", b"\xff\xfe \n")
    # Names. "!" sorts before ".".
    for name in (b"!", b"...", b"..a", b" ", b"\\", b"a\nb", b"\xff\xfe", b"\xc3\x28", b"\xe2\x82\xac", b"wh.", b".wh", b"-rf",
                 bytes(set(range(1, 256)) - {ord("/"), ord("."), ord("A")})[:120], LONG_NAME):
        yield file(b"names/" + name, name)
    yield file(b"names/" + b"G" * 200, b"gnu long", how="gnu")
    for depth in range(1, 21):
        yield directory(b"/".join(LONG_PATH.split(b"/")[:depth + 1]) + b"/", how="pax" if depth % 2 else "gnu")
    yield file(LONG_PATH + b"/end", b"deep", how="gnu")
    # Directories of several blocks.
    yield directory(b"many/")
    for i in range(1500):
        yield file(b"many/%05d" % (i * 7919 % 100_000) + b"x" * (i % 40), b"%d" % i)
    # Twice: the later one counts; a link to the earlier one keeps its content.
    yield file(b"twice/file", b"first")
    yield link(b"twice/of-first", b"twice/file")
    yield file(b"twice/file", b"second, longer")
    yield directory(b"twice/dir/", 0o700, xattrs={b"user.first": b"1"})
    yield file(b"twice/dir/in", b"stays")
    yield directory(b"twice/dir/", 0o711, uid=9)
    yield file(b"twice/kind", b"a file first")
    yield symlink(b"twice/kind", b"then a link")
    # Victims of the layers above.
    yield file(b"gone/file", b"x")
    yield file(b"gone/deep/file", b"x")
    yield file(b"opaque/old", b"old")
    yield file(b"opaque/kept/old", b"old")
    yield file(b"becomes-file/x/y", b"y")
    yield file(b"becomes-dir", b"a file")
    yield symlink(b"link-becomes-dir", b"data")
    yield directory(b"recreated/", 0o700, uid=8, xattrs={b"user.old": b"1"})
    yield file(b"recreated/old", b"old")
    yield file(b"replaced", b"a" * 5000, mode=0o600, xattrs={b"user.old": b"1"})
    yield link(b"replaced-twin", b"replaced", mode=0o600)


def sparse_files(full):
    # Only the last segment, which ends the file, may be of any length: GNU tar keeps segments in whole blocks.
    many = [(i * 2048 * BLOCK, noise((1 + i % 3) * BLOCK, i)) for i in range(30)]
    for how in ("gnu", "pax0.0", "pax0.1", "pax1.0") if full else ("pax0.0", "pax0.1", "pax1.0"):
        name = b"sparse/" + how.encode()
        yield sparse(name, 40_000_000, many, how)
        yield sparse(name + b"-end", 2000 * BLOCK + 1003, [(2000 * BLOCK, noise(1003, 5))], how)
        yield sparse(name + b"-start", 1_000_000, [(0, noise(BLOCK, 6))], how, uid=3)
        yield sparse(name + b"-hole", 123_456, [], how)
    if full:
        end = (1 << 32) + 9999 * BLOCK
        yield sparse(b"sparse/over4g", end + 3,
                     [(0, noise(BLOCK, 8)), (1 << 32, noise(600 * BLOCK, 7)), (end, b"end")], "pax1.0")


def strange(full):
    """What only the full image holds."""
    if not full:
        return
    yield file(b"/absolute/../data/cleaned", b"lexically")
    yield file(b"implied/by/this/file", b"no parent was given")
    yield directory(b"data//slashes/./")
    yield file(b"data/contiguous", b"type 7", type_flag=b"7")
    yield file(b"xattrs/overlay", b"o", xattrs={b"trusted.overlay.redirect": b"/etc", b"user.kept": b"1"})
    yield directory(b"xattrs/overlay-dir/", xattrs={b"trusted.overlay.opaque": b"y"})
    yield link(b"links/with-size", b"links/a", uid=5, mode=0o640, header_size=4096)
    yield symlink(b"links/symlink-with-size", b"a", header_size=512)
    yield link(b"links/to-symlink", b"links/absolute")
    yield Entry(b"dev/fifo-with-size", "fifo", header_size=99)


def changes(full):
    """A layer that changes the one below in every way."""
    yield directory(b"./", mtime_ns=1_600_000_001 * SECOND + 7)
    # Hard links to files of the lower layer; the second takes a removed file's place under a new name.
    yield link(b"links/to-lower", b"links/later")
    yield link(b"data/from-gone", b"gone/file")
    yield whiteout(b"gone/file")
    yield whiteout(b"gone/deep")
    yield whiteout(b"gone/never-was")
    # Opaque marks act on lower layers only, wherever they stand.
    yield directory(b"opaque/", 0o711, mtime_ns=1_600_000_002 * SECOND)
    yield file(b"opaque/new-before", b"1")
    yield opaque(b"opaque")
    yield file(b"opaque/new-after", b"2")
    yield whiteout(b"becomes-file")
    yield file(b"becomes-file", b"no directory any more")
    yield directory(b"becomes-dir/", 0o700)
    yield file(b"becomes-dir/in", b"in")
    if full:
        yield directory(b"link-becomes-dir/")
        yield file(b"link-becomes-dir/in", b"in")
    yield whiteout(b"recreated")
    yield directory(b"recreated/", 0o755)
    yield file(b"recreated/new", b"new")
    # Replaces one of two names; the twin keeps content and xattrs.
    yield file(b"replaced", b"b", mode=0o644)
    # Attributes alone: the children stay.
    yield directory(b"links/far/", 0o500, uid=70_002, mtime_ns=-1)
    if full:
        yield file(b"long/" + b"new/" * 3 + b"file", b"parents implied")


def more_changes(full):
    yield directory(b"opaque/", 0o755)
    yield opaque(b"opaque")
    yield directory(b"becomes-dir/", 0o700)
    yield opaque(b"becomes-dir")
    yield whiteout(b"becomes-file")
    yield directory(b"becomes-file/")
    yield file(b"becomes-file/again", b"a directory again")
    yield whiteout(b"names/" + b"\xff\xfe")
    yield link(b"links/third-layer", b"links/to-lower")
    yield file(b"many/00000", b"changed", mode=0o400)


def pack_plain(tar):
    return tar


def pack_gzip(tar):
    return gzip.compress(tar, 6, mtime=0)


def pack_members(tar, flags=0x04 | 0x08 | 0x10):
    """Several members, an empty one among them, with optional header fields (extra, name, comment)."""
    out = b""
    for at in range(0, len(tar), max(1, len(tar) // 5)):
        piece = tar[at:at + max(1, len(tar) // 5)]
        head = struct.pack("<BBBBIBB", 0x1F, 0x8B, 8, flags, 1, 0, 255) + struct.pack("<H", 6) + b"xx\x02\x00hi" + \
            b"name\0" + b"comment\0"
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF) if flags & 0x02 else b""
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        out += head + deflate.compress(piece) + deflate.flush() + struct.pack("<II", zlib.crc32(piece), len(piece))
    return out + gzip.compress(b"", mtime=0)


def pack_members_with_header_crc(tar):
    return pack_members(tar, 0x02 | 0x04 | 0x08 | 0x10)


def pack_zstd(tar):
    """Several frames between skippable ones."""
    skippable = struct.pack("<II", 0x184D2A53, 5) + b"skip!"
    out = skippable
    for at in range(0, len(tar), max(1, len(tar) // 3)):
        piece = tar[at:at + max(1, len(tar) // 3)]
        out += subprocess.run(["zstd", "-q", "-c"], input=piece, stdout=subprocess.PIPE, check=True).stdout + skippable
    return out


def layers(full):
    """(entries, packing, what precedes the first entry, what ends the tar)"""
    comment = pax_header([(b"comment", b"a global header")], b"g") if full else b""
    yield list(ordinary(full)), pack_members, comment, END
    yield list(sparse_files(full)), pack_gzip, b"", END
    if full:
        yield list(strange(full)), pack_zstd, b"", END + b"\0" * 8 * BLOCK + b"bytes behind the end are not parsed"
    yield list(changes(full)), pack_plain if full else pack_gzip, b"", END
    yield list(more_changes(full)), pack_zstd if full else pack_gzip, b"", b"" if full else END
    yield [], pack_gzip, b"", END
    yield [file(b"data/last", b"last layer")], pack_members_with_header_crc if full else pack_gzip, b"", END


def write_layout(name, out, full):
    layout = oci_layout.Layout(out)
    with tempfile.TemporaryDirectory() as work:
        for entries, pack, begin, end in layers(full):
            path = f"{work}/layer"
            with open(path, "wb") as f:
                f.write(pack(begin + b"".join(write(entry) for entry in entries) + end))
            layout.add_layer(path)
    layout.finish(name, ["/bin/none"])


def create_tree(directory_name, full):
    tree = Tree()
    for entries, *_ in layers(full):
        tree.apply(entries)
    tree.create(directory_name)


def main():
    command, name, out = sys.argv[1:]
    full = {"adversarial": True, "adversarial-umoci": False}[name]
    if command == "layout":
        write_layout(name, out, full)
    elif command == "create":
        os.makedirs(out, exist_ok=True)
        create_tree(out, full)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
