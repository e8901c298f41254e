#!/usr/bin/env -S python3 -B
"""One image of incompressible bytes to N empty nodes, by swarm, trees, both, and star side by side.

    swarm.py [--nodes 16] [--rate 100mbit] [--mib 256] [--layers 1] [--modes swarm,hybrid,tree2,tree1,star] [--rounds 1] [--readers 1] [--json FILE]

--layers 2 is Kraken's shape, by libtorrent: one image of two layers, of --mib MiB each (Kraken's authors had 3 GB together).

swarm and hybrid are two stripes with `[swarm] transport` set on every node. `served` is what registry and proxy have sent over the
layer's bytes, `sent` the most that a node has, `by swarm` the part of a node's bytes that came by BitTorrent, `cpu` the processor seconds of all agents per GiB that
arrived. The last --readers nodes have the image mounted and read
4 KiB of it at random places, twenty times a second, while it comes: `read` is the median and the 99th percentile of what that took, in
milliseconds. Every node's layers are compared with their digests at the end.
"""
import argparse
import os
import random
import sys
import tempfile
import threading
import time

from lablib import Lab, MODES, bits_per_second, finish_all, json_lines, mount_all, percentiles, summary

SWARM = """
[swarm]
transport = "{transport}"
address = "0.0.0.0:4653"
tracker = "http://{manager}:4651"
"""


def processor_seconds(lab):
    ticks = 0
    for node in lab.nodes:
        with open(f"{lab.directory}/nodes/{node}/pid", encoding="ascii") as f:
            pid = f.read().split()[0]
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            fields = f.read().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Reader(threading.Thread):
    """Reads 4 KiB at random places until stop() is called."""

    def __init__(self, path, seed):
        super().__init__(daemon=True)
        self.path, self.random, self.took, self.ending = path, random.Random(seed), [], threading.Event()

    def run(self):
        size = os.path.getsize(self.path)
        with open(self.path, "rb", buffering=0) as f:
            while not self.ending.wait(0.05):
                begin = time.monotonic()
                if len(os.pread(f.fileno(), 4096, self.random.randrange(size // 4096) * 4096)) != 4096:
                    raise OSError("short read")
                self.took.append(time.monotonic() - begin)

    def stop(self):
        self.ending.set()
        self.join(timeout=30)


def fill(lab, image, readers):
    mounted, _ = mount_all(lab, lab.nodes[len(lab.nodes) - readers:], image, "read") if readers else ({}, {})
    before, processor = lab.stats(), processor_seconds(lab)
    start = time.monotonic()
    prefetches = {node: lab.start(node, "-q", "prefetch", f"{lab.registry}/{image}:1") for node in lab.nodes}
    reading = [Reader(path, number) for number, path in enumerate(mounted.values())]
    for reader in reading:
        reader.start()
    seconds = {node: ended - start for node, ended in finish_all(prefetches).items()}
    for reader in reading:
        reader.stop()
    processor = processor_seconds(lab) - processor
    after = lab.stats()
    wrong = [problem for node in lab.nodes if (problem := lab.check_blobs(node, image))]
    if wrong:
        sys.exit("\n".join(wrong))
    size = sum(blob["size"] for blob in lab.data_blobs(image))
    served = sum(after[name]["sent"] - before[name]["sent"] for name in ("proxy", "registry"))
    most_sent = max(after[node]["sent"] - before[node]["sent"] for node in lab.nodes)
    ideal = size * 8 / bits_per_second(lab.rate)
    by_swarm = sum(value for node in lab.nodes for name, value in lab.metrics(node).items()
                   if name == "banyan_swarm_committed_bytes_total")
    figures = {"nodes": len(lab.nodes), "rate": lab.rate, "bytes": size, "ideal": ideal, **summary(seconds.values()),
               "served": served / size, "most_sent": most_sent / size, "by_swarm": by_swarm / size / len(lab.nodes),
               "cpu_per_gib": processor / (size * len(lab.nodes) / 2**30), "seconds": seconds,
               "read": percentiles([took for reader in reading for took in reader.took])}
    figures["x_link"] = figures["last"] / ideal
    return figures


def run(mode, arguments, image):
    if mode in MODES:
        with Lab(arguments.nodes, mode, arguments.rate, [image]) as lab:
            return fill(lab, image, arguments.readers)
    # The manager's address is the same in every lab; it is in what the lab says of itself.
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as toml:
        toml.write(SWARM.format(transport=mode, manager=arguments.manager))
        toml.flush()
        with Lab(arguments.nodes, "tree2", arguments.rate, [image], ("--agent-toml", toml.name)) as lab:
            return fill(lab, image, arguments.readers)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--rate", default="100mbit")
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--modes", default="swarm,hybrid,tree2,tree1,star")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--manager", default="10.77.0.4", help="its address in the lab")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    print(f"{'mode':7} {'nodes':>5} {'MiB':>5} {'link s':>7} {'first':>7} {'median':>7} {'last':>7} {'x link':>7} {'served':>7} {'sent':>5} "
          f"{'by swarm':>8} {'cpu/GiB':>8} {'read ms':>14}")
    image = f"random-{arguments.mib}" + (f"x{arguments.layers}" if arguments.layers > 1 else "")
    put = json_lines(arguments.json)
    for _ in range(arguments.rounds):
        for mode in arguments.modes.split(","):
            f = {"mode": mode, **run(mode, arguments, image)}
            put(f)
            print(f"{mode:7} {f['nodes']:5} {f['bytes'] >> 20:5} {f['ideal']:7.2f} {f['first']:7.2f} {f['median']:7.2f} {f['last']:7.2f} "
                  f"{f['x_link']:7.2f} {f['served']:7.3f} {f['most_sent']:5.2f} {f['by_swarm']:8.2f} {f['cpu_per_gib']:8.2f} "
                  f"{f['read']['p50'] * 1e3:6.1f} {f['read']['p99'] * 1e3:7.1f}", flush=True)


if __name__ == "__main__":
    main()
