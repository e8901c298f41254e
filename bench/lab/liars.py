#!/usr/bin/env -S python3 -B
"""Nodes whose peer lies to them (hostile_peer.py): no wrong byte may reach a reader, or another node.

    liars.py [--nodes 6] [--rate 30mbit] [--mib 24] [--lies flip,lengths,slow,other,miss,waits,empty] [--check] [--json FILE]

n1 and n2 join first, so that they feed others; the filters before them let all pass at first. Every other node but the last mounts an image and
reads it at 60 % of its link, each piece compared with its digest; at a quarter of the time n1 and n2 begin to lie. Two seconds later
the last node starts, among liars from the beginning.

`stall`: the longest read from then on. `start`: how long the last node's mount took. `asks`: how often one node asked one liar, at most, while it
lied. `named`: the nodes that the metrics of the honest ones accuse, by kind of fault. Bars: right bytes; whoever is accused lies (an
honest node that had passed on a wrong byte would be accused as well); a lie that can be told from bad luck is named, and its teller not asked again and again.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import time

from faults import children, parents_of
from lablib import Lab, bits_per_second, mount_all, percentiles
from readers import PacedReader, random_image_pieces

LIES = ["flip", "lengths", "slow", "other", "miss", "waits", "empty"]
# What a child must call it. A node that says it has nothing, or waits, may be honest.
FAULT_OF = {"flip": "bad_bytes", "lengths": "bad_bytes", "slow": "slow", "other": "bad_bytes", "empty": "unreachable"}
LIARS = ["n1", "n2"]
PACE = 0.6
PEER_PORT, AGENT_PORT = 4640, 4641
MOST_ASKS = 24  # what may be under way, or tried again, before a liar is known


class Filter:
    """A hostile peer before a node's agent, honest until told otherwise."""

    def __init__(self, lab, node):
        self.directory, self.mode_file = f"{lab.directory}/nodes/{node}", f"{lab.directory}/nodes/{node}/mode"
        config = f"{self.directory}/config.toml"
        with open(config, encoding="utf-8") as f:
            text = f.read()
        address = re.search(r'\naddress = "([0-9.]+):4640"', text)[1]
        text = text.replace(f'address = "{address}:{PEER_PORT}"', f'address = "{address}:{AGENT_PORT}"\nadvertise = "{address}:{PEER_PORT}"')
        lab.sh("stop", node)
        with open(config, "w", encoding="utf-8") as f:
            f.write(text)
        self.set_mode("honest")
        self.process = subprocess.Popen(
            ["nsenter", f"--net={lab.env['LAB_NAMESPACES']}{node}", sys.executable, "-B", f"{os.path.dirname(os.path.realpath(__file__))}/hostile_peer.py",
             address, str(PEER_PORT), str(AGENT_PORT), f"{lab.directory}/registry/data/docker/registry/v2/blobs/sha256", self.mode_file,
             f"{self.directory}/lies"], stdin=subprocess.DEVNULL)
        lab.sh("start", node)

    def set_mode(self, mode):
        with open(self.mode_file + ".new", "w", encoding="utf-8") as f:
            f.write(mode)
        os.rename(self.mode_file + ".new", self.mode_file)

    def asks(self):
        """{node: asks while it lied}."""
        counts = {}
        with open(f"{self.directory}/lies", encoding="utf-8") as f:
            for line in f:
                counts[line.split(" ")[2]] = counts.get(line.split(" ")[2], 0) + 1
        return counts

    def end(self):
        self.process.kill()
        self.process.wait()


def accusations(lab, nodes):
    """{"kind": {accused nodes}} of these nodes' metrics."""
    named = {}
    for node in nodes:
        for metric, value in lab.metrics(node).items():
            found = re.fullmatch(r"banyan_peer_faults_total\{(.*)\}", metric)
            if found and value > 0:
                labels = dict(re.findall(r'(\w+)="([^"]*)"', found[1]))
                named.setdefault(labels["kind"], set()).add(labels.get("node", "?"))
    return named


def run_lie(arguments, lie, pieces):
    image = f"random-{arguments.mib}"
    filters = []
    with Lab(arguments.nodes, "tree2", arguments.rate, [image]) as lab:
        try:
            filters += [Filter(lab, node) for node in LIARS]
            for node in LIARS:
                mount_all(lab, [node], image, "mnt")
            *readers_at, newcomer = [node for node in lab.nodes if node not in LIARS]
            files, _ = mount_all(lab, readers_at, image, "mnt")
            time.sleep(1)
            fed = set().union(*(children(parents_of(lab.tree(image)), liar) for liar in LIARS)) - set(LIARS)
            pace = PACE * bits_per_second(arguments.rate) / 8
            readers = [PacedReader(node, path, pace, pieces, "random") for node, path in files.items()]
            for reader in readers:
                reader.start()
            time.sleep(len(readers[0].order) * readers[0].interval / 4)
            began = time.monotonic()
            for one in filters:
                one.set_mode(lie)
            time.sleep(2)
            files, times = mount_all(lab, [newcomer], image, "mnt")
            readers.append(PacedReader(newcomer, files[newcomer], pace, pieces, "random"))
            readers[-1].start()
            for reader in readers:
                reader.join()
            named = accusations(lab, [reader.node for reader in readers])
            asks = [count for one in filters for node, count in one.asks().items() if node not in LIARS]
            return {"lie": lie, "nodes": arguments.nodes, "rate": arguments.rate, "mib": arguments.mib, "fed": sorted(fed), "start": times[newcomer],
                    "before": percentiles([s for reader in readers for s in reader.latencies(until=began)]),
                    "after": percentiles([s for reader in readers for s in reader.latencies(since=began)]),
                    "wrong": [f"{reader.node}: {what}" for reader in readers for what in reader.wrong],
                    "asks": max(asks, default=0), "all_asks": sum(asks), "named": {kind: sorted(nodes) for kind, nodes in named.items()}}
        finally:
            for one in filters:
                one.end()


def misses(arguments, result):
    lie, named = result["lie"], result["named"]
    missed = list(result["wrong"])
    honest = {node for nodes in named.values() for node in nodes} - set(LIARS)
    if honest:
        missed.append(f"honest nodes are accused: {sorted(honest)}")
    if result["asks"] == 0:
        missed.append("nobody asked a liar")
    elif lie in FAULT_OF and not named.get(FAULT_OF[lie]):
        missed.append(f"no metric says {FAULT_OF[lie]}")
    if lie in FAULT_OF and result["asks"] > MOST_ASKS:
        missed.append(f"a node asked a liar {result['asks']} times")
    if result["after"]["max"] > arguments.stall:
        missed.append(f"a read stalled for {result['after']['max']:.2f} s ({arguments.stall})")
    return [f"{lie}: {line}" for line in missed]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=6)
    parser.add_argument("--rate", default="30mbit")
    parser.add_argument("--mib", type=int, default=24)
    parser.add_argument("--lies", default=",".join(LIES))
    parser.add_argument("--stall", type=float, default=10.0, help="bar of the longest read")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    pieces = random_image_pieces(f"random-{arguments.mib}")
    results, missed = [], []
    print(f"{'lie':8} {'before':>7} {'p50':>6} {'p99':>6} {'stall':>6} {'start':>6} {'fed':>4} {'asks':>5} {'wrong':>6}  named")
    for lie in arguments.lies.split(","):
        result = run_lie(arguments, lie, pieces)
        results.append(result)
        after = result["after"]
        print(f"{lie:8} {result['before']['max']:7.2f} {after['p50']:6.2f} {after['p99']:6.2f} {after['max']:6.2f} {result['start']:6.2f} "
              f"{len(result['fed']):4} {result['asks']:5} {len(result['wrong']):6}  {result['named']}", flush=True)
        for line in misses(arguments, result):
            missed.append(line)
            print(f"missed: {line}", flush=True)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as out:
            for result in results:
                print(json.dumps(result), file=out)
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
