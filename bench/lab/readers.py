"""Readers of a mounted file: continuous ones that note every stall, and random ones that note every latency."""
import hashlib
import os
import random
import threading
import time

BLOCK = 128 << 10


class Reader(threading.Thread):
    """Reads a file from its beginning to its end. Afterwards: digest (None: it failed), error, stalls."""

    def __init__(self, node, path):
        super().__init__(daemon=True)
        self.node, self.path = node, path
        self.digest, self.error, self.ended = None, None, None
        self.reads = []  # (began, seconds) of those that took over 50 ms
        self.position = 0

    def run(self):
        digest = hashlib.sha256()
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                while True:
                    began = time.monotonic()
                    block = os.pread(descriptor, BLOCK, self.position)
                    seconds = time.monotonic() - began
                    if seconds > 0.05:
                        self.reads.append((began, seconds))
                    if not block:
                        break
                    digest.update(block)
                    self.position += len(block)
            finally:
                os.close(descriptor)
            self.digest = digest.hexdigest()
        except OSError as error:
            self.error = str(error)
        self.ended = time.monotonic()

    def longest_stall(self, since=0, until=float("inf")):
        """Of reads that were waiting at any moment in between."""
        return max((seconds for began, seconds in self.reads if began + seconds > since and began < until), default=0)


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


def random_image_digest(image):
    """SHA-256 of /random.bin of tests/images/random_image.py's image of that name."""
    source, digest = random.Random(image), hashlib.sha256()
    for _ in range(int(image.removeprefix("random-"))):
        digest.update(source.randbytes(1 << 20))
    return digest.hexdigest()
