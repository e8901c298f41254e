#!/usr/bin/env -S python3 -B
"""The lab and the simulator beside each other: the same nodes, links, bytes and mishaps.

    calibrate.py [--cases 8,16,32,slow,kill] [--rate 40mbit] [--mib 32] [--rounds 1] [--bar 5] [--check] [--json FILE]

What is fitted, and then left alone, comes of three small labs. From a single node that fetches two sizes: `goodput` (payload ÷ rate), `startup`
(what passes before it asks for the first chunk), `acks` (what goes back up for each byte that comes down), and what the switch's ports count for
a byte of payload. From two nodes that the proxy feeds: `unfairness`, how far their shares are apart within 0.1 s. `burst` and `backlog` are those of
the lab's shapers. A case is a number of nodes; `slow`:
16 nodes, one with half an uplink, of which nobody is told; `kill`: 16 nodes, of which one that feeds others is killed after a third of the
time. Of the lab: seconds by the clock, bytes of each link by the switch's ports, bytes of each edge by the kernel (ss). Of the simulator: the
mean over three seeds. `edges` is half the sum of the differences between both lists of edges, the greatest first, in
percent of all bytes. BANYAN_BIN has the programs, banyan-sim among them, unless --sim names it.
"""
import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

from faults import parents_of, victims_of
from lablib import Lab, bits_per_second

SEEDS = (1, 2, 3)
SLOW_NODE = 3  # the lab's n4
SMALL_LAYER = 128 << 20  # below, conversion cuts smaller chunks (docs/format.md)
# The lab's shapers (scripts/lab/network.sh): the bucket, and what may wait in front of it.
BURST = 256 << 10
BACKLOG = "50ms"
SHARE_SECONDS = 0.1  # for which a connection's share lasts in the simulator
SERVER_PORTS = {"4640", "5050"}  # of peers and of the proxy


def edges_of(lab, servers):
    """{(server, client): bytes that the client has acknowledged}, of connections that live."""
    edges = {}
    for name in servers:
        text = subprocess.run(["nsenter", f"--net={lab.env['LAB_NAMESPACES']}{name}", "ss", "-tnHiO", "state", "established"], check=True,
                              text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout
        for line in text.splitlines():
            fields = line.split()
            acked = re.search(r"bytes_acked:(\d+)", line)
            (_, port), (peer, _) = fields[2].rsplit(":", 1), fields[3].rsplit(":", 1)
            node = re.fullmatch(r"10\.77\.1\.(\d+)", peer.strip("[]").removeprefix("::ffff:"))  # as scripts/lab/network.sh gives addresses
            if port in SERVER_PORTS and acked and node:
                edges[name, f"n{node[1]}"] = edges.get((name, f"n{node[1]}"), 0) + int(acked[1])
    return edges


def run_lab(nodes, rate, mib, slow=None, kill_after=None):
    image = f"random-{mib}"
    with Lab(nodes, "tree2", rate, [image]) as lab:
        if slow:
            lab.sh("slow", lab.nodes[SLOW_NODE], "--up", slow)
        before = lab.stats()
        prefetches = lab.begin_prefetch(image)
        victim, of_dead = None, {}
        if kill_after:
            time.sleep(kill_after)
            victim = victims_of("interior", parents_of(lab.tree(image)))[0]
            of_dead = {edge: sent for edge, sent in edges_of(lab, [*lab.nodes, "proxy"]).items() if victim in edge}
            lab.sh("kill", victim)
        seconds = lab.finish_prefetch(prefetches, dead=[victim])
        edges = edges_of(lab, [*lab.nodes, "proxy"]) | of_dead
        after = lab.stats()
        wrong = [problem for node in seconds if (problem := lab.check_blobs(node, image))]
        if wrong:
            sys.exit("\n".join(wrong))
        blobs = lab.artifact(image)
        size = sum(blob["size"] for blob in lab.data_blobs(image))
        fast = [s for node, s in seconds.items() if not slow or node != lab.nodes[SLOW_NODE]]
        sent = {name: after[name]["sent"] - before[name]["sent"] for name in after}
    return {"bytes": size, "metadata": sum(blob["size"] for blob in blobs) - size, "first": min(seconds.values()),
            "median": statistics.median(seconds.values()), "last": max(seconds.values()), "last_fast": max(fast),
            "proxy": sent["proxy"] + sent["registry"], "sent": sorted((sent[node] for node in seconds), reverse=True),
            "edges": sorted(edges.values(), reverse=True), "received": after["n1"]["received"] - before["n1"]["received"],
            "sent_by_n1": sent["n1"]}


def shares_apart(rate, mib):
    """The deviation of the logarithm of a connection's weight, of two that the proxy feeds at once. The logarithm of their ratio has
    twice the variance."""
    image, seen = f"random-{mib}", []
    with Lab(2, "tree2", rate, [image]) as lab:
        prefetches = lab.begin_prefetch(image)
        while prefetches.poll() is None:
            edges = edges_of(lab, ["proxy"])
            seen.append((time.monotonic(), [edges.get(("proxy", node), 0) for node in lab.nodes]))
            time.sleep(SHARE_SECONDS / 4)
        lab.finish_prefetch(prefetches)
    apart, (began, before) = [], seen[0]
    for at, sent in seen[:-8]:  # the end is one stripe's alone
        if at - began < SHARE_SECONDS:
            continue
        shares = [now - then for now, then in zip(sent, before)]
        if before[0] and before[1] and min(shares) > 0:
            apart.append(math.log(shares[0] / shares[1]))
        began, before = at, sent
    return math.sqrt(statistics.mean(value**2 for value in apart) / 2)


def run_sim(sim, lab, fitted, nodes, rate, slow=None, kill_after=None):
    lines = [f"nodes = {nodes}", f"link = {rate}", f"image = {lab['bytes']}", f"metadata = {lab['metadata']}",
             f"up = {bits_per_second(rate) * (1 - fitted['acks']) / 1e3:.1f}kbit", f"proxy = {rate}", f"goodput = {fitted['goodput']:.4f}",
             f"startup = {fitted['startup'] * 1000:.0f}ms", f"burst = {BURST}", f"backlog = {BACKLOG}",
             f"unfairness = {fitted['unfairness']:.3f}", "relay_delay = 3ms",
             f"chunk = {'128KiB' if lab['bytes'] < SMALL_LAYER else '256KiB'}"]
    if slow:
        lines += ["knows_links = no", f"uplink = {SLOW_NODE}: {slow}"]
    if kill_after:
        lines += [f"at {kill_after * 1000:.0f}ms kill interior"]
    runs = []
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as scenario:
        scenario.write("\n".join(lines) + "\n")
        scenario.flush()
        for seed in SEEDS:
            done = subprocess.run([sim, "run", "--json", "--seed", str(seed), scenario.name], text=True, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
            if done.returncode != 0:
                sys.exit(f"{sim} failed with {done.returncode}:\n" + "\n".join(lines))
            runs.append(json.loads(done.stdout.splitlines()[0]))

    def mean(figure):
        return statistics.mean(figure(run) for run in runs)

    def mean_list(figure):
        lists = [sorted(figure(run), reverse=True) for run in runs]
        return [statistics.mean(values) for values in zip(*lists)]

    wire = fitted["wire"]
    return {**{name: mean(lambda run, name=name: run["metrics"][name]) for name in ("first", "median", "last", "last_fast")},
            "proxy": wire * mean(lambda run: run["metrics"]["proxy_bytes"] + run["metrics"]["registry_bytes"]),
            "sent": [wire * sent for sent in mean_list(lambda run: run["sent"][:nodes])],
            "edges": mean_list(lambda run: [edge[2] for edge in run["edges"]])}


def fit(arguments):
    """From one node and two sizes, and from two nodes."""
    small = run_lab(1, arguments.rate, max(1, arguments.mib // 4))
    large = run_lab(1, arguments.rate, arguments.mib)
    payload = {"small": small["bytes"] + small["metadata"], "large": large["bytes"] + large["metadata"]}
    rate = (payload["large"] - payload["small"]) / (large["last"] - small["last"])
    return {"goodput": min(1.0, rate * 8 / bits_per_second(arguments.rate)), "startup": max(0.0, large["last"] - (payload["large"] - BURST) / rate),
            "wire": large["received"] / payload["large"], "acks": large["sent_by_n1"] / large["received"],
            "unfairness": shares_apart(arguments.rate, arguments.mib)}


def apart(lab, sim):
    """Half the sum of the differences of two lists of bytes, in percent of the lab's sum."""
    length = max(len(lab), len(sim))
    pairs = zip(lab + [0] * (length - len(lab)), sim + [0] * (length - len(sim)))
    return 50 * sum(abs(a - b) for a, b in pairs) / sum(lab)


def compare(case, lab, sim, bar):
    """Prints both; returns what is further apart than `bar` percent."""
    size = lab["bytes"]
    rows = [(name, lab[name], sim[name], 100 * (sim[name] / lab[name] - 1)) for name in ("first", "median", "last", "last_fast")]
    rows.append(("proxy", lab["proxy"] / size, sim["proxy"] / size, 100 * (sim["proxy"] / lab["proxy"] - 1)))
    rows.append(("sent most", lab["sent"][0] / size, sim["sent"][0] / size, 100 * (sim["sent"][0] / lab["sent"][0] - 1)))
    rows.append(("nodes sent", sum(lab["sent"]) / size, sum(sim["sent"]) / size, apart(lab["sent"], sim["sent"])))
    rows.append(("edges", sum(lab["edges"]) / size, sum(sim["edges"]) / size, apart(lab["edges"], sim["edges"])))
    for name, of_lab, of_sim, difference in rows:
        print(f"{case:>8}  {name:12} {of_lab:9.3f} {of_sim:9.3f} {difference:+8.1f} %", flush=True)
    return [f"{case}: {name} {difference:+.1f} %" for name, _, _, difference in rows
            if name in ("last", "proxy", "edges") and abs(difference) > bar]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="8,16,32,slow,kill")
    parser.add_argument("--rate", default="40mbit")
    parser.add_argument("--mib", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sim")
    parser.add_argument("--fit", help="goodput,startup,wire,acks,unfairness: fitted before")
    parser.add_argument("--bar", type=float, default=5.0)
    parser.add_argument("--check", action="store_true", help="exit 1 when last, proxy or edges are further apart than the bar")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    source = os.path.realpath(f"{os.path.dirname(__file__)}/../..")
    sim = arguments.sim or f"{os.environ.get('BANYAN_BIN', f'{source}/build/release/bin')}/banyan-sim"
    if arguments.fit:
        fitted = dict(zip(("goodput", "startup", "wire", "acks", "unfairness"), map(float, arguments.fit.split(","))))
    else:
        fitted = fit(arguments)
    print(f"fitted: goodput {fitted['goodput']:.4f}, startup {fitted['startup']:.3f} s, {fitted['wire']:.4f} bytes on the link a byte of payload, "
          f"acks {fitted['acks']:.4f}, unfairness {fitted['unfairness']:.3f}")
    print(f"{'case':>8}  {'figure':12} {'lab':>9} {'simulator':>9} {'apart':>8}")
    ideal = arguments.mib * 2**20 * 8 / bits_per_second(arguments.rate)
    missed, every = [], []
    for case in arguments.cases.split(","):
        nodes = int(case) if case.isdigit() else 16
        mishap = {}
        if case == "slow":
            mishap["slow"] = f"{bits_per_second(arguments.rate) / 2e3:.0f}kbit"
        elif case == "kill":
            mishap["kill_after"] = ideal / 3
        for _ in range(arguments.rounds):
            of_lab = run_lab(nodes, arguments.rate, arguments.mib, **mishap)
            of_sim = run_sim(sim, of_lab, fitted, nodes, arguments.rate, **mishap)
            missed += compare(case, of_lab, of_sim, arguments.bar)
            every.append({"case": case, "fitted": fitted, "lab": of_lab, "simulator": of_sim})
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as out:
            for line in every:
                print(json.dumps(line), file=out)
    for line in missed:
        print(f"further apart than {arguments.bar:g} %: {line}")
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
