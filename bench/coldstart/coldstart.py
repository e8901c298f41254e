#!/usr/bin/env -S python3 -B
"""Cold and second starts of real images (bench/images) with containerd and runc, from a registry behind a link.

    coldstart.py [--images numpy,nginx,layers50] [--links 200mbit,1gbit,none] [--modes overlayfs,banyan,profile,cached]
                 [--rounds 3] [--seed N] [--json FILE] [--svg FILE]

Modes: overlayfs     containerd's own snapshotter: the whole image is pulled and unpacked
       banyan        Banyan's snapshotter, nothing of the image on the node, no learned profile
       profile       the same in a cluster whose tree-manager knows in which order starts on earlier nodes, gone by now, touched the image; it sends
                     that order, over the same link, and the node fetches in it ahead of the reads
       cached        the same with the whole image in the node's store before the pull

A round is all of it in random order. Each time: a fresh containerd (and keeper and agent), the machine's caches dropped, the registry's
files in memory, as if it were another machine. The clock runs from the pull's beginning to the image's own sign of being ready
(images.py); `pull`, `create` (pod and container, until runc has started the command) and `run` are its parts. Then second
starts on the same node, without the pull. --json adds a line for each cold start to FILE. Root; about 10 s a start.
"""
import argparse
import contextlib
import glob
import http.client
import json
import os
import random
import shutil
import socket
import statistics
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [f"{HERE}/..", f"{HERE}/../images"]
import figures
from images import IMAGES
from node import Failed, Node, in_own_network

MODES = ("overlayfs", "banyan", "profile", "cached")
SECOND_STARTS = 3
READY_WITHIN_S = 120
REPORTED_WITHIN_S = 3


def bytes_received():
    with open("/proc/self/net/dev", encoding="utf-8") as file:
        return next(int(line.split(":")[1].split()[0]) for line in file if line.strip().startswith("eth0:"))


def is_ready(node, ready):
    kind, *arguments = ready
    if kind == "output":
        return arguments[0] in node.output()
    try:
        if kind == "http":
            connection = http.client.HTTPConnection("127.0.0.1", arguments[0], timeout=5)
            with contextlib.closing(connection):
                connection.request("GET", arguments[1])
                return connection.getresponse().status == 200
        with socket.create_connection(("127.0.0.1", arguments[0]), timeout=5) as connection:
            connection.sendall(arguments[1].encode())
            return arguments[2].encode() in connection.recv(4096)
    except (OSError, http.client.HTTPException):
        return False


def start(node, image):
    """One container, until it is ready; returns (seconds to the command's start, seconds to ready, bytes received by then)."""
    timing = f"{node.is_['work']}/timing"
    began = time.monotonic()
    process = node.cri("start", node.reference(image.name), "--name", image.name, "--timing", timing, "--", *image.command)
    while not is_ready(node, image.ready):
        if process.poll() not in (None, 0):
            raise Failed(f"{image.name} does not start")
        if time.monotonic() > began + READY_WITHIN_S:
            raise Failed(f"{image.name} is not ready after {READY_WITHIN_S} s; it said: {node.output()[-500:]}")
        time.sleep(0.002)
    seconds, received = time.monotonic() - began, bytes_received()
    pod = process.communicate()[0].split()[0]
    with open(timing, encoding="utf-8") as file:
        created = json.load(file)["started"] / 1000
    try:
        node.ask("rm", pod)
    except Failed:  # containerd refuses to stop what ends by itself at this very moment
        time.sleep(1)
        node.ask("rm", pod)
    for directory in glob.glob(f"{node.is_['directory']}/logs/*"):
        shutil.rmtree(directory)
    return min(created, seconds), seconds, received


def learn(node, image):
    """A node of the cluster starts the image, whose touches the tree-manager remembers; then the node is gone."""
    node.do(f"start_member teacher-{image.name}")
    node.ask("pull", node.reference(image.name))
    start(node, image)
    time.sleep(REPORTED_WITHIN_S)
    node.do("stop_node")


def measure(node, image, link, mode):
    node.do(f"start_member node-{time.monotonic_ns()}" if mode == "profile" else f"start_node {'overlayfs' if mode == 'overlayfs' else 'banyan'}")
    reference = node.reference(image.name)
    if mode == "cached":
        node.do(f"banyan --quiet prefetch {reference}")
    node.do("drop_caches", "warm_registry", f"shape {link}")
    received = bytes_received()
    agent, containerd = node.cpu_seconds("agent", "keeper"), node.cpu_seconds("containerd")
    began = time.monotonic()
    node.ask("pull", reference)
    pull = time.monotonic() - began
    create, seconds, received_then = start(node, image)
    line = {"figure": "coldstart", "image": image.name, "link": link, "mode": mode, "total": pull + seconds, "pull": pull, "create": create,
            "run": seconds - create, "received": received_then - received, "containerd_cpu": node.cpu_seconds("containerd") - containerd,
            "daemons_cpu": node.cpu_seconds("agent", "keeper") - agent, "agent_mib": node.peak_mib("agent"),
            "keeper_mib": node.peak_mib("keeper")}
    line["second"] = statistics.median(start(node, image)[1] for _ in range(SECOND_STARTS))
    node.do("drop_caches")
    line["second_dropped"] = start(node, image)[1]
    node.do("shape none", "stop_node")
    return line


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="numpy,nginx,layers50")
    parser.add_argument("--links", default="200mbit,1gbit,none")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json")
    parser.add_argument("--svg")
    arguments = parser.parse_args()
    for option, known in (("images", IMAGES), ("modes", MODES)):
        unknown = set(getattr(arguments, option).split(",")) - set(known)
        if unknown:
            parser.error(f"--{option}: no {' '.join(unknown)}; there are {', '.join(known)}")
    return arguments


def main():
    arguments = parse_arguments()
    in_own_network(arguments.images.split(","))
    images = [IMAGES[name] for name in arguments.images.split(",")]
    order, lines = random.Random(arguments.seed), []
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(open(arguments.json or os.devnull, "a", encoding="utf-8"))
        node = stack.enter_context(Node())
        for image in images:
            node.push(image.name)
            node.do(f"convert_image bench/{image.name}:1")
        if "profile" in arguments.modes.split(","):
            node.do("start_far_manager")
            for image in images:
                learn(node, image)
        for number in range(arguments.rounds):
            turns = [(image, link, mode) for image in images for link in arguments.links.split(",") for mode in arguments.modes.split(",")]
            order.shuffle(turns)
            for image, link, mode in turns:
                line = {**measure(node, image, link, mode), "round": number}
                lines.append(line)
                print(json.dumps(line), file=raw, flush=True)
                print(f"{image.name} {link} {mode}: {line['total']:.2f} s, {line['received'] / 1e6:.1f} MB", file=sys.stderr, flush=True)
    print("\n".join(figures.coldstart_table(lines)))
    if arguments.svg:
        with open(arguments.svg, "w", encoding="utf-8") as file:
            file.write(figures.coldstart_plot(lines))


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"coldstart.py: {error}")
