#!/usr/bin/env -S python3 -B
"""A rolling update: every node has version 1 of an image and gets version 2, a wave of nodes after the other.

    update.py [--nodes 8] [--wave 2] [--rate 100mbit] [--image numpy] [--changes package,base] [--modes tree2,star] [--how start,prefetch]
              [--rounds 1] [--json FILE]

The image is one of bench/images, version 2 as images/versions.py makes it; both are converted and in the proxy's store. --how start: nodes start the
image's container, version 1 and then version 2, and get what it reads; prefetch: they get all of it. `new` is what version 2 has in chunks
that version 1 has not, its map and metadata included: more than that no update needs. Beside it, for version 1 (to empty nodes) and for version
2, in the same waves: what registry and proxy have sent, what a node has received (median and most) and the most that one has sent, by the counters of
the switch's ports. Layers that were prefetched are compared with their digests.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from lablib import Lab, SOURCE_DIR, finish_all, summary

sys.path.insert(0, f"{SOURCE_DIR}/bench/images")
from images import IMAGES
from versions import next_version

# Each version is a repository of its own here: lablib finds an image's blobs by the name of its repository.
VERSIONS = ("version-1", "version-2")


def make_layouts(name, changes, work):
    """[(version, where skopeo finds it)], and what is other in the second."""
    one = subprocess.run([f"{SOURCE_DIR}/bench/images/make.py", name], check=True, text=True, stdout=subprocess.PIPE).stdout.strip()
    what = next_version(one.split(":")[1], name, f"{work}/next", changes)
    return list(zip(VERSIONS, (one, f"oci:{work}/next:{name}"))), what


def publish(lab, layouts, work):
    """To the lab's registry, converted, and through the proxy once; returns what `banyan inspect` tells of the second beside the first."""
    def inside(name, *command):
        return subprocess.run(["nsenter", f"--net={lab.env['LAB_NAMESPACES']}{name}", *command], check=True, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE).stdout

    banyan = [f"{lab.env['BANYAN_BIN']}/banyan", "--plain-http", "--data-root", f"{work}/data"]
    for version, layout in layouts:
        reference = f"docker://{lab.registry}/{version}:1"
        inside("registry", "skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", layout, reference)
        inside("registry", *banyan, "--quiet", "convert", reference)
        with open(f"{lab.directory}/{version}.json", "w", encoding="utf-8") as file:
            file.write(inside("proxy", sys.executable, f"{SOURCE_DIR}/scripts/lab/artifact.py", "--warm", lab.env["LAB_PROXY"], lab.registry, version, "1"))
    one, two = (f"docker://{lab.registry}/{version}:1" for version in VERSIONS)
    return json.loads(inside("registry", *banyan, "--json", "inspect", two, "--against", one))


def begin(lab, node, version, image, how):
    if how == "prefetch":
        return lab.start(node, "-q", "prefetch", f"{lab.registry}/{version}:1")
    return lab.start(node, "-q", "run", f"docker://{lab.registry}/{version}:1", "--", *IMAGES[image].command, stdout=subprocess.DEVNULL)


def bring(lab, version, image, how, wave):
    """To all nodes, a wave after the other; returns what went over the links."""
    lab.mark()
    began, seconds = time.monotonic(), []
    for first in range(0, len(lab.nodes), wave):
        wave_began = time.monotonic()
        ended = finish_all({node: begin(lab, node, version, image, how) for node in lab.nodes[first:first + wave]})
        seconds += [end - wave_began for end in ended.values()]
    took, links = time.monotonic() - began, lab.stats()
    received = [links[node]["received"] for node in lab.nodes]
    return {"served": links["proxy"]["sent"] + links["registry"]["sent"], "received": statistics.median(received), "most_received": max(received),
            "most_sent": max(links[node]["sent"] for node in lab.nodes), "took": took, **summary(seconds)}


def check(lab):
    """Ends this program unless version 2 is whole and right on every node; what came compressed is decoded when nothing else is to be done."""
    deadline = time.monotonic() + 60
    while wrong := [problem for node in lab.nodes if (problem := lab.check_blobs(node, VERSIONS[1]))]:
        if time.monotonic() > deadline:
            sys.exit("\n".join(wrong))
        time.sleep(1)


def update(lab, facts, how, arguments):
    first = bring(lab, VERSIONS[0], arguments.image, how, arguments.wave)
    time.sleep(3)  # until nothing of it is under way
    second = bring(lab, VERSIONS[1], arguments.image, how, arguments.wave)
    if how == "prefetch":
        check(lab)
    total, small = facts["total"], facts["map_bytes"] + facts["metadata_blob_bytes"]
    return {"nodes": len(lab.nodes), "wave": arguments.wave, "rate": arguments.rate, "mode": lab.mode, "how": how, "image": arguments.image,
            "bytes": total["blob_bytes"] + small, "new": total["blob_bytes"] - total["shared_with_other_image"]["blob_bytes"] + small,
            "version_1": first, "version_2": second}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--wave", type=int, default=2)
    parser.add_argument("--rate", default="100mbit")
    parser.add_argument("--image", default="numpy", choices=IMAGES)
    parser.add_argument("--changes", default="package,base")
    parser.add_argument("--modes", default="tree2,star")
    parser.add_argument("--how", default="start,prefetch")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    columns = (("served", 8), ("received", 8), ("most_received", 8), ("most_sent", 8))
    print(f"{'mode':6} {'how':8} {'image':>8} {'new':>7} | version 1: MB sent by registry and proxy, received by a node, most, most sent, s | version 2: the same")
    with tempfile.TemporaryDirectory(prefix="banyan-update.", dir="/var/tmp") as work, open(arguments.json or os.devnull, "a", encoding="utf-8") as raw:
        layouts, what = make_layouts(arguments.image, arguments.changes.split(","), work)
        for _ in range(arguments.rounds):
            for mode in arguments.modes.split(","):
                for how in arguments.how.split(","):
                    with Lab(arguments.nodes, mode, arguments.rate, []) as lab:
                        line = {**update(lab, publish(lab, layouts, work), how, arguments), "what": what}
                    print(json.dumps(line), file=raw, flush=True)
                    print(f"{mode:6} {how:8} {line['bytes'] / 1e6:8.1f} {line['new'] / 1e6:7.1f} | " + " | ".join(
                        " ".join(f"{line[version][key] / 1e6:{width}.1f}" for key, width in columns) + f" {line[version]['took']:6.1f}"
                        for version in ("version_1", "version_2")), flush=True)


if __name__ == "__main__":
    main()
