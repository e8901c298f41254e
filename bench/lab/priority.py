#!/usr/bin/env -S python3 -B
"""Demand reads through three hops, on an idle tree and with every uplink full of background fill.

    priority.py [--rate 100mbit] [--reads 60] [--fill-mib 256] [--check] [--json FILE]

Seven nodes in one tree, so that a node of depth 3 reads what nobody on its way holds yet: proxy, two relays, the node. It reads single pages
of an image, one at a time, at places that nobody has read; first while all is idle, then while all nodes fill another image
in the background. The idle tree's median is compared with three times what the mean read's bytes take on the node's link, its p99 with three times
what the largest chunk takes: chunks are of 64 to 512 KiB, 256 KiB on average, and about half of all random pages lie in one of the largest. Idle is the
tree but for what these reads cause: the other nodes learn what was touched, and prefetch it.
"""
import argparse
import json
import statistics
import sys
import time

from lablib import Lab, bits_per_second, finish_all
from readers import random_latencies

NODES = 7
HOPS = 3
LARGEST_CHUNK = 512 << 10  # of layers of 128 MiB and more (docs/format.md)


def percentiles(latencies):
    ordered = sorted(latencies)
    return {"p50": statistics.median(ordered), "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], "reads": len(ordered)}


def measure(lab, path, reader, reads, seed, rate):
    lab.mark()
    began = time.monotonic()
    latencies = random_latencies(path, reads, seed)
    seconds = time.monotonic() - began
    links = lab.stats()
    return percentiles(latencies) | {
        "received_per_read": links[reader]["received"] / len(latencies),
        "uplinks": {node: links[node]["sent"] * 8 / seconds / rate for node in lab.nodes} | {"proxy": links["proxy"]["sent"] * 8 / seconds / rate}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", default="100mbit")
    parser.add_argument("--reads", type=int, default=60)
    parser.add_argument("--fill-mib", type=int, default=256)
    parser.add_argument("--stripes", choices=["1", "2"], default="1")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    rate = bits_per_second(arguments.rate)
    # Two images, so that each phase reads what nobody has read.
    quiet, busy, filled = "random-255", "random-254", f"random-{arguments.fill_mib}"
    with Lab(NODES, f"tree{arguments.stripes}", arguments.rate, [quiet, busy, filled]) as lab:
        def mount(image, *options):
            finish_all({node: lab.start(node, "-q", "mount", *options, f"docker://{lab.registry}/{image}:1",
                                        f"{lab.directory}/mnt/{node}/{image}") for node in lab.nodes})
        mount(quiet)
        mount(busy)
        time.sleep(1)
        def deepest(image):
            return max(lab.tree(image)["nodes"], key=lambda n: min(n["depths"]))
        reader = deepest(quiet)
        if min(reader["depths"]) < HOPS:
            sys.exit(f"no node is {HOPS} deep: {reader}")
        idle = measure(lab, f"{lab.directory}/mnt/{reader['node']}/{quiet}/random.bin", reader["node"], arguments.reads, 1, rate)
        reader = deepest(busy)
        mount(filled, "--fill")
        time.sleep(2)
        full = measure(lab, f"{lab.directory}/mnt/{reader['node']}/{busy}/random.bin", reader["node"], arguments.reads, 2, rate)
    transfer = HOPS * idle["received_per_read"] * 8 / rate
    largest = HOPS * LARGEST_CHUNK * 8 / rate
    result = {"rate": arguments.rate, "hops": HOPS, "transfer": transfer, "largest": largest, "idle": idle, "full": full}
    print(f"{'tree':5} {'reads':>5} {'p50 ms':>8} {'p99 ms':>8} {'KiB a read':>10} {'uplinks in use':>15}")
    for name in ("idle", "full"):
        f = result[name]
        print(f"{name:5} {f['reads']:5} {f['p50'] * 1e3:8.1f} {f['p99'] * 1e3:8.1f} {f['received_per_read'] / 1024:10.0f} "
              f"{statistics.mean(f['uplinks'].values()):14.0%}")
    print(f"three transfers: {transfer * 1e3:.1f} ms; idle p50 {idle['p50'] / transfer:.2f} x of it (1.5); of the largest chunk "
          f"{largest * 1e3:.1f} ms; idle p99 {idle['p99'] / largest:.2f} x of it (1.5); full against idle: p50 {full['p50'] / idle['p50']:.2f} x, p99 {full['p99'] / idle['p99']:.2f} x (3)")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as out:
            print(json.dumps(result), file=out)
    missed = idle["p50"] > 1.5 * transfer or idle["p99"] > 1.5 * largest or full["p50"] > 3 * idle["p50"] or full["p99"] > 3 * idle["p99"]
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
