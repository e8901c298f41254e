#!/usr/bin/env -S python3 -B
"""A lab under full CPU load for a long time: the manager must remove no node that lives.

    soak.py [--minutes 60] [--nodes 8] [--rate 5mbit] [--mib 64] [--burners N] [--yield-to LOCKFILE] [--json FILE]

Every node mounts one image and reads it at random, at 60 % of its link, again and again: its store holds a third of it, so the
reads go on going through the trees. Burners are processes that only use the CPU, by default one for each processor, at the daemons' own
priority; as many more, of low priority, use up what is left.
`removed` is how many nodes the manager has taken out as dead; nobody is killed here, so each is a mistake. With --yield-to
burners and readers pause, and the time does not count, while somebody holds that file's lock (flock -x): a measurement that this would spoil.
SIGTERM ends it early; what it has seen until then is told.
"""
import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

from lablib import Lab, bits_per_second, mount_all
from readers import PIECE, PacedReader, random_image_pieces

PACE = 0.6
BURNER = "while True: sum(range(100000))"


class Load:
    """Readers on every node, and burners. Readers go round the file for ever, in another order each time."""

    def __init__(self, mounts, burners, pieces, bytes_per_second):
        self.mounts, self.pieces, self.bytes_per_second = mounts, pieces, bytes_per_second
        self.burners, self.readers, self.rounds, self.wrong = [], {}, dict.fromkeys(mounts, 0), []
        self.count, self.bytes_read, self.longest = burners, 0, 0.0

    def begin(self):
        nice = [0] * self.count + [19] * os.cpu_count()
        self.burners = [subprocess.Popen(["nice", f"-n{n}", sys.executable, "-c", BURNER], stdin=subprocess.DEVNULL) for n in nice]

    def step(self):
        """A new round for those that have read all."""
        for node, path in self.mounts.items():
            reader = self.readers.get(node)
            if reader and reader.is_alive():
                continue
            if reader:
                self.collect(reader)
            drop_pages(path)
            self.rounds[node] += 1
            self.readers[node] = PacedReader(node, path, self.bytes_per_second, self.pieces, "random", self.rounds[node])
            self.readers[node].start()

    def collect(self, reader):
        self.wrong += [f"{reader.node}: {what}" for what in reader.wrong]
        self.bytes_read += len(reader.reads) * PIECE
        self.longest = max([self.longest, *(seconds for _, seconds in reader.reads)])

    def pause(self):
        for burner in self.burners:
            burner.kill()
            burner.wait()
        self.burners = []
        for reader in self.readers.values():
            reader.stop.set()
        for reader in self.readers.values():
            reader.join()
            self.collect(reader)
        self.readers = {}


def drop_pages(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def is_held(path):
    if not path:
        return False
    with open(path, "a", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def cpu_seconds():
    """(busy, all) of all processors since boot."""
    with open("/proc/stat", encoding="ascii") as f:
        ticks = [int(number) for number in f.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK"), sum(ticks) / os.sysconf("SC_CLK_TCK")


def manager_counts(lab):
    metrics = lab.metrics("manager")
    return {name.removeprefix("banyan_tree_"): value for name, value in metrics.items()
            if any(word in name for word in ("removed", "beats", "doubts", "nodes{", "reparent", "reports", "joins", "leaves"))}


def soak(arguments, lab, load):
    loaded, paused, busy, total = 0.0, 0.0, 0.0, 0.0
    samples, next_sample = [], 0.0
    running, ended = False, threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    while loaded < arguments.minutes * 60 and not ended.is_set():
        began, (busy_before, total_before) = time.monotonic(), cpu_seconds()
        held = is_held(arguments.yield_to)
        if held == running:
            load.pause() if held else load.begin()
            running = not held
        if running:
            load.step()
        ended.wait(1)
        elapsed, (busy_now, total_now) = time.monotonic() - began, cpu_seconds()
        if not running:
            paused += elapsed
            continue
        loaded, busy, total = loaded + elapsed, busy + busy_now - busy_before, total + total_now - total_before
        if loaded >= next_sample:
            next_sample = loaded + 60
            sample = {"minutes": loaded / 60, "paused_minutes": paused / 60, "cpu": busy / total, "load": os.getloadavg()[0], **manager_counts(lab)}
            samples.append(sample)
            print(json.dumps(sample), flush=True)
    load.pause()
    return {"minutes": loaded / 60, "paused_minutes": paused / 60, "cpu": busy / total, "samples": samples}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--rate", default="5mbit")
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--burners", type=int, default=os.cpu_count())
    parser.add_argument("--yield-to", metavar="LOCKFILE")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    image = f"random-{arguments.mib}"
    pieces = random_image_pieces(image)
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as settings:
        settings.write(f"[store]\nbudget = \"{max(16, arguments.mib // 3)} MiB\"\n")
        settings.flush()
        with Lab(arguments.nodes, "tree2", arguments.rate, [image], ["--agent-toml", settings.name]) as lab:
            files, _ = mount_all(lab, lab.nodes, image, "mnt")
            load = Load(files, arguments.burners, pieces, PACE * bits_per_second(arguments.rate) / 8)
            try:
                result = soak(arguments, lab, load)
            finally:
                load.pause()
            result |= {"removed": manager_counts(lab)["removed_nodes_total"], "wrong": load.wrong, "bytes_read": load.bytes_read,
                       "longest_read": load.longest, "links": lab.stats(),
                       "log": [line for line in lab.log("manager").splitlines() if "taken out" in line or "silent" in line]}
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as out:
            print(json.dumps(result), file=out)
    print(f"{result['minutes']:.1f} minutes under load (CPU {result['cpu']:.0%} busy), {result['paused_minutes']:.1f} paused: "
          f"{result['removed']:.0f} nodes removed, {len(result['wrong'])} wrong reads, {result['bytes_read'] >> 20} MiB read, "
          f"longest read {result['longest_read']:.1f} s")
    return 1 if result["removed"] or result["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
