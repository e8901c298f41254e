#!/usr/bin/env python3
"""Tables of the samples that lib.sh's `sample` wrote: a row a metric, a column a mode, median [least-most] of its rounds.

    report.py [--json FILE] SAMPLES       the summary's JSON lines go to FILE, or follow the tables

With two modes or more a last column gives each other mode's median over banyan's: above 1 the other is larger.
"""
import argparse
import json
import statistics


def summarise(lines):
    groups = {}
    for line in lines:
        sample = json.loads(line)
        key = (sample["figure"], sample["case"], sample["metric"], sample["unit"], sample["mode"])
        groups.setdefault(key, []).append(sample["value"])
    return [{"figure": figure, "case": case, "metric": metric, "unit": unit, "mode": mode,
             "median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}
            for (figure, case, metric, unit, mode), values in groups.items()]


def number(value):
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def cell(entry):
    if entry is None:
        return "-"
    text = number(entry["median"])
    return text if entry["n"] == 1 else f"{text} [{number(entry['min'])}-{number(entry['max'])}]"


def print_table(figure, case, entries):
    modes = list(dict.fromkeys(entry["mode"] for entry in entries))
    by_row = {}
    for entry in entries:
        by_row.setdefault((entry["metric"], entry["unit"]), {})[entry["mode"]] = entry
    others = [mode for mode in modes if mode != "banyan"] if "banyan" in modes else []
    rows = [["metric", "unit", *modes, *(f"{mode}/banyan" for mode in others)]]
    for (metric, unit), found in by_row.items():
        ratios = []
        for mode in others:
            both = mode in found and found.get("banyan", {}).get("median")
            ratios.append(f"{found[mode]['median'] / found['banyan']['median']:.2f}" if both else "-")
        rows.append([metric, unit, *(cell(found.get(mode)) for mode in modes), *ratios])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rounds = max(entry["n"] for entry in entries)
    print(f"\n== {figure}{', ' + case if case else ''} (median [least-most] of up to {rounds})")
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    parser.add_argument("samples")
    arguments = parser.parse_args()
    with open(arguments.samples, encoding="utf-8") as file:
        summary = summarise(file)
    tables = {}
    for entry in summary:
        tables.setdefault((entry["figure"], entry["case"]), []).append(entry)
    for (figure, case), entries in tables.items():
        print_table(figure, case, entries)
    lines = "".join(json.dumps(entry) + "\n" for entry in summary)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            file.write(lines)
    else:
        print("\n" + lines, end="")


if __name__ == "__main__":
    main()
