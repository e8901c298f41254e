#!/usr/bin/env -S python3 -B
"""A swarm in which the seed and half of the leeches are killed mid-way, the tracker is restarted, and one node's disk is full.

    swarm_faults.py [--nodes 8] [--rate 100mbit] [--mib 64] [--transport hybrid] [--json FILE]

n1 has the image. All others fetch it at the same time; the last one's disk has room for half of it. When half of the others hold a
third, n1 and every second leech are killed with -9, and the tree-manager, which is the tracker, too; it is back 4 s later. `last` is when
the last survivor with room has the image, from the beginning; then the full disk gets room, and `full` is how long its node takes from
there. Every survivor's layers are compared with their digests at the end, and its agent must be the one that began.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

from lablib import Lab, finish_all
from swarm import SWARM

MANAGER_AWAY = 4


def pid_of(lab, node):
    with open(f"{lab.directory}/nodes/{node}/pid", encoding="ascii") as f:
        return int(f.read().split()[0])


class SmallDisk:
    """A node's data root on a file system of its own, with a filler that leaves `room` bytes."""

    def __init__(self, lab, node, size, room):
        self.lab, self.node, self.root = lab, node, lab.data_root(node)
        lab.sh("stop", node)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={2 * size + (64 << 20)}", "none", self.root], check=True)
        free = os.statvfs(self.root)
        self.filler = f"{self.root}/filler"
        with open(self.filler, "wb") as f:
            os.posix_fallocate(f.fileno(), 0, free.f_bavail * free.f_bsize - room)
        lab.sh("start", node)

    def give_room(self):
        os.unlink(self.filler)

    def close(self):
        self.lab.sh("stop", self.node)
        subprocess.run(["umount", self.root], check=True)


def held(lab, node):
    """Bytes of layers on the node's disk."""
    total = 0
    for directory, _, files in os.walk(f"{lab.data_root(node)}/store/blobs"):
        total += sum(os.stat(f"{directory}/{name}").st_blocks * 512 for name in files)
    return total


def run(lab, image):
    size = sum(blob["size"] for blob in lab.data_blobs(image))
    seed, *leeches = lab.nodes
    full = leeches.pop()
    dying = leeches[::2]
    left = [node for node in leeches if node not in dying]
    finish_all({seed: lab.start(seed, "-q", "prefetch", f"{lab.registry}/{image}:1")})
    disk = SmallDisk(lab, full, size, size // 2)
    try:
        before, pids = lab.stats(), {node: pid_of(lab, node) for node in [*left, full]}
        begin = time.monotonic()
        fetching = {node: lab.start(node, "-q", "prefetch", f"{lab.registry}/{image}:1", stderr=subprocess.DEVNULL if node in dying else None)
                    for node in [*leeches, full]}
        while sum(held(lab, node) > size // 3 for node in leeches) * 2 < len(leeches):
            time.sleep(0.05)
        killed = time.monotonic() - begin
        for name in [seed, *dying, "manager"]:
            lab.sh("kill", name)
        unfinished = sum(fetching[node].poll() is None for node in left)
        for node in dying:
            fetching.pop(node).wait()
        time.sleep(MANAGER_AWAY)
        lab.sh("start", "manager")
        last = max(finish_all({node: fetching[node] for node in left}).values()) - begin
        if fetching[full].poll() is not None:
            sys.exit(f"{full}: all of the image is on a disk without the room, or it has given up: {fetching[full].returncode}")
        failures = lab.metrics(full)["banyan_swarm_failures_total"]
        room = time.monotonic()
        disk.give_room()
        waited = finish_all({full: fetching[full]})[full] - room
        served = sum(lab.stats()[name]["sent"] - before[name]["sent"] for name in ("proxy", "registry"))
        for node in [*left, full]:
            if wrong := lab.check_blobs(node, image):
                sys.exit(wrong)
            if pid_of(lab, node) != pids[node] or not os.path.exists(f"/proc/{pids[node]}"):
                sys.exit(f"{node}: its agent went down")
        return {"nodes": len(lab.nodes), "rate": lab.rate, "bytes": size, "killed": killed, "dead": 1 + len(dying), "unfinished": unfinished,
                "last": last, "full": waited, "full_failures": failures, "served": served / size}
    finally:
        disk.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--rate", default="100mbit")
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--transport", default="hybrid", choices=["hybrid", "swarm"])
    parser.add_argument("--manager", default="10.77.0.4", help="its address in the lab")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    image = f"random-{arguments.mib}"
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as toml:
        toml.write(SWARM.format(transport=arguments.transport, manager=arguments.manager))
        toml.flush()
        with Lab(arguments.nodes, "tree2", arguments.rate, [image], ("--agent-toml", toml.name)) as lab:
            f = run(lab, image)
    print(f"{arguments.transport}: {f['dead']} of {f['nodes']} nodes and the manager killed after {f['killed']:.1f} s, {f['unfinished']} survivors unfinished; "
          f"last of them {f['last']:.1f} s; the full disk's node {f['full']:.1f} s after it got room ({f['full_failures']:.0f} failures before); "
          f"served {f['served']:.2f} copies; all digests right")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as out:
            print(json.dumps(f), file=out)


if __name__ == "__main__":
    main()
