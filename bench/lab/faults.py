#!/usr/bin/env -S python3 -B
"""What readers notice when nodes, links, the manager or the proxy fail while they read.

    faults.py [--nodes 8] [--rate 100mbit] [--mib 64] [--pace 0.6] [--orders in,random] [--mode tree2] [--json FILE]
              [--cases none,interior,cut,leaf,root,third,churn,proxy,manager,both]
              [--check] [--kill-stall 1.0] [--cut-stall 3.0] [--served-rise 1.05]

Every node mounts one image and reads its file, in order or at random (all in the same order, as starts of one image do), at `pace` of its
link, so that a long read is the fault's doing and not the link's. (A chunk of 512 KiB takes its time on each of the hops, though: 0.14 s at 30
Mbit/s, 0.04 at 100.) At a third of the time
  interior  a node that feeds others is killed with -9            cut    the same node falls silent (its link drops packets)
  root      the node that the proxy feeds in stripe 0 is killed   third  a third of the nodes at once
  leaf      the node that feeds the fewest falls silent; nobody with one stripe, where so no child reports it
  churn     every second somebody leaves (politely or not) or joins
  proxy     the proxy is killed       manager   the tree-manager is killed, and is back 4 s later       both   manager and proxy are killed
In the last three, two nodes start another image, which nobody has, half a second after the fault: `start` is how long mounting it and its first read take.

Seconds: p50, p99 and the longest of all reads before the fault, and p50, p99 and the longest (`stall`) of the survivors' reads that
waited at the fault or later. `moved`: nodes with other parents 5 s after it, of them `own` were children of the dead. `mended`: until the
manager's trees did not have the dead any more. `proxy`: what registry and proxy sent, over the layer; `rise`: that over the same of
the run without a fault (case none, the same order).
"""
import argparse
import random
import subprocess
import sys
import threading
import time

from lablib import Lab, bits_per_second, json_lines, mount_all, percentiles
from readers import PacedReader, random_image_pieces

CASES = ["none", "interior", "cut", "leaf", "root", "third", "churn", "proxy", "manager", "both"]
SILENT = ("cut", "leaf")
SERVERS = {"proxy": ["proxy"], "manager": ["manager"], "both": ["manager", "proxy"]}
OTHER_IMAGE = "random-8"
MANAGER_AWAY = 4


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
    if case == "leaf":
        return [next((n for n in reversed(names) if n not in feeders), min(names, key=lambda n: len(children(parents, n))))]
    if case == "root":
        return [next(n for n in feeders if parents[n][0] == "")]
    if case == "third":
        return random.Random(1).sample(names, len(names) // 3)
    return []


class Churn(threading.Thread):
    """One of `nodes` leaves, and comes back empty, joining again; then the next."""

    def __init__(self, lab, nodes, image):
        super().__init__(daemon=True)
        self.lab, self.nodes, self.image, self.stop, self.begun = lab, nodes, image, threading.Event(), []

    def run(self):
        source = random.Random(2)
        while not self.stop.is_set():
            node = source.choice(self.nodes)
            self.lab.sh(source.choice(["stop", "kill"]), node)
            self.stop.wait(1)
            self.lab.sh("wipe", node)
            self.lab.sh("start", node)
            self.begun.append(self.lab.start(node, "-q", "prefetch", f"{self.lab.registry}/{self.image}:1", stderr=subprocess.DEVNULL))
            self.stop.wait(1)

    def end(self):
        self.stop.set()
        self.join()
        for process in self.begun:
            process.kill()
            process.wait()


class TreeWatch(threading.Thread):
    """Polls the manager's trees; notes when none of the dead is in them any more."""

    def __init__(self, lab, image, dead, since):
        super().__init__(daemon=True)
        self.lab, self.image, self.dead, self.since = lab, image, set(dead), since
        self.mended, self.stop = None, threading.Event()

    def run(self):
        while not self.stop.wait(0.1):
            parents = parents_of(self.lab.tree(self.image))
            if not self.dead & (set(parents) | {parent for up in parents.values() for parent in up}):
                self.mended = time.monotonic() - self.since
                return


def start_another(lab, nodes):
    """Mounts OTHER_IMAGE and reads from it; returns the seconds until each has, or an error's text."""
    began = time.monotonic()
    try:
        files, _ = mount_all(lab, nodes, OTHER_IMAGE, "other")
        times = {}
        for node, path in files.items():
            with open(path, "rb") as f:
                f.read(64 << 10)
            times[node] = time.monotonic() - began
        return times
    except Exception as error:
        return str(error)


def fail(lab, case, victims):
    """Does what the case says. Returns when it has been done."""
    command = "cut" if case in SILENT else "kill"
    for process in [lab.begin_sh(command, name) for name in victims + SERVERS.get(case, [])]:
        if process.wait() != 0:
            raise RuntimeError(f"{case}: {command} failed")


def moves(before, after, victims):
    moved = {node for node in after if node in before and node not in victims and after[node] != before[node]}
    orphans = set().union(*(children(before, victim) for victim in victims)) - set(victims)
    return {"moved": sorted(moved), "own": sorted(moved & orphans), "orphans": sorted(orphans)}


def run_case(arguments, case, order, pieces):
    image = f"random-{arguments.mib}"
    images = [image, OTHER_IMAGE] if case in SERVERS else [image]
    with Lab(arguments.nodes, arguments.mode, arguments.rate, images) as lab:
        size = lab.data_blobs(image)[0]["size"]
        pace = arguments.pace * bits_per_second(arguments.rate) / 8
        files, _ = mount_all(lab, lab.nodes, image, "mnt")
        time.sleep(1)
        lab.mark()
        before = parents_of(lab.tree(image))
        victims = victims_of(case, before)
        # Those that come and go read nothing: they are not survivors.
        restless = lab.nodes[-max(2, len(lab.nodes) // 4):] if case == "churn" else []
        readers = {node: PacedReader(node, path, pace, pieces, order)
                   for node, path in files.items() if node not in restless}
        for reader in readers.values():
            reader.start()
        time.sleep(size / pace / 3)
        survivors = [reader for node, reader in readers.items() if node not in victims]
        result = {"case": case, "order": order, "mode": arguments.mode, "nodes": arguments.nodes, "rate": arguments.rate, "pace": arguments.pace,
                  "bytes": size, "victims": victims}
        churn = Churn(lab, restless, image) if restless else None
        fault = time.monotonic()
        fail(lab, case, victims)
        watch = TreeWatch(lab, image, victims, fault) if victims else None
        for thread in filter(None, (churn, watch)):
            thread.start()
        if case in SERVERS:
            time.sleep(0.5)
            result["start"] = start_another(lab, lab.nodes[-2:])
        if case == "manager":
            time.sleep(max(0, fault + MANAGER_AWAY - time.monotonic()))
            lab.sh("start", "manager")
        if case not in ("both", "churn", "none"):
            time.sleep(max(0, fault + (MANAGER_AWAY + 5 if case == "manager" else 5) - time.monotonic()))
            result |= moves(before, parents_of(lab.tree(image)), victims)
        for reader in survivors:
            reader.join()
        if churn:
            churn.end()
        if watch:
            watch.join(max(0, fault + 15 - time.monotonic()))
            watch.stop.set()
        links = lab.stats()
        late = sorted(((seconds, began - fault, reader.node) for reader in survivors for began, seconds in reader.reads
                       if began + seconds > fault), reverse=True)
        return result | {
            "before": percentiles([s for reader in readers.values() for s in reader.latencies(until=fault)]),
            "after": percentiles([s for reader in survivors for s in reader.latencies(since=fault)]), "latest": late[:12],
            "wrong": [f"{reader.node}: {what}" for reader in survivors for what in reader.wrong or ([] if reader.done else ["not all was read"])],
            "mended": watch.mended if watch else None, "served": (links["proxy"]["sent"] + links["registry"]["sent"]) / size, "links": links}


def misses(arguments, result):
    case = result["case"]
    missed = list(result["wrong"])
    limit = arguments.cut_stall if case in SILENT else arguments.kill_stall
    if result["after"]["max"] > limit:
        missed.append(f"a read stalled for {result['after']['max']:.2f} s ({limit})")
    if case in ("interior", "cut", "leaf", "root") and (result.get("rise") or 0) > arguments.served_rise:
        missed.append(f"registry and proxy sent {result['rise']:.3f} x what they send without a fault ({arguments.served_rise})")
    # Others than the dead node's children move only to fill its place: a leave changes at most 6 edges.
    if case in ("interior", "cut", "leaf", "root") and len(set(result["moved"]) - set(result["orphans"])) > 4:
        missed.append(f"moved: {result['moved']}, though only {result['orphans']} had lost a parent")
    if case == "manager" and result["moved"]:
        missed.append(f"the manager's return moved {result['moved']}")
    if isinstance(result.get("start"), str):
        missed.append(f"a start failed: {result['start']}")
    if result["victims"] and (result["mended"] or 99) > (10 if case in SILENT else 5):
        missed.append(f"the trees had the dead for {result['mended']} s")
    return [f"{case} ({result['order']}): {line}" for line in missed]


HEADINGS = ["p50", "p99", "max", "p50", "p99", "stall", "moved", "own", "mended", "proxy", "rise", "start"]


def row(result):
    def number(value, format_spec):
        return "-" if value is None else format(value, format_spec)
    start = result.get("start")
    slowest = max(start.values()) if isinstance(start, dict) else None
    before, after = result["before"], result["after"]
    return [number(before["p50"], ".2f"), number(before["p99"], ".2f"), number(before["max"], ".2f"), number(after["p50"], ".2f"),
            number(after["p99"], ".2f"), number(after["max"], ".2f"), str(len(result.get("moved", []))), str(len(result.get("own", []))),
            number(result["mended"], ".2f"), number(result["served"], ".3f"), number(result.get("rise"), ".3f"), number(slowest, ".2f")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--rate", default="100mbit")
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--pace", type=float, default=0.6)
    parser.add_argument("--orders", default="in,random")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--mode", default="tree2", choices=["tree2", "tree1"])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--kill-stall", type=float, default=1.0)
    parser.add_argument("--cut-stall", type=float, default=3.0)
    parser.add_argument("--served-rise", type=float, default=1.05)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    pieces = random_image_pieces(f"random-{arguments.mib}")
    put, missed, usual = json_lines(arguments.json), [], {}
    print(f"{'case':16} {'before':>13} {'':6} {'after':>13}\n{'':16} " + " ".join(f"{heading:>6}" for heading in HEADINGS))
    for order in arguments.orders.split(","):
        for case in arguments.cases.split(","):
            result = run_case(arguments, case, order, pieces)
            if case == "none":
                usual[order] = result["served"]
            elif order in usual:
                result["rise"] = result["served"] / usual[order]
            put(result)
            print(f"{case + ' ' + order:16} " + " ".join(f"{cell:>6}" for cell in row(result)), flush=True)
            for line in misses(arguments, result):
                missed.append(line)
                print(f"missed: {line}", flush=True)
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
