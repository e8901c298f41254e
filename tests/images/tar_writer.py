"""Writes tar archives byte by byte, in every dialect that layers come in, and models what they mean.

Why not a library: the point is to write what libraries avoid. An Entry says what is meant; `how` says in which dialect it
is written. Tree applies layers of entries by the OCI rules and creates the result in a directory by system calls: an answer
to compare a mounted view with that owes nothing to any unpacker.
"""
import dataclasses
import os
import stat

BLOCK = 512
TYPE_FLAGS = {"file": b"0", "link": b"1", "symlink": b"2", "char": b"3", "block": b"4", "dir": b"5", "fifo": b"6"}
SECOND = 1_000_000_000


@dataclasses.dataclass
class Entry:
    """`segments` are the data of a file as (offset, bytes); what lies between reads as zeros."""
    name: bytes
    kind: str
    how: str = "pax"  # v7, ustar, gnu, pax
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 1_600_000_000 * SECOND
    segments: list = dataclasses.field(default_factory=list)
    size: int = 0
    target: bytes = b""
    device: tuple = (0, 0)
    xattrs: dict = dataclasses.field(default_factory=dict)
    sparse: str = ""  # "", gnu, pax0.0, pax0.1, pax1.0
    type_flag: bytes = b""  # instead of the kind's own
    header_size: int = -1  # a size to claim where there is no body


def number(value, width):
    """Octal where it fits, else GNU's base 256 (which can be negative)."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return (((1 << (8 * width)) + value if value < 0 else value | 1 << (8 * width - 1))).to_bytes(width, "big")


def header(name, type_flag, how, *, mode=0o644, uid=0, gid=0, size=0, mtime=0, target=b"", device=(0, 0), prefix=b"", tail=b""):
    assert len(name) <= 100 and len(target) <= 100 and len(prefix) <= 155, name
    magic = {"v7": b"\0" * 8, "gnu": b"ustar  \0"}.get(how, b"ustar\x0000")
    block = bytearray(
        name.ljust(100, b"\0") + number(mode, 8) + number(uid, 8) + number(gid, 8) + number(size, 12) + number(mtime, 12) +
        b" " * 8 + type_flag + target.ljust(100, b"\0") + magic + b"\0" * 64 + number(device[0], 8) + number(device[1], 8) +
        (tail or prefix).ljust(155, b"\0"))
    block = block.ljust(BLOCK, b"\0")
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data):
    return data + b"\0" * (-len(data) % BLOCK)


def pax_record(key, value):
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return str(length).encode() + body


def pax_header(records, type_flag=b"x"):
    body = b"".join(pax_record(key, value) for key, value in records)
    return header(b"PaxHeaders/0", type_flag, "pax", size=len(body)) + padded(body)


def pax_time(ns):
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    text = f"{sign}{ns // SECOND}.{ns % SECOND:09}"
    return text.rstrip("0").rstrip(".").encode()


def split_for_ustar(name):
    """(name, prefix) of the ustar header."""
    if len(name) <= 100:
        return name, b""
    for at in range(min(155, len(name) - 1), 0, -1):
        if name[at:at + 1] == b"/" and 0 < len(name) - at - 1 <= 100:
            return name[at + 1:], name[:at]
    raise ValueError(f"{name!r} does not fit a ustar header")


def plain_data(entry):
    data = bytearray(entry.size)
    for offset, piece in entry.segments:
        data[offset:offset + len(piece)] = piece
    return bytes(data)


def sparse_map(entry):
    """(offset, length) pairs, with the empty one at the end of the file that GNU tar writes."""
    pairs = [(offset, len(piece)) for offset, piece in entry.segments]
    if not pairs or sum(pairs[-1]) != entry.size:
        pairs.append((entry.size, 0))
    return pairs


def write_gnu_sparse(entry):
    pairs = sparse_map(entry)
    data = b"".join(piece for _, piece in entry.segments)

    def cells(some, count):
        return b"".join(number(o, 12) + number(n, 12) for o, n in some).ljust(24 * count, b"\0")
    tail = b"\0" * 41 + cells(pairs[:4], 4) + (b"\1" if len(pairs) > 4 else b"\0") + number(entry.size, 12)
    out = header(entry.name, b"S", "gnu", mode=entry.mode, uid=entry.uid, gid=entry.gid, size=len(data),
                 mtime=entry.mtime_ns // SECOND, tail=tail)
    for at in range(4, len(pairs), 21):
        out += (cells(pairs[at:at + 21], 21) + (b"\1" if at + 21 < len(pairs) else b"\0")).ljust(BLOCK, b"\0")
    return out + padded(data)


def write_pax_sparse(entry, records):
    pairs = sparse_map(entry)
    data = b"".join(piece for _, piece in entry.segments)
    name = b"GNUSparseFile.0/" + entry.name.rsplit(b"/", 1)[-1][:80]
    if entry.sparse == "pax1.0":
        text = b"%d\n" % len(pairs) + b"".join(b"%d\n%d\n" % pair for pair in pairs)
        data = padded(text) + data
        records += [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", entry.name),
                    (b"GNU.sparse.realsize", b"%d" % entry.size)]
    else:
        records += [(b"GNU.sparse.size", b"%d" % entry.size), (b"GNU.sparse.numblocks", b"%d" % len(pairs))]
        if entry.sparse == "pax0.0":
            name = entry.name
            for offset, length in pairs:
                records += [(b"GNU.sparse.offset", b"%d" % offset), (b"GNU.sparse.numbytes", b"%d" % length)]
        else:
            records += [(b"GNU.sparse.name", entry.name),
                        (b"GNU.sparse.map", b",".join(b"%d,%d" % pair for pair in pairs))]
    return pax_header(records) + header(name, b"0", "pax", mode=entry.mode, uid=entry.uid & 0o7777777,
                                        gid=entry.gid & 0o7777777, size=len(data),
                                        mtime=max(0, entry.mtime_ns // SECOND)) + padded(data)


def gnu_long(type_flag, value):
    return header(b"././@LongLink", type_flag, "gnu", size=len(value) + 1) + padded(value + b"\0")


def pax_records(entry):
    """What a plain header cannot say, and the few things that it can but PAX may say as well."""
    records = []
    if len(entry.name) > 100 or not entry.name.isascii():
        records.append((b"path", entry.name))
    if len(entry.target) > 100 or not entry.target.isascii():
        records.append((b"linkpath", entry.target))
    for key, value in ((b"uid", entry.uid), (b"gid", entry.gid)):
        if value >= 8 ** 7:
            records.append((key, b"%d" % value))
    if entry.mtime_ns % SECOND or entry.mtime_ns < 0:
        records.append((b"mtime", pax_time(entry.mtime_ns)))
    return records + [(b"SCHILY.xattr." + key, value) for key, value in entry.xattrs.items()]


def write(entry):
    """The bytes of one entry."""
    if entry.sparse == "gnu":
        return write_gnu_sparse(entry)
    type_flag = entry.type_flag or TYPE_FLAGS[entry.kind]
    name, target, prefix, out = entry.name, entry.target, b"", b""
    uid, gid, mtime = entry.uid, entry.gid, entry.mtime_ns // SECOND
    if entry.how == "pax":
        records = pax_records(entry)
        if entry.sparse:
            return write_pax_sparse(entry, records)
        out = pax_header(records) if records else b""
        name, target = name[:100], target[:100]
        uid, gid, mtime = uid & 0o7777777, gid & 0o7777777, max(0, mtime)
    elif entry.how == "gnu":
        out += gnu_long(b"K", target) if len(target) > 100 else b""
        out += gnu_long(b"L", name) if len(name) > 100 else b""
        name, target = name[:100], target[:100]
    elif entry.how == "ustar":
        name, prefix = split_for_ustar(name)
    elif entry.how == "v7":
        type_flag = {b"5": b"\0", b"0": b"\0"}.get(type_flag, type_flag)
    data = plain_data(entry) if entry.kind == "file" else b""
    size = len(data) if entry.header_size < 0 else entry.header_size
    return out + header(name, type_flag, entry.how, mode=entry.mode, uid=uid, gid=gid, size=size, mtime=mtime, target=target,
                        device=entry.device, prefix=prefix) + padded(data)


END = b"\0" * (2 * BLOCK)


def clean(name):
    """Lexically, clamped to the root: b"" for the root."""
    parts = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


class Tree:
    """The meaning of a chain of layers. Paths map to entries; names of one inode share the entry object."""

    def __init__(self):
        self.nodes = {b"": Entry(b"", "dir", mode=0o755, mtime_ns=0)}

    def apply(self, entries):
        fresh = set()
        lower = dict(self.nodes)
        for entry in entries:
            path = clean(entry.name)
            parent, _, name = path.rpartition(b"/")
            if name == b".wh..wh..opq":
                self._remove_lower(parent, fresh)
            elif name.startswith(b".wh."):
                victim = clean(parent + b"/" + name[4:])
                self._remove_lower(victim, fresh)
                if victim not in fresh:
                    self.nodes.pop(victim, None)
            else:
                self._put(path, entry, fresh, lower)

    def _below(self, path):
        return [p for p in self.nodes if p.startswith(path + b"/") or (path == b"" and p != b"")]

    def _remove_lower(self, path, fresh):
        for victim in self._below(path):
            if victim not in fresh and not any(f.startswith(victim + b"/") for f in fresh):
                del self.nodes[victim]

    def _put(self, path, entry, fresh, lower):
        parts = path.split(b"/")
        for depth in range(1, len(parts)):
            parent = b"/".join(parts[:depth])
            if parent not in self.nodes or self.nodes[parent].kind != "dir":
                self.nodes[parent] = Entry(parent, "dir", mode=0o755, mtime_ns=0)
                fresh.add(parent)
        if entry.kind == "link":
            target = clean(entry.target)
            entry = self.nodes[target] if target in self.nodes else lower[target]
        if entry.kind != "dir" or (path in self.nodes and self.nodes[path].kind != "dir"):
            for victim in self._below(path) if path else []:
                del self.nodes[victim]
        self.nodes[path] = entry
        fresh.add(path)

    def create(self, root):
        """Creates the tree in the existing, empty directory `root`."""
        made = {}
        for path in sorted(self.nodes):
            entry, file = self.nodes[path], os.fsencode(root) + b"/" + path
            if id(entry) in made:
                os.link(made[id(entry)], file, follow_symlinks=False)
                continue
            if entry.kind != "dir":
                made[id(entry)] = file
            self._create_one(entry, file, path)
        # Children before parents, so that a directory's mtime stays.
        for path in sorted(self.nodes, reverse=True):
            entry, file = self.nodes[path], os.fsencode(root) + b"/" + path
            os.utime(file, ns=(0, entry.mtime_ns), follow_symlinks=False)

    @staticmethod
    def _create_one(entry, file, path):
        if entry.kind == "dir":
            if path:
                os.mkdir(file)
        elif entry.kind == "symlink":
            os.symlink(entry.target, file)
        elif entry.kind == "file":
            with open(file, "xb") as f:
                f.truncate(entry.size)
                for offset, piece in entry.segments:
                    os.pwrite(f.fileno(), piece, offset)
        else:
            kind = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK}[entry.kind]
            os.mknod(file, kind | 0o600, os.makedev(*entry.device))
        os.chown(file, entry.uid, entry.gid, follow_symlinks=False)
        if entry.kind != "symlink":
            os.chmod(file, entry.mode)
        for key, value in entry.xattrs.items():
            if not key.startswith(b"trusted.overlay."):
                os.setxattr(file, key, value, follow_symlinks=False)
