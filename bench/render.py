#!/usr/bin/env -S python3 -B
"""Renders docs/benchmarks.md and its plots out of the raw lines of scripts/bench.sh: `render.py RAW_DIRECTORY DOCUMENT`.

Whatever was not run is said to be not measured. The bars are those of the project's design; what is slower than what it is compared with
is found in the figures, not chosen.
"""
import json
import os
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import figures

NOT_HERE = "not measured"
PARTS = ("coldstart", "fs", "convert", "fill", "transports", "starts", "faults", "update", "manager", "agent", "machine")
SETUP = """One machine is registry, link and node at once, in network namespaces of its own: {machine}.
Registry: docker-registry, plain HTTP; links: `tc tbf` at both ends; `netem` is absent, so links have no delay. Containers: containerd through CRI and
runc, pods on the host's network. The images are made of Debian packages (`bench/images`), one fresh node a start, caches dropped. Median [least–most];
a figure without brackets was taken once. **Only ratios within a table travel.**"""
STARTS = """`create`: pod and container, until runc has started the command; `run`: from there to ready. Received: by the node until it was
ready. The agent's peak with the image on the node includes fetching it before. Learnt order: a tree-manager behind the same link knows what starts on
earlier nodes, which are gone, touched, and in which order."""
SHARING = """Of a next version of the image (`bench/images/versions.py`), what a node that has the version before need not fetch; on the right the layers as
built, of which a registry's clients share whole ones only. What is other: "a newer": in the largest layer above the base one package is newer (every
Python file a line longer, programs with another build ID: a rebuild, the favourable case; a new release changes more); "three small files": the base layer
is built anew, every entry with another time."""
# Why a bar is missed, as far as it was looked into; shown when it is.
CAUSES = {
    "the same in an order learnt from other nodes' starts":
        "What the start touches fills the link: 21.7 MB take 0.91 s of 200 Mbit/s from the pull's request for the image's map on; containerd's "
        "pull alone takes 0.07 s with everything on the node. `mount.read_ahead` of 64 or 32 KiB instead of 128 fetched 1 to 2 % less.",
    "agent with 50 images mounted; when idle":
        "An idle agent ran for 1.9 ms in 20 s: two timer threads of gRPC's wake once a second (1.4 ms), and the main thread, to look for orphaned mounts "
        "(0.4 ms). The kernel counts in steps of 10 ms.",
}
FAULTS = """Every node reads one image at 0.6 of its link while something fails (`bench/lab/faults.py`); only survivors' reads count."""
REPRODUCE = """<!-- docs: not run: they measure for minutes to hours, and need a quiet machine -->
```sh
scripts/install-deps.sh && scripts/build.sh release
scripts/bench.sh quick              # or full; as root; rewrites this page
scripts/bench.sh quick coldstart    # a part alone: see its head
```

The raw lines are beside this page, in [benchmarks/](benchmarks/). Other programs of [bench/](../bench/README.md) measure what is not here."""
ABSENT = """- stargz, SOCI, Nydus and overlaybd: not measured here (Debian packages no snapshotter of theirs).
- A profile that is made beforehand, without a start of another node. The table's learnt order is the tree-manager's.
- A cluster of machines: one machine's processors and disk are all nodes' here."""


def read(directory, part):
    path = f"{directory}/{part}.jsonl"
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def ratio(over, under, key):
    return figures.median_of(over, key) / figures.median_of(under, key)


def overlap(some, others, key):
    """Whether one's rounds reach into the other's."""
    one, two = ([line[key] for line in lines] for lines in (some, others))
    return max(min(one), min(two)) <= min(max(one), max(two))


def told_apart(some, others, key):
    """No round of one reaches into the other's; of single rounds, one takes half as much again."""
    if min(len(some), len(others)) > 1:
        return not overlap(some, others, key)
    return not 2 / 3 < ratio(some, others, key) < 3 / 2


def of(lines, **wanted):
    return [line for line in lines if all(line.get(key) == value for key, value in wanted.items())]


def met(value, bar, text, at_least=True):
    return f"{text} {'(met)' if (value >= bar if at_least else value <= bar) else '(**missed**)'}"


class Bars:
    """Each bar's figure, or that it was not measured."""

    def __init__(self, raw):
        self.cold, self.fs, self.convert, self.fill = (raw[part] for part in ("coldstart", "fs", "convert", "fill"))
        self.faults, self.manager, self.agent = (raw[part] for part in ("faults", "manager", "agent"))

    def cold_start(self, mode, bar):
        found = of(self.cold, image="scipy", link="200mbit")
        full, lazy = of(found, mode="overlayfs"), of(found, mode=mode)
        if not (full and lazy):
            return NOT_HERE
        speed = ratio(full, lazy, "total")
        return met(speed, bar, f"{speed:.1f} ×")

    def second_start(self):
        full, lazy = of(self.cold, image="scipy", mode="overlayfs"), of(self.cold, image="scipy", mode="banyan")
        if not (full and lazy):
            return NOT_HERE
        slower = ratio(lazy, full, "second")
        return met(slower, 1.1, f"{slower:.2f} ×{', ranges overlap' if overlap(lazy, full, 'second') else ''}", at_least=False)

    def cached_reads(self):
        found = {line["work"]: line["speed"] for line in of(self.fs, figure="fs", state="warm", tree="banyan-file")}
        if not found:
            return NOT_HERE
        return "; ".join(met(found[work], 0.9, f"{work} {found[work]:.2f}") for work in ("sequential", "stat", "find"))

    def first_read(self):
        found = [line for line in of(self.fs, figure="first read", tree="banyan-file") if line["bytes"] > 50e6]
        if not found:
            return NOT_HERE
        speed = statistics.median(line["bytes"] / 1e6 / line["seconds"] for line in found)
        return met(speed, 400, f"{speed:.0f} MB/s ({found[0]['bytes'] / 1e6:.0f} MB)")

    def sixteen_nodes(self):
        found = of(self.fill, nodes=16, rate="100mbit", mode="tree2", image="random-256")
        if not found:
            return NOT_HERE + " (README: an earlier run)"
        last, served = figures.median_of(found, "x_link"), figures.median_of(found, "served")
        return met(last, 1.15, f"{last:.2f} ×", at_least=False) + ", " + met(served, 1.05, f"{served:.3f} copies", at_least=False)

    def smaller_layers(self):
        found = [line for line in of(self.fill, nodes=16, rate="100mbit", mode="tree2") if line["image"] in ("random-4", "random-16", "random-64")]
        figures_of = []
        for (image,), lines in figures.group(found, "image").items():
            bar = 1.08 * lines[0]["ideal"] + 0.04 * min(line["depth"] for line in lines) + 0.3
            last = figures.median_of(lines, "last")
            figures_of.append(met(last, bar, f"{image.removeprefix('random-')} MiB {last:.2f} s for {bar:.2f}", at_least=False))
        return "; ".join(figures_of) or NOT_HERE

    def conversion(self):
        ratios = [line["ratio"] for line in self.convert if "ratio" in line]
        memory = [line["mib"] for line in self.convert if line["tool"].startswith("whole image: banyan")]
        if not ratios:
            return NOT_HERE
        least, most = min(ratios), max(memory)
        return met(least, 0.85, f"least {least:.2f} ×") + ", " + met(most * 1.048576, 300, f"at most {most * 1.048576:.0f} MB", at_least=False)

    def more_nodes(self):
        few, many = (of(self.fill, nodes=nodes, rate="16mbit", mode="tree2") for nodes in (8, 64))
        if not (few and many):
            return NOT_HERE
        slower = ratio(many, few, "last")
        return met(slower, 1.2, f"{slower:.2f} × ({many[0]['bytes'] / 1048576:.0f} MiB at 16 Mbit/s)", at_least=False)

    def private_reads(self):
        medians = {line["run"]: line["metrics"]["median"] for line in of(self.manager, figure="sim") if "median" in line["metrics"]}
        if not {"no private reads", "10 % private"} <= set(medians):
            return NOT_HERE
        slower = medians["10 % private"] / medians["no private reads"]
        return met(slower, 1.5, f"{slower:.2f} ×, simulated", at_least=False)

    def stall(self, case, bar):
        found = of(self.faults, case=case)
        if not found:
            return NOT_HERE
        longest, rise = max(line["after"]["max"] for line in found), max(line.get("rise") or 0 for line in found)
        strangers = max(len(set(line["moved"]) - set(line["orphans"])) for line in found)
        return (met(longest, bar, f"{longest:.2f} s", at_least=False) + ", " + met(rise, 1.05, f"{rise:.3f} ×", at_least=False) +
                f", {strangers} that were not its children moved")

    def joins(self):
        found = [line["per_second"] for line in of(self.manager, figure="tree_bench") if line["name"].startswith("Joins") and "stripes:2" in line["name"]]
        churn = of(self.manager, figure="sim", run="churn")
        if not (found and churn):
            return NOT_HERE
        durable = "".join(f"; {line['joins']:,.0f} a second on disk, from one session" for line in of(self.manager, figure="manager_sessions"))
        left = churn[0]["metrics"]["leaves"] + churn[0]["metrics"]["deaths"]
        return (met(min(found), 100_000, f"{min(found):,.0f} in process") + durable + ", " + met(
            churn[0]["metrics"]["unfinished"], 0, f"{churn[0]['nodes']:,} simulated, {left:,.0f} of them gone within a minute, "
            f"{churn[0]['metrics']['unfinished']:.0f} starts unfinished", at_least=False))

    def agent_at_rest(self):
        found = {line["metric"]: line["median"] for line in self.agent}
        memory, idle = found.get("50 of one base, 50 containers: agent RSS"), found.get("and 50 unrelated: agent CPU, 20 s with containerd stopped")
        if memory is None or idle is None:
            return NOT_HERE
        return met(memory * 1.048576, 100, f"{memory * 1.048576:.0f} MB", at_least=False) + ", " + met(idle, 0, f"{idle:.0f} ms in 20 s", at_least=False)

    def rows(self):
        return [
            ["cold start to `import numpy, scipy.linalg` at 200 Mbit/s, no profile, against full pull", "≥ 12 ×", self.cold_start("banyan", 12)],
            ["the same in an order learnt from other nodes' starts", "≥ 20 ×", self.cold_start("profile", 20)],
            ["second start on the node, against overlayfs (the same image)", "≤ 1.1 ×", self.second_start()],
            ["cached reads against native EROFS: sequential, stat, find", "≥ 0.9", self.cached_reads()],
            ["first sequential read of a file of 58 MB, unshaped", "≥ 400 MB/s", self.first_read()],
            ["256 MiB to 16 nodes of 100 Mbit/s: last node; copies sent by registry and proxy", "≤ 1.15 × size ÷ link; ≤ 1.05",
             self.sixteen_nodes()],
            ["smaller layers to the same nodes: last node", "≤ 1.08 × size ÷ link + depth × 40 ms + 0.3 s", self.smaller_layers()],
            ["a burst of 64 starts, 10 % of the reads private, against none private", "≤ 1.5 ×", self.private_reads()],
            ["last of 64 nodes against last of 8", "≤ 1.2 ×", self.more_nodes()],
            ["interior node killed mid-stream: longest stall; proxy's bytes against no fault", "≤ 1 s; ≤ 1.05 ×; only its children move", self.stall("interior", 1)],
            ["the same fallen silent", "≤ 3 s; ≤ 1.05 ×; only its children move", self.stall("cut", 3)],
            ["conversion against gunzip + zstd-3 + hashes alone, one core; memory", "≥ 0.85 ×; ≤ 300 MB", self.conversion()],
            ["tree-manager: joins a second; nodes churning", "100,000; 10,000", self.joins()],
            ["agent with 50 images mounted; when idle", "≤ 100 MB; 0 CPU", self.agent_at_rest()],
        ]


def comparisons(raw):
    """(text, how many times slower Banyan is than what it is compared with, whether the rounds tell them apart); below 1 it is faster."""
    def compare(text, own, other, key):
        return [(text, ratio(own, other, key), told_apart(own, other, key))] if own and other else []

    found, cold = [], figures.in_order(raw["coldstart"])
    for (image, link), lines in figures.group(cold, "image", "link").items():
        for mode in ("banyan", "profile", "cached"):
            found += compare(f"{image}, {figures.LINKS[link]}, {figures.MODES[mode]}: pull to ready against overlayfs",
                             of(lines, mode=mode), of(lines, mode="overlayfs"), "total")
    for (image,), lines in figures.group(cold, "image").items():  # whatever the link: nothing is fetched, or little
        full, lazy = of(lines, mode="overlayfs"), of(lines, mode="banyan")
        found += compare(f"{image}: second start against overlayfs", lazy, full, "second")
        found += compare(f"{image}: second start, caches dropped, against overlayfs", lazy, full, "second_dropped")
    for line in of(raw["fs"], figure="fs"):
        if line["tree"].startswith("banyan-"):
            text = f"{line['tree']}, {line['work']}, {line['state']}, against native EROFS"
            found.append((text, 1 / line["speed"], abs(line["speed"] - 1) > 0.05))
    for (image,), lines in figures.group(raw["convert"], "image").items():
        own = of(lines, tool="Banyan's converter")
        for tool in ("gzip -d", "zstd -3", "mkfs.erofs", "mkfs.erofs -zlz4hc"):
            found += compare(f"conversion of {image}'s largest layer against {tool}", own, of(lines, tool=tool), "seconds")
        own, other = (of(lines, tool=f"whole image: {tool}") for tool in ("banyan convert --jobs 1", "ctr-remote image convert --estargz"))
        found += compare(f"conversion of the image {image} against ctr-remote image convert --estargz", own, other, "seconds")
    for (nodes, size), lines in figures.group(raw["fill"], "nodes", "bytes").items():
        found += compare(f"{size / 1048576:.0f} MiB to {nodes} nodes, two stripes against the star: last node",
                         of(lines, mode="tree2"), of(lines, mode="star"), "last")
    for (nodes, size), lines in figures.group(raw["transports"], "nodes", "bytes").items():
        for mode in ("star", "swarm", "hybrid"):
            found += compare(f"{size / 1048576:.0f} MiB to {nodes} nodes, two stripes against {figures.FLEET[mode]}: last node",
                             of(lines, mode="tree2"), of(lines, mode=mode), "last")
    for (nodes, rate), lines in figures.group(raw["starts"], "nodes", "rate").items():
        for profile, name in figures.PROFILES.items():
            found += compare(f"{lines[0]['image']} started on {nodes} nodes of {rate} at once, {name}, two stripes against the star: median",
                             of(lines, mode="tree2", profile=profile), of(lines, mode="star"), "median")
    return found


def verdicts(raw):
    found = comparisons(raw)
    good = sorted((slower, f"- {text}: {1 / slower:.2f} × as fast") for text, slower, clear in found if clear and slower < 1)
    bad = sorted(((slower, f"- {text}: {slower:.2f} × the time") for text, slower, clear in found if clear and slower >= 1), reverse=True)
    unclear = "; ".join(f"{text} ({slower:.2f} × the time)" for text, slower, clear in found if not clear)
    return ["## What is good", "", *(line for _, line in good), "", "## Where Banyan is slower than what it is compared with", "",
            *([line for _, line in bad] or ["Nothing that these rounds tell apart."]), "", f"Not told apart: {unclear or 'nothing'}.", ""]


def section(title, text, lines):
    return [f"## {title}", "", *text, "", *lines, ""] if lines else [f"## {title}", "", f"{NOT_HERE.capitalize()}.", ""]


def plot(document, name, svg):
    directory = document.removesuffix(".md")
    with open(f"{directory}/{name}.svg", "w", encoding="utf-8") as file:
        file.write(svg)
    return f"![{name}]({os.path.basename(directory)}/{name}.svg)"


def fleet(raw, document):
    """What many nodes do at once, in the lab."""
    fills, transports, starts, faults, updates = (raw[part] for part in ("fill", "transports", "starts", "faults", "update"))
    page = section("Fleet: a whole image to many nodes", ["An image of bytes that do not compress, to empty nodes at once; the proxy's link is a node's (lab.md)."],
                   fills and figures.fill_table(fills))
    page += section("Fleet: transports side by side", ["The same by each transport; one node reads 4 KiB at random places meanwhile (choosing-a-transport.md)."],
                    transports and [plot(document, "transports", figures.transports_plot(transports)), "", *figures.transports_table(transports)])
    page += section("Fleet: real starts at once", ["`python3 -c 'import numpy'`, from the request to its first output, by `banyan run`."],
                    starts and figures.starts_table(starts))
    page += section("Fleet: failures under load", [FAULTS], faults and figures.faults_table(faults))
    page += section("Fleet: a rolling update", ["Every node has version 1 and gets version 2, wave by wave (`bench/lab/update.py`). New: chunks that version 1 has not, map and "
                                                "metadata included; what a node received includes the connections' overhead."],
                    updates and figures.update_table(updates))
    return page


def main():
    directory, document = sys.argv[1:]
    os.makedirs(document.removesuffix(".md"), exist_ok=True)
    raw = {part: read(directory, part) for part in PARTS}
    cold, sharing, raw["convert"] = raw["coldstart"], of(raw["convert"], figure="sharing"), of(raw["convert"], figure="convert")
    works, firsts = of(raw["fs"], figure="fs"), of(raw["fs"], figure="first read")
    page = ["# Benchmarks", "", "Written by `scripts/bench.sh`; figures of other runs are in the README.", "", "## Set-up", "",
            SETUP.format(machine="; ".join(line["machine"] for line in raw["machine"][-1:])), ""]
    runs = [[line["part"], line["when"], line["commit"], line["load"]] for line in raw["machine"]]
    page += [*figures.table(["part", "when", "programs of commit", "load of the machine before"], runs), ""]
    rows = Bars(raw).rows()
    missed = [f"- {work}: {CAUSES.get(work, 'not looked into yet.')}" for work, _, figure in rows if "missed" in figure]
    page += ["## The bars", "", *figures.table(["work", "bar", "figure"], rows), ""]
    page += ["Why those that are missed are, with the figures of 22 November 2026, when it was looked into:", "", *missed, ""] if missed else []
    page += verdicts(raw)
    page += section("Cold and second starts", [STARTS],
                    cold and [plot(document, "coldstart", figures.coldstart_plot(cold)), "", *figures.coldstart_table(cold)])
    images = ", ".join(dict.fromkeys(line["image"] for line in works))
    page += section("File system", [f"The whole image ({images}) on the node; `warm` after an untimed round, `cold` with the machine's caches "
                                    "dropped before each. Lower medians, in turns."], works and figures.fs_table(works))
    page += section("First sequential read of the largest file", ["Nothing of the image on the node, all caches dropped; the registry, on loopback, has its files in memory."],
                    firsts and figures.first_read_table(firsts))
    page += section("Conversion", ["The image's largest layer, one core; `whole image`: all its layers."],
                    raw["convert"] and figures.convert_table(raw["convert"]))
    page += section("Two versions of an image", [SHARING], sharing and figures.sharing_table(sharing))
    page += fleet(raw, document)
    page += ["## Not measured", "", ABSENT, "", "## How to reproduce", "", REPRODUCE, ""]
    with open(document, "w", encoding="utf-8") as file:
        file.write("\n".join(page))


if __name__ == "__main__":
    main()
