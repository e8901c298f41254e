#!/usr/bin/env -S python3 -B
"""N nodes start one container image at once: pull of its map to the command's first line of output.

    start.py [--nodes 1,8,16] [--rate 100mbit] [--image python] [--modes tree2,star] [--rounds 1] [--json FILE]
             [-- CMD…]   (default: python3 -c 'import numpy; print(numpy.__version__)')

Each round starts with empty stores and without a profile; then the stores are emptied and the same happens once more, with what the
tree-manager has learned. `x one` is the median over that of a single node in the same mode.
"""
import argparse
import statistics
import sys
import threading
import time

from lablib import Lab, json_lines, summary

# For so long the tree-manager keeps the places of nodes that came back without their state (kConfirm), and a margin: a burst before would
# ask parents that are in no tree by their own account.
PLACE_KEPT_S = 13
COMMAND = ["python3", "-c", "import numpy; print('ready', numpy.__version__)"]


def burst(lab, image, command):
    """Seconds to each node's first line of output."""
    seconds, failed = {}, []
    lab.mark()
    start = time.monotonic()

    def follow(node, process):
        line = process.stdout.readline()
        seconds[node] = time.monotonic() - start
        process.stdout.read()
        if process.wait() != 0 or not line:
            failed.append(f"{node}: {process.stderr.read()}")

    threads = []
    for node in lab.nodes:
        process = lab.start(node, "-q", "run", f"docker://{lab.registry}/{image}:1", "--", *command, stdout=-1, stderr=-1)
        threads.append(threading.Thread(target=follow, args=(node, process)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    if failed:
        sys.exit("\n".join(failed))
    links = lab.stats()
    received = [links[node]["received"] for node in lab.nodes]
    return summary(seconds.values()) | {"seconds": seconds, "served": links["proxy"]["sent"] + links["registry"]["sent"],
                                        "received": statistics.median(received)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="1,8,16")
    parser.add_argument("--rate", default="100mbit")
    parser.add_argument("--image", default="python")
    parser.add_argument("--modes", default="tree2,star")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json")
    parser.add_argument("command", nargs="*", default=COMMAND)
    arguments = parser.parse_args()
    put, alone = json_lines(arguments.json), {}
    print(f"{'mode':6} {'nodes':>5} {'profile':>8} {'first':>7} {'median':>7} {'last':>7} {'x one':>6} {'a node received':>16} {'proxy sent':>11}")
    for nodes in map(int, arguments.nodes.split(",")):
        for mode in arguments.modes.split(","):
            for _ in range(arguments.rounds):
                with Lab(nodes, mode, arguments.rate, [arguments.image]) as lab:
                    for profile in ("none", "learned") if mode != "star" else ("none",):
                        if profile == "learned":
                            time.sleep(3)  # until the last touches are reported
                            for node in lab.nodes:
                                lab.sh("wipe", node)
                            for node in lab.nodes:
                                lab.sh("start", node)
                            time.sleep(PLACE_KEPT_S)
                        r = burst(lab, arguments.image, arguments.command)
                        r |= {"mode": mode, "nodes": nodes, "profile": profile, "rate": arguments.rate, "image": arguments.image}
                        put(r)
                        one = alone.setdefault((mode, profile), r["median"])
                        print(f"{mode:6} {nodes:5} {profile:>8} {r['first']:7.2f} {r['median']:7.2f} {r['last']:7.2f} "
                              f"{r['median'] / one:6.2f} {r['received'] / 1e6:13.1f} MB {r['served'] / 1e6:8.1f} MB", flush=True)


if __name__ == "__main__":
    main()
