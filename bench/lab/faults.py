#!/usr/bin/env -S python3 -B
"""What readers notice when nodes, links, the manager or the proxy fail in the middle of a stream.

    faults.py [--nodes 16] [--rate 50mbit] [--mib 64] [--cases none,interior,cut,root,third,churn,manager,both]
              [--mode tree2] [--check] [--kill-stall 1.0] [--cut-stall 3.0] [--served 1.05] [--json FILE]

Every node mounts one image and reads its file from beginning to end; at a third of the time
  interior  a node that feeds others is killed with -9     cut    the same node falls silent (its link drops packets)
  root      the node that the proxy feeds in stripe 0 is killed   third  a third of the nodes at once
  churn     every second somebody leaves or joins           manager   the tree-manager is killed, and is back 4 s later
  both      manager and proxy are killed; the nodes go on from each other and from the registry
`stall` is the longest read of any survivor that was waiting at the fault or later, `moved` how many nodes have other parents 5 s
after it, of them `own` were children of the dead. `mended` is how long the manager's tree still named the dead as a parent; `proxy` what registry and
proxy sent, over the layer.
"""
import argparse
import json
import random
import sys
import threading
import time

from lablib import Lab, bits_per_second, finish_all
from readers import Reader, random_image_digest

CASES = ["none", "interior", "cut", "root", "third", "churn", "manager", "both"]


def parents_of(tree):
    return {n["node"]: n["parents"] for n in tree["nodes"]}


def children(parents, node):
    return {child for child, up in parents.items() if node in up}


def victims_of(case, parents):
    """Nodes to kill or cut. Deterministic: the first that fits."""
    names = sorted(parents, key=lambda n: int(n[1:]))
    feeders = [n for n in names if children(parents, n)]
    if case in ("interior", "cut"):
        return [next((n for n in feeders if "" not in parents[n]), feeders[0])]
    if case == "root":
        return [next(n for n in feeders if parents[n][0] == "")]
    if case == "third":
        return random.Random(1).sample(names, len(names) // 3)
    return []


def churn(lab, nodes, image, stop):
    """One of `nodes` leaves (politely or not), and comes back empty, joining again; then the next."""
    source = random.Random(2)
    while not stop.is_set():
        node = source.choice(nodes)
        lab.sh(source.choice(["stop", "kill"]), node)
        stop.wait(1)
        lab.sh("wipe", node)
        lab.sh("start", node)
        lab.start(node, "-q", "prefetch", f"{lab.registry}/{image}:1")
        stop.wait(1)


class TreeWatch(threading.Thread):
    """Polls the manager's tree; notes when it no longer names any of the dead as a parent."""

    def __init__(self, lab, image, dead):
        super().__init__(daemon=True)
        self.lab, self.image, self.dead = lab, image, set(dead)
        self.began, self.mended, self.stop = time.monotonic(), None, threading.Event()

    def run(self):
        while not self.stop.wait(0.2):
            try:
                parents = parents_of(self.lab.tree(self.image))
            except Exception:  # the manager is away, or was asked in the middle of its start
                continue
            if not any(self.dead & set(up) for node, up in parents.items() if node not in self.dead):
                self.mended = time.monotonic() - self.began
                return


def run_case(arguments, case, digest):
    image = f"random-{arguments.mib}"
    with Lab(arguments.nodes, arguments.mode, arguments.rate, [image]) as lab:
        size = lab.data_blobs(image)[0]["size"]
        ideal = size * 8 / bits_per_second(arguments.rate)
        mounts = {node: f"{lab.directory}/mnt/{node}" for node in lab.nodes}
        finish_all({node: lab.start(node, "-q", "mount", f"docker://{lab.registry}/{image}:1", path)
                    for node, path in mounts.items()})
        time.sleep(1)
        lab.mark()
        before = parents_of(lab.tree(image)) if lab.mode != "star" else {}
        victims = victims_of(case, before) if before else lab.nodes[:1] if case in ("interior", "cut") else []
        # Those that come and go read nothing: they are not survivors.
        restless = lab.nodes[-max(2, len(lab.nodes) // 4):] if case == "churn" else []
        readers = {node: Reader(node, f"{path}/random.bin") for node, path in mounts.items() if node not in restless}
        start = time.monotonic()
        for reader in readers.values():
            reader.start()
        time.sleep(ideal / 3)
        result = {"case": case, "mode": arguments.mode, "nodes": arguments.nodes, "rate": arguments.rate, "bytes": size, "ideal": ideal,
                  "victims": victims}
        survivors = [readers[node] for node in lab.nodes if node in readers and node not in victims]
        fault = time.monotonic()
        stop = threading.Event()
        if case == "churn":
            threading.Thread(target=churn, args=(lab, restless, image, stop), daemon=True).start()
        for victim in victims:
            lab.sh("cut" if case == "cut" else "kill", victim)
        watch = TreeWatch(lab, image, victims)
        if before and victims:
            watch.start()
        if case in ("manager", "both"):
            lab.sh("kill", "manager")
        if case == "both":
            lab.sh("kill", "proxy")
        if case == "manager":
            time.sleep(4)
            lab.sh("start", "manager")
        if before and case not in ("both", "churn"):
            time.sleep(max(0, fault + 5 - time.monotonic()))
            after = parents_of(lab.tree(image))
            moved = {node for node in after if node not in victims and after[node] != before.get(node)}
            orphans = set().union(*(children(before, victim) for victim in victims)) - set(victims)
            result |= {"moved": sorted(moved), "own": sorted(moved & orphans), "orphans": sorted(orphans)}
        for reader in survivors:
            reader.join()
        stop.set()
        watch.stop.set()
        links = lab.stats()
        result |= {
            "last": max(reader.ended for reader in survivors) - start,
            "stall": max(reader.longest_stall(fault) for reader in survivors),
            "stall_before": max(reader.longest_stall(0, fault) for reader in survivors),
            "stalls": {reader.node: reader.longest_stall(fault) for reader in survivors},
            "wrong": [f"{reader.node}: {reader.error or 'wrong bytes'}" for reader in survivors if reader.digest != digest],
            "mended": watch.mended, "served": (links["proxy"]["sent"] + links["registry"]["sent"]) / size, "links": links}
        stop.wait(0.1)
        if case == "churn":
            time.sleep(3)  # its last command
        return result


def misses(arguments, result):
    limit = arguments.cut_stall if result["case"] == "cut" else arguments.kill_stall
    missed = list(result["wrong"])
    if result["stall"] > limit:
        missed.append(f"a read stalled for {result['stall']:.2f} s ({limit})")
    if result["case"] not in ("both", "churn") and result["served"] > arguments.served * (1.2 if result["case"] == "third" else 1):
        missed.append(f"registry and proxy sent {result['served']:.3f} x the layer ({arguments.served})")
    # A leave may move up to 6 edges; others than the dead node's children move only to fill its place.
    if result["case"] in ("interior", "cut", "root") and "moved" in result and len(set(result["moved"]) - set(result["orphans"])) > 4:
        missed.append(f"moved: {result['moved']}, though only {result['orphans']} had lost a parent")
    if result["case"] == "manager" and result.get("moved"):
        missed.append(f"the manager's return moved {result['moved']}")
    if result["victims"] and "moved" in result and (result["mended"] or 99) > (10 if result["case"] == "cut" else 5):
        missed.append(f"the tree named the dead for {result['mended']} s")
    return [f"{result['case']}: {line}" for line in missed]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--rate", default="50mbit")
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--mode", default="tree2")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--kill-stall", type=float, default=1.0)
    parser.add_argument("--cut-stall", type=float, default=3.0)
    parser.add_argument("--served", type=float, default=1.05)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    digest = random_image_digest(f"random-{arguments.mib}")
    results, missed = [], []
    print(f"{'case':9} {'link s':>7} {'last':>7} {'x link':>7} {'stall':>7} {'before':>7} {'moved':>6} {'own':>4} {'mended':>7} {'proxy':>7}")
    for case in arguments.cases.split(","):
        r = run_case(arguments, case, digest)
        results.append(r)
        mended = "-" if r["mended"] is None else f"{r['mended']:.2f}"
        print(f"{case:9} {r['ideal']:7.2f} {r['last']:7.2f} {r['last'] / r['ideal']:7.2f} {r['stall']:7.2f} {r['stall_before']:7.2f} "
              f"{len(r.get('moved', [])):6} {len(r.get('own', [])):4} {mended:>7} {r['served']:7.3f}", flush=True)
        for line in misses(arguments, r):
            missed.append(line)
            print(f"missed: {line}", flush=True)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as out:
            for r in results:
                print(json.dumps(r), file=out)
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
