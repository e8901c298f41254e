#!/usr/bin/env -S python3 -B
"""One image of incompressible bytes to N empty nodes at once: how long, and who sent what.

    fill.py [--nodes 16] [--rate 100mbit] [--mib 256] [--modes tree2,tree1,star] [--rounds 1] [--check]
            [--slow n3=50mbit] [--bar 1.15] [--bar-slow 1.3] [--bar-served 1.05] [--json FILE]

Modes take turns. All nodes' time begins when they are asked, all at once (bench/prefetch_many.cc). `x link` is the longest time over
size ÷ link. `served` is what registry and proxy have sent, map and metadata included, over the layer's bytes, by the
counters of the switch's ports. Every node's layers are compared with their digests at the end. --slow: a node whose uplink is
less. --nodes, --mib may be lists: 8,16,32. --check: exit 1 when a bar is missed.
"""
import argparse
import statistics
import sys

from lablib import Lab, bits_per_second, json_lines, summary


def fill(lab, image):
    """Every node prefetches the image; returns one line of figures."""
    before = lab.stats()
    seconds = lab.finish_prefetch(lab.begin_prefetch(image))
    depths = {} if lab.mode == "star" else {n["node"]: max(n["depths"]) for n in lab.tree(image)["nodes"]}
    after = lab.stats()
    links = {name: {way: after[name][way] - before[name][way] for way in ("sent", "received")} for name in after}
    wrong = [problem for node in lab.nodes if (problem := lab.check_blobs(node, image))]
    if wrong:
        sys.exit("\n".join(wrong))
    size = sum(blob["size"] for blob in lab.data_blobs(image))
    figures = {"mode": lab.mode, "nodes": len(lab.nodes), "rate": lab.rate, "image": image, "bytes": size,
               "ideal": size * 8 / bits_per_second(lab.rate), **summary(seconds.values()),
               "served": (links["proxy"]["sent"] + links["registry"]["sent"]) / size,
               "depth": max(depths.values(), default=1), "seconds": seconds, "links": links, "depths": depths}
    figures["x_link"] = figures["last"] / figures["ideal"]
    return figures


def misses(figures, slow, arguments):
    """What of the bars for trees these figures miss; the one for the last node is for two stripes."""
    missed = []
    ideal, depth = figures["ideal"], figures["depth"]
    if slow and figures["mode"] == "tree2":
        worst = max(seconds for node, seconds in figures["seconds"].items() if node not in slow)
        if worst > arguments.bar_slow * ideal:
            missed.append(f"a node that is not slow took {worst / ideal:.2f} x size / link ({arguments.bar_slow})")
    elif figures["mode"] == "tree2" and figures["last"] > max(arguments.bar * ideal, 1.08 * ideal + depth * 0.04 + 0.3):
        missed.append(f"the last node took {figures['x_link']:.2f} x size / link ({arguments.bar})")
    if figures["served"] > arguments.bar_served:
        missed.append(f"registry and proxy sent {figures['served']:.3f} x the layer ({arguments.bar_served})")
    return missed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="16")
    parser.add_argument("--rate", default="100mbit")
    parser.add_argument("--mib", default="256")
    parser.add_argument("--modes", default="tree2,tree1,star")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--slow", action="append", default=[])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--bar", type=float, default=1.15)
    parser.add_argument("--bar-slow", type=float, default=1.3)
    parser.add_argument("--bar-served", type=float, default=1.05)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    slow = dict(item.split("=", 1) for item in arguments.slow)
    put, missed = json_lines(arguments.json), []
    print(f"{'mode':6} {'nodes':>5} {'MiB':>5} {'link s':>7} {'first':>7} {'median':>7} {'last':>7} {'x link':>7} {'served':>7} "
          f"{'sent by a node':>15} {'depth':>5}")
    for nodes in map(int, arguments.nodes.split(",")):
        for mib in arguments.mib.split(","):
            for _ in range(arguments.rounds):
                for mode in arguments.modes.split(","):
                    image = f"random-{mib}"
                    with Lab(nodes, mode, arguments.rate, [image]) as lab:
                        for node, rate in slow.items():
                            lab.sh("slow", node, "--up", rate)
                        f = fill(lab, image)
                    f["slow"] = slow
                    put(f)
                    sent = [f["links"][node]["sent"] / f["bytes"] for node in f["seconds"]]
                    print(f"{mode:6} {nodes:5} {mib:>5} {f['ideal']:7.2f} {f['first']:7.2f} {f['median']:7.2f} {f['last']:7.2f} "
                          f"{f['x_link']:7.2f} {f['served']:7.3f} {statistics.median(sent):6.2f} to {max(sent):5.2f} {f['depth']:5}",
                          flush=True)
                    if mode != "star":
                        missed += misses(f, slow, arguments)
    for line in missed:
        print(f"missed: {line}")
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
