#!/usr/bin/env -S python3 -B
"""Conversion against other work on the same bytes: the largest layer of each image, one core each.

    convert.py [--images numpy,scipy] [--rounds 3] [--json FILE]

gzip -d, zstd -3 and mkfs.erofs (plain, and with lz4hc), by wall time, processor time, peak memory and size of what they write, in turns
with Banyan's converter (convert_bench, one thread); and of whole images `banyan convert` and `ctr-remote image convert --estargz` (from and to
containerd's store; the client does the work). A line for each run: {figure: convert, image, tool, seconds, cpu, mib, in_bytes, out_bytes};
in_bytes is the layer's tar, or all of the image's.

Beside that, what two versions of an image have in common (images/versions.py): a line for each kind of change, {figure: sharing, image, changes,
what, …}: bytes of the next version's layers as converted (`bytes`), of layers that are the same (`whole_layers`) and of single chunks in others
(`chunks`) that a node with the version before has; and the same of the original layers, of which only whole ones can be shared
(`original_bytes`, `original_whole_layers`). --rounds 0 leaves out all but that. Root.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BIN = os.environ.get("BANYAN_BIN", f"{HERE}/../build/release/bin")
sys.path[:0] = [HERE, f"{HERE}/coldstart", f"{HERE}/images"]
import figures
from images import IMAGES
from node import Failed, Node, in_own_network
from versions import layers_of, next_version

CHANGES = (("package",), ("base",), ("package", "base"))


def timed(command, **options):
    """Runs it on one core; returns {"seconds", "cpu", "mib"} of the process and its children."""
    began = time.monotonic()
    process = subprocess.Popen(["taskset", "1", *command], stdin=subprocess.DEVNULL, **options)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"convert.py: {' '.join(command)}: exit status {process.returncode}")
    return {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "mib": usage.ru_maxrss / 1024}


def to_file(command, path):
    with open(path, "wb") as out:
        done = timed(command, stdout=out)
    return {**done, "out_bytes": os.path.getsize(path)}


def mkfs_erofs(options, tree, path):
    done = timed(["mkfs.erofs", *options, path, tree], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    size = os.path.getsize(path)
    os.unlink(path)
    return {**done, "out_bytes": size}


def converter(layer, rounds):
    """convert_bench with one thread: its median conversion, and its ratio to the parts measured alone."""
    text = subprocess.run(["taskset", "1", f"{BIN}/../bench/convert_bench", "--rounds", str(rounds), "--threads", "1", layer], check=True, text=True,
                          stdout=subprocess.PIPE).stdout

    def number(pattern):
        return float(re.search(pattern, text)[1])
    return {"seconds": number(r"conversion: ([0-9.]+) s"), "cpu": None, "mib": None,  # its memory is mostly its inputs
            "out_bytes": int(number(r"blob ([0-9.]+) MB") * 1e6), "ratio": number(r"alone: ([0-9.]+) \("),
            "cpu_ratio": number(r"less: ([0-9.]+)")}


def whole_image(layout, name, work):
    done = timed([f"{BIN}/banyan", "--quiet", "--data-root", f"{work}/data", "convert", "--jobs", "1", f"oci:{layout}:{name}",
                  f"oci:{work}/converted:{name}"])
    converted = sum(entry.stat().st_size for entry in os.scandir(f"{work}/converted/blobs/sha256"))
    original = sum(entry.stat().st_size for entry in os.scandir(f"{layout}/blobs/sha256"))
    shutil.rmtree(f"{work}/converted")
    shutil.rmtree(f"{work}/data", ignore_errors=True)
    return {**done, "out_bytes": converted - original}  # the result holds the original's blobs as well


def estargz(node, name):
    """The image is in containerd's store; what comes of it is removed again."""
    source, target = node.reference(name), f"{node.reference(name)}-estargz"
    ctr = ["--address", node.is_["socket"], "--namespace", "k8s.io"]
    done = timed(["ctr-remote", *ctr, "image", "convert", "--estargz", "--oci", source, target], stdout=subprocess.DEVNULL)

    def content(digest):
        return json.loads(subprocess.run(["ctr", *ctr, "content", "get", digest], check=True, stdout=subprocess.PIPE).stdout)
    row = subprocess.run(["ctr", *ctr, "images", "ls", f"name=={target}"], check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()[1]
    manifest = content(row.split()[2])
    subprocess.run(["ctr", *ctr, "images", "rm", "--sync", target], check=True, stdout=subprocess.DEVNULL)
    return {**done, "out_bytes": sum(layer["size"] for layer in manifest["layers"])}


def layout_of(name):
    return subprocess.run([f"{HERE}/images/make.py", name], check=True, text=True, stdout=subprocess.PIPE).stdout.split(":")[1]


def sharing(name, changes, work):
    """Converts the image and its next version; returns what the second has of the first."""
    layout, other = layout_of(name), f"{work}/next"
    what = next_version(layout, name, other, changes)
    banyan = [f"{BIN}/banyan", "--data-root", f"{work}/data"]
    one, two = f"oci:{work}/converted:one", f"oci:{work}/converted:two"
    for source, target in ((layout, one), (other, two)):
        subprocess.run([*banyan, "--quiet", "convert", f"oci:{source}:{name}", target], check=True)
    facts = [json.loads(subprocess.run([*banyan, "--json", "inspect", *arguments], check=True, stdout=subprocess.PIPE).stdout)["layers"]
             for arguments in ([one], [two, "--against", one])]
    blobs, digests = {layer["blob"] for layer in facts[0]}, {descriptor["digest"] for descriptor, _ in layers_of(layout)}
    original = [descriptor for descriptor, _ in layers_of(other)]
    whole = sum(layer["blob_bytes"] for layer in facts[1] if layer["blob"] in blobs)
    line = {"figure": "sharing", "image": name, "changes": "+".join(changes), "what": what,
            "bytes": sum(layer["blob_bytes"] for layer in facts[1]), "whole_layers": whole,
            "chunks": sum(layer["shared_with_other_image"]["blob_bytes"] for layer in facts[1] if layer["blob"] not in blobs),
            "original_bytes": sum(layer["size"] for layer in original),
            "original_whole_layers": sum(layer["size"] for layer in original if layer["digest"] in digests)}
    for directory in (other, f"{work}/converted", f"{work}/data"):
        shutil.rmtree(directory)
    return line


def measure(node, name, rounds, work):
    layout = layout_of(name)
    layers = [descriptor for descriptor, _ in layers_of(layout)]
    largest = max(layers, key=lambda layer: layer["size"])
    layer, tar, tree = f"{layout}/blobs/{largest['digest'].replace(':', '/')}", f"{work}/tar", f"{work}/tree"
    with open(tar, "wb") as out:
        subprocess.run(["gzip", "-dc", layer], check=True, stdout=out)
    os.mkdir(tree)
    subprocess.run(["tar", "-xpf", tar, "-C", tree], check=True)
    size = os.path.getsize(tar)
    everything = sum(int(subprocess.run(f"gzip -dc {layout}/blobs/{each['digest'].replace(':', '/')} | wc -c", shell=True, check=True,
                                        stdout=subprocess.PIPE).stdout) for each in layers)
    lines = []

    def put(tool, figure, in_bytes=size):
        lines.append({"figure": "convert", "image": name, "tool": tool, "in_bytes": in_bytes, **figure})
    for _ in range(rounds):
        put("gzip -d", to_file(["gzip", "-dc", layer], f"{work}/out"))
        put("zstd -3", to_file(["zstd", "-3", "-T1", "--single-thread", "-qc", tar], f"{work}/out"))
        put("mkfs.erofs", mkfs_erofs([], tree, f"{work}/out.erofs"))
        put("mkfs.erofs -zlz4hc", mkfs_erofs(["-zlz4hc"], tree, f"{work}/out.erofs"))
        put("Banyan's converter", converter(layer, 1))
        put("whole image: banyan convert --jobs 1", whole_image(layout, name, work), everything)
        if shutil.which("ctr-remote"):
            put("whole image: ctr-remote image convert --estargz", estargz(node, name), everything)
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="numpy,scipy")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    names, lines = arguments.images.split(","), []
    if set(names) - set(IMAGES):
        parser.error(f"there are only {', '.join(IMAGES)}")
    in_own_network(names)
    with open(arguments.json or os.devnull, "a", encoding="utf-8") as raw, Node() as node:
        def put(line):
            lines.append(line)
            print(json.dumps(line), file=raw, flush=True)
        node.do("start_node overlayfs")
        for name in names:
            with tempfile.TemporaryDirectory(prefix="banyan-convert.", dir="/var/tmp") as work:
                if arguments.rounds > 0:
                    node.push(name)
                    node.do(f"k8s_ctr images pull --plain-http --snapshotter overlayfs {node.reference(name)} >/dev/null")
                    for line in measure(node, name, arguments.rounds, work):
                        put(line)
                for changes in CHANGES:
                    put(sharing(name, changes, work))
    print("\n".join(figures.convert_table([line for line in lines if line["figure"] == "convert"])))
    print("\n".join(figures.sharing_table([line for line in lines if line["figure"] == "sharing"])))


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"convert.py: {error}")
