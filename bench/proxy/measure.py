#!/usr/bin/env python3
"""Runs proxy_load against servers in rounds of random order; prints medians, their ratios to nginx's, and JSON lines.

    measure.py --load PROXY_LOAD --server NAME=PID,PORT,PATH … [options] FILE…

PATH is a server's path of a file, with % for its name. CPU is that of the process and its children, from
/proc/<pid>/stat. Called by run.sh, which says what the options are.
"""
import argparse
import glob
import json
import os
import random
import statistics
import subprocess

FILE_BYTES = 16 << 20
SHAPES = {"16 MiB blobs": 0, "256 KiB ranges": 256 << 10}
LEAST_THROUGHPUT = 0.8
MOST_CPU = 1.5


def cpu_seconds(pid):
    """Of the process and its living children. User and system time are fields 14 and 15 (proc(5))."""
    children = " ".join(open(path, encoding="ascii").read() for path in glob.glob(f"/proc/{pid}/task/*/children"))
    total = 0
    for process in [str(pid), *children.split()]:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def measure(arguments, server, shape, connections):
    pid, port, path = server.split(",", 2)
    files = [f"{path.replace('%', name)}={FILE_BYTES}" for name in arguments.files]
    command = [arguments.load, "--port", port, "--connections", str(connections), "--seconds", str(arguments.seconds),
               "--range-bytes", str(SHAPES[shape]), *(["--copy"] if arguments.copy else []), *files]
    before = cpu_seconds(pid)
    load = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL).stdout)
    cpu = cpu_seconds(pid) - before
    return {"mib_per_s": load["bytes"] / load["seconds"] / 2**20, "cpu_s_per_gib": cpu / load["bytes"] * 2**30,
            "requests_per_s": load["requests"] / load["seconds"],
            "client_cpu_share": load["client_cpu_seconds"] / load["seconds"]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--load", required=True)
    parser.add_argument("--server", action="append", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--connections", default="1 8 64")
    parser.add_argument("--copy", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()
    servers = dict(text.split("=", 1) for text in arguments.server)
    counts = [int(count) for count in arguments.connections.split()]

    samples = {}
    for _ in range(arguments.rounds):
        for shape in SHAPES:
            for connections in counts:
                for name in random.sample(list(servers), len(servers)):
                    sample = measure(arguments, servers[name], shape, connections)
                    samples.setdefault((shape, connections, name), []).append(sample)

    entries = []
    for (shape, connections, name), found in samples.items():
        medians = {key: statistics.median(sample[key] for sample in found) for key in found[0]}
        entries.append({"shape": shape, "connections": connections, "server": name, "rounds": len(found),
                        **{key: round(value, 4) for key, value in medians.items()}})
    by_case = {(e["shape"], e["connections"], e["server"]): e for e in entries}

    print(f"{'':16}{'conns':>6}{'nginx MiB/s':>13}{'proxy MiB/s':>13}{'ratio':>7}{'bar':>6}"
          f"{'nginx s/GiB':>13}{'proxy s/GiB':>13}{'ratio':>7}{'bar':>6}")
    missed = False
    for shape in SHAPES:
        for connections in counts:
            nginx, proxy = (by_case[shape, connections, name] for name in ("nginx", "proxy"))
            speed = proxy["mib_per_s"] / nginx["mib_per_s"]
            cpu = proxy["cpu_s_per_gib"] / nginx["cpu_s_per_gib"] if nginx["cpu_s_per_gib"] else float("nan")
            missed |= not (speed >= LEAST_THROUGHPUT and cpu <= MOST_CPU)
            print(f"{shape:16}{connections:6}{nginx['mib_per_s']:13.0f}{proxy['mib_per_s']:13.0f}{speed:7.2f}{LEAST_THROUGHPUT:6}"
                  f"{nginx['cpu_s_per_gib']:13.3f}{proxy['cpu_s_per_gib']:13.3f}{cpu:7.2f}{MOST_CPU:6}")
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            file.write(lines)
    else:
        print(lines, end="")
    return 1 if missed and arguments.check else 0


if __name__ == "__main__":
    raise SystemExit(main())
