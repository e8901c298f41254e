"""Readers of a mounted file.

PacedReader asks for less than its link gives: what it waits longer than usual is a fault's doing, and not the link's (one that goes as fast as it
can waits all the time). random_latencies() reads one page at a time.
"""
import hashlib
import os
import random
import threading
import time

PIECE = 256 << 10  # of a paced reader; about one chunk


class PacedReader(threading.Thread):
    """Reads pieces of a file at a steady rate, one at a time; late ones are not caught up on. Each is compared with its digest.

    Afterwards, or meanwhile: reads, wrong (what was not right), done (it has read all)."""

    def __init__(self, node, path, bytes_per_second, order, pieces):
        super().__init__(daemon=True)
        self.node, self.path, self.interval = node, path, PIECE / bytes_per_second
        self.order, self.pieces = order, pieces
        self.reads = []  # (began, seconds)
        self.wrong, self.done, self.ended, self.stop = [], False, None, threading.Event()

    def run(self):
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                if any(b != a + 1 for a, b in zip(self.order, self.order[1:])):
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


def piece_order(count, how, seed=0):
    """how: "in" order, or at "random"."""
    order = list(range(count))
    if how == "random":
        random.Random(seed).shuffle(order)
    return order


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
