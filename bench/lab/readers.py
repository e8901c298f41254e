"""Readers of a mounted file.

PacedReader asks for less than its link gives: what it waits longer than usual is a fault's doing, and not the link's (one that goes as fast as it
can waits all the time). random_latencies() reads one page at a time.
"""
import hashlib
import os
import random
import threading
import time

PIECE = 256 << 10  # of a paced reader
# Chunks are 64 to 512 KiB, and do not begin where a piece does: what moves for a piece, over its size.
MOVED = {"in": 1.0, "random": 2.5}


class PacedReader(threading.Thread):
    """Reads a file's pieces, one at a time, so that about `bytes_per_second` move for it; late ones are not caught up on. Each is
    compared with its digest. how: all in order, or at "random" as many as take the same time; readers with one seed read the same.

    Afterwards, or meanwhile: reads, wrong (what was not right), done (it has read all that it was to)."""

    def __init__(self, node, path, bytes_per_second, pieces, how="in", seed=0):
        super().__init__(daemon=True)
        self.node, self.path, self.pieces = node, path, pieces
        self.interval = PIECE * MOVED[how] / bytes_per_second
        self.random = how == "random"
        self.order = list(range(len(pieces)))
        if self.random:
            random.Random(seed).shuffle(self.order)
            del self.order[int(len(pieces) / MOVED[how]):]
        self.reads = []  # (began, seconds)
        self.wrong, self.done, self.ended, self.stop = [], False, None, threading.Event()

    def run(self):
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                if self.random:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
                self.done = self.read_all(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            self.wrong.append(str(error))
        self.ended = time.monotonic()

    def read_all(self, descriptor):
        due = time.monotonic()
        for piece in self.order:
            if self.stop.wait(max(0, due - time.monotonic())):
                return False
            began = time.monotonic()
            data = os.pread(descriptor, PIECE, piece * PIECE)
            ended = time.monotonic()
            self.reads.append((began, ended - began))
            if hashlib.sha256(data).digest() != self.pieces[piece]:
                self.wrong.append(f"piece {piece} has {len(data)} wrong bytes")
            due = max(due + self.interval, ended)
        return True

    def latencies(self, since=0, until=float("inf")):
        """Of reads that were waiting at any moment in between."""
        return [seconds for began, seconds in list(self.reads) if began + seconds > since and began < until]


def random_latencies(path, count, seed, spacing=2 << 20):
    """Seconds of each of up to `count` reads of one page, no two of them near each other, in random order."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        positions = list(range(0, os.fstat(descriptor).st_size - spacing, spacing))
        source = random.Random(seed)
        source.shuffle(positions)
        latencies = []
        for position in positions[:count]:
            began = time.monotonic()
            if not os.pread(descriptor, 4096, position + source.randrange(spacing // 2 // 4096) * 4096):
                raise RuntimeError(f"{path}: short read at {position}")
            latencies.append(time.monotonic() - began)
        return latencies
    finally:
        os.close(descriptor)


def random_image_blocks(image):
    """/random.bin of tests/images/random_image.py's image of that name, a MiB at a time."""
    source = random.Random(image)
    for _ in range(int(image.removeprefix("random-"))):
        yield source.randbytes(1 << 20)


def random_image_pieces(image):
    """SHA-256 of each PIECE."""
    return [hashlib.sha256(block[at:at + PIECE]).digest() for block in random_image_blocks(image) for at in range(0, 1 << 20, PIECE)]
