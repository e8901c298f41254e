"""Markdown tables and SVG plots of what the benchmarks measured, from their raw lines; no library but Python's own.

A cell is the median of the rounds with the least and the most in brackets; plots show the same.
"""
import statistics
from html import escape

LINKS = {"200mbit": "200 Mbit/s", "1gbit": "1 Gbit/s", "none": "unshaped"}
MODES = {"overlayfs": "overlayfs, full pull", "banyan": "Banyan, empty node, no profile",
         "profile": "Banyan, empty node, learnt order", "cached": "Banyan, image on the node"}
COLOURS = ("#9a8c7c", "#2b7a5b", "#4f86c6", "#7fc4a5", "#c8963e")


def group(lines, *keys):
    """{(value of each key): [line, …]}, in the order of appearance."""
    groups = {}
    for line in lines:
        groups.setdefault(tuple(line[key] for key in keys), []).append(line)
    return groups


def spread(values, digits=2):
    values = [value for value in values if value is not None]
    if not values:
        return "–"
    text = f"{statistics.median(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} [{min(values):.{digits}f}–{max(values):.{digits}f}]"


def median_of(lines, key):
    return statistics.median(line[key] for line in lines)


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(map(str, row)) + " |" for row in rows)]


def in_order(lines):
    """Links and modes in the order of the tables above, images as they came."""
    images = list(dict.fromkeys(line["image"] for line in lines))
    return sorted(lines, key=lambda line: (images.index(line["image"]), list(LINKS).index(line["link"]), list(MODES).index(line["mode"])))


def coldstart_table(lines):
    head = ["image", "link", "mode", "pull s", "create s", "run s", "**total s**", "speed-up", "second start s", "the same, caches dropped s",
            "received MB", "CPU s: containerd", "CPU s: agent, keeper", "peak MiB: agent", "peak MiB: keeper"]
    rows = []
    for (image, link), by_link in group(in_order(lines), "image", "link").items():
        modes = group(by_link, "mode")
        full = modes.get(("overlayfs",))
        for (mode,), found in modes.items():
            speed = f"{median_of(full, 'total') / median_of(found, 'total'):.1f} ×" if full else "–"
            lazy = mode != "overlayfs"
            rows.append([image, LINKS[link], MODES[mode], *(spread(line[key] for line in found) for key in ("pull", "create", "run", "total")),
                         speed, spread(line["second"] for line in found), spread(line["second_dropped"] for line in found),
                         spread((line["received"] / 1e6 for line in found), 1), spread(line["containerd_cpu"] for line in found),
                         spread(line["daemons_cpu"] for line in found) if lazy else "–",
                         *(spread((line[key] for line in found), 0) for key in ("agent_mib", "keeper_mib"))])
    return table(head, rows)


def coldstart_plot(lines):
    groups = []
    for (image, link), by_link in group(in_order(lines), "image", "link").items():
        bars = [(MODES[mode], [line["total"] for line in found]) for (mode,), found in group(by_link, "mode").items()]
        groups.append((f"{image}, {LINKS[link]}", bars))
    return bar_plot("Pull to ready, seconds: median, least and most", groups)


def bar_plot(title, groups, width=860, left=190, bar=13):
    """Horizontal bars: groups are (label, [(series, values), …]); a whisker from the least to the most."""
    series = list(dict.fromkeys(name for _, bars in groups for name, _ in bars))
    colour = dict(zip(series, COLOURS))
    most = max(value for _, bars in groups for _, values in bars for value in values)
    scale = (width - left - 60) / most
    height = 50 + sum(len(bars) * bar + 12 for _, bars in groups)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
           'font-family="sans-serif" font-size="11">', f'<rect width="{width}" height="{height}" fill="white"/>',
           f'<text x="8" y="16" font-size="13" font-weight="bold">{escape(title)}</text>']
    x = left
    for name in series:
        out.append(f'<rect x="{x}" y="25" width="10" height="10" fill="{colour[name]}"/><text x="{x + 14}" y="34">{escape(name)}</text>')
        x += 40 + 6 * len(name)
    y = 48
    for label, bars in groups:
        out.append(f'<text x="{left - 8}" y="{y + len(bars) * bar / 2 + 4:.0f}" text-anchor="end">{escape(label)}</text>')
        for name, values in bars:
            middle, low, high = statistics.median(values) * scale, min(values) * scale, max(values) * scale
            line = y + bar / 2 - 1
            out.append(f'<rect x="{left}" y="{y}" width="{middle:.1f}" height="{bar - 2}" fill="{colour[name]}"/>'
                       f'<path d="M{left + low:.1f} {line:.1f}H{left + high:.1f}" stroke="black"/>'
                       f'<text x="{left + high + 4:.1f}" y="{y + bar - 3}">{statistics.median(values):.2f}</text>')
            y += bar
        y += 12
    return "\n".join([*out, "</svg>", ""])


def fs_table(lines):
    rows = []
    trees = list(dict.fromkeys(line["tree"] for line in lines))
    for (state, work), found in group(lines, "state", "work").items():
        by_tree = {line["tree"]: line for line in found}
        rows.append([f"{work}, {state}", f"{by_tree[trees[0]]['seconds']:.3f} s", *(f"{by_tree[tree]['speed']:.2f}" for tree in trees[1:])])
    return table(["work", trees[0], *(f"{tree}, speed against {trees[0]}" for tree in trees[1:])], rows)


def first_read_table(lines):
    rows = [[tree, spread([line["bytes"] / 1e6 / line["seconds"] for line in found], 0), spread([line["reads"] for line in found], 0)]
            for (tree,), found in group(lines, "tree").items()]
    return table(["mount form", "MB/s", "the kernel's requests to the agent"], rows)


def convert_table(lines):
    rows = []
    for (image, tool), found in group(lines, "image", "tool").items():
        size = found[0]["in_bytes"]
        rows.append([image, tool, f"{size / 1e6:.0f}", spread(line["seconds"] for line in found), spread(line["cpu"] for line in found),
                     spread((size / 1e6 / line["seconds"] for line in found), 0), spread((line["mib"] for line in found), 0),
                     f"{found[0]['out_bytes'] / 1e6:.1f}"])
    return table(["image", "tool", "tar MB", "s", "CPU s", "MB/s of tar", "peak MiB", "out MB"], rows)


def sharing_table(lines):
    rows = []
    for line in lines:
        new, original = line["bytes"] - line["whole_layers"] - line["chunks"], line["original_bytes"] - line["original_whole_layers"]
        rows.append([line["image"], line["what"], *(f"{number / 1e6:.2f}" for number in (
            line["bytes"], line["whole_layers"], line["chunks"], new, line["original_bytes"], line["original_whole_layers"], original))])
    return table(["image", "other than before", "converted MB", "of it in whole layers", "in single chunks", "new MB", "as built MB",
                  "of it in whole layers", "new MB"], rows)


FLEET = {"tree2": "two stripes", "tree1": "one tree", "swarm": "swarm (BitTorrent)", "hybrid": "hybrid", "star": "star: the proxy feeds every node"}


def fill_table(lines):
    rows = []
    for (nodes, rate, size, mode), found in group(lines, "nodes", "rate", "bytes", "mode").items():
        sent = [max(line["links"][node]["sent"] for node in line["seconds"]) / size for line in found]
        rows.append([nodes, rate, f"{size / 1048576:.0f}", FLEET[mode], f"{found[0]['ideal']:.2f}",
                     *(spread(line[key] for line in found) for key in ("first", "median", "last", "x_link")),
                     spread((line["served"] for line in found), 3), spread(sent)])
    return table(["nodes", "link", "MiB", "how", "size ÷ link s", "first s", "median s", "last s", "last, × size ÷ link",
                  "sent by registry and proxy, copies", "most sent by a node, copies"], rows)


def transports_table(lines):
    rows = [[nodes, rate, f"{size / 1048576:.0f}", FLEET[mode], *(spread(line[key] for line in found) for key in ("first", "median", "last", "x_link")),
             spread((line["served"] for line in found), 3), spread(line["most_sent"] for line in found), spread(line["by_swarm"] for line in found),
             spread((line["cpu_per_gib"] for line in found), 1), spread((line["read"]["p99"] * 1000 for line in found), 0)]
            for (nodes, rate, size, mode), found in group(lines, "nodes", "rate", "bytes", "mode").items()]
    return table(["nodes", "link", "MiB", "how", "first s", "median s", "last s", "last, × size ÷ link", "sent by registry and proxy, copies",
                  "most sent by a node, copies", "part by BitTorrent", "agents' CPU s a GiB", "a reader meanwhile, 99 % within ms"], rows)


def transports_plot(lines):
    groups = [(f"{nodes} nodes, {size / 1048576:.0f} MiB", [(FLEET[mode], [line["last"] for line in found]) for (mode,), found in group(some, "mode").items()])
              for (nodes, size), some in group(lines, "nodes", "bytes").items()]
    return bar_plot("Last node has the image, seconds: median, least and most", groups)


PROFILES = {"none": "empty nodes", "learned": "empty nodes, learnt order"}


def starts_table(lines):
    rows = []
    for (rate, mode, profile, nodes), found in group(sorted(lines, key=lambda line: (line["rate"], line["mode"], line["profile"])),
                                                     "rate", "mode", "profile", "nodes").items():
        rows.append([found[0]["image"], rate, FLEET[mode], PROFILES[profile], nodes, *(spread(line[key] for line in found) for key in ("first", "median", "last")),
                     spread((line["received"] / 1e6 for line in found), 1), spread((line["served"] / 1e6 for line in found), 1)])
    return table(["image", "link", "how", "order", "nodes", "first s", "median s", "last s", "a node received MB", "sent by registry and proxy MB"], rows)


FAULTS = {"none": "none", "interior": "a node that feeds others is killed", "cut": "the same falls silent", "leaf": "a leaf falls silent",
          "root": "the node that the proxy feeds is killed", "third": "a third of the nodes is killed", "churn": "nodes leave and join all the time",
          "proxy": "the proxy is killed", "manager": "the tree-manager is killed, back after 4 s", "both": "proxy and manager are killed"}


def faults_table(lines):
    def seconds(value):
        return "–" if value is None else f"{value:.2f}"
    rows = []
    for line in lines:
        start, moved = line.get("start"), f"{len(line['moved'])}, {len(line['own'])}" if "moved" in line else "–"
        started = "–" if start is None else seconds(max(start.values())) if isinstance(start, dict) else "failed"
        rows.append([FAULTS[line["case"]], line["nodes"], line["rate"], seconds(line["before"]["max"]), seconds(line["after"]["p99"]),
                     f"**{line['after']['max']:.2f}**", "all right" if not line["wrong"] else f"{len(line['wrong'])} wrong", moved, seconds(line["mended"]),
                     f"{line['served']:.2f}", f"{line['rise']:.3f}" if line.get("rise") else "–", started])
    return table(["what fails", "nodes", "link", "longest read before s", "99 % of later reads within s", "longest stall s", "bytes read",
                  "nodes moved, of them its children", "trees mended after s", "registry and proxy sent, copies", "against no fault", "another image started within s"], rows)


def update_table(lines):
    rows = []
    for line in lines:
        first, second = line["version_1"], line["version_2"]
        rows.append([line["image"], line["what"], f"{line['nodes']}, {line['wave']} at a time", FLEET[line["mode"]], UPDATES[line["how"]],
                     *(f"{number / 1e6:.1f}" for number in (line["bytes"], line["new"], first["received"], second["received"], first["served"], second["served"])),
                     f"{first['median']:.2f}, {second['median']:.2f}"])
    return table(["image", "other in version 2", "nodes", "how", "what a node gets", "version 2 MB", "new in it MB", "a node received of 1 MB", "**of 2 MB**",
                  "registry and proxy sent of 1 MB", "**of 2 MB**", "a node's seconds, 1 and 2"], rows)


UPDATES = {"start": "a start's reads", "prefetch": "all of it"}
