#!/usr/bin/env python3
"""Holds docs/metrics.md against what daemons show, and other files against docs/metrics.md.

  metrics_doc.py check DOC DAEMON=FILE…   FILE is a page of /metrics of that daemon (a heading of the document)
  metrics_doc.py names DOC                the documented names, one a line
  metrics_doc.py source DOC DIRECTORY…    the names that stand in the code are the documented ones, and so are the calls of proto/tree.proto
  metrics_doc.py dashboard DOC RULES DASHBOARD > EXPRESSIONS.yml
       every metric that a panel asks for is documented; prints its queries as recording rules, for promtool to parse
"""
import glob
import json
import os
import re
import sys


def documented(path):
    """{daemon: {name: (type, {label: values or how many}, once)}}: "any, one" or "any, at most N" in the document. A value in brackets need not be shown."""
    out, daemons = {}, []
    for line in open(path, encoding="utf-8"):
        if line.startswith("## "):
            title = line[3:].strip()
            every = ["banyan-peer-agent", "banyan-registry-proxy", "banyan-tree-manager"]
            daemons = every if title == "All three" else re.findall(r"banyan-[a-z-]+", title)
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if not line.startswith("| `") or len(cells) < 3:
            continue
        cells = [cell.strip() for cell in line.strip()[1:-1].split("|")]
        name, kind, labels = cells[0].strip("`"), cells[1], {}
        for text in filter(None, (part.strip() for part in cells[2].split(";"))):
            label, values = text.split(":", 1)
            bound = re.fullmatch(r"any, (?:(one)|at most (\d+))", values.strip())
            labels[label.strip().strip("`")] = (1 if bound[1] else int(bound[2])) if bound else {
                value.strip() for value in values.split(",")}
        for daemon in daemons:
            metrics = out.setdefault(daemon, {})
            if name in metrics:
                sys.exit(f"{path}: {name} stands twice for {daemon}")
            metrics[name] = (kind.split(",")[0], labels, "," in kind)
    return out


def scraped(path):
    """{name: (type, {label: values})}, help texts required."""
    types, helps, labels = {}, {}, {}
    for line in open(path, encoding="utf-8"):
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            types[name] = kind
            labels.setdefault(name, {})
        elif line.startswith("# HELP "):
            helps[line.split()[2]] = line.split(" ", 3)[3].strip()
        elif line.strip():
            name, _, rest = line.partition("{") if "{" in line else (line.split()[0], "", "")
            for label, value in re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', rest):
                labels[name].setdefault(label, set()).add(value)
    for name in types:
        if not helps.get(name):
            sys.exit(f"{path}: {name} has no help text")
    return {name: (types[name], labels[name]) for name in types}


def check(doc, pages):
    wrong = []
    known = documented(doc)
    for daemon, path in pages:
        have, want = scraped(path), known.get(daemon, {})
        for name in sorted(set(want) - set(have)):
            if not want[name][2]:
                wrong.append(f"{daemon}: {name} is documented and does not exist")
        for name in sorted(set(have) - set(want)):
            wrong.append(f"{daemon}: {name} exists and is not documented")
        for name in sorted(set(have) & set(want)):
            (kind, labels), (want_kind, want_labels, _) = have[name], want[name]
            if kind != want_kind:
                wrong.append(f"{daemon}: {name} is a {kind}, documented as a {want_kind}")
            if set(labels) != set(want_labels):
                wrong.append(f"{daemon}: {name} has labels {sorted(labels)}, documented {sorted(want_labels)}")
                continue
            for label, values in labels.items():
                allowed = want_labels[label]
                if isinstance(allowed, int):
                    if len(values) > allowed:
                        wrong.append(f"{daemon}: {name}: {len(values)} values of {label}")
                    continue
                known_values = {value.strip("()") for value in allowed}
                if values - known_values:
                    wrong.append(f"{daemon}: {name}: undocumented values of {label}: {sorted(values - known_values)}")
                # What can be counted beforehand is there from the beginning.
                missing = {value for value in allowed - values if not value.startswith("(")}
                if missing and not want[name][2]:
                    wrong.append(f"{daemon}: {name}: documented values of {label} that are not there: {sorted(missing)}")
    return wrong


def undocumented_calls(doc):
    """What proto/tree.proto has and the document's `method` has not, and the reverse."""
    with open(os.path.join(os.path.dirname(doc), "../proto/tree.proto"), encoding="utf-8") as proto:
        calls = set(re.findall(r"^ *rpc (\w+)\(", proto.read(), re.M))
    return sorted(calls ^ documented(doc)["banyan-tree-manager"]["banyan_tree_rpc_errors_total"][1]["method"])


def names(doc):
    return {name for metrics in documented(doc).values() for name in metrics}


def dashboard(doc, rules, path):
    known = names(doc) | set(re.findall(r"^\s*-? *record: *(\S+)", open(rules, encoding="utf-8").read(), re.M)) | {"up"}
    board = json.load(open(path, encoding="utf-8"))
    expressions = []
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            expressions.append((panel["title"], target["expr"]))
    if len(expressions) < 10:
        sys.exit(f"{path}: only {len(expressions)} queries")
    for title, expression in expressions:
        for name in re.findall(r"\b(?:banyan|process)[a-z_:0-9]+", re.sub(r'"[^"]*"', '""', expression)):
            if name not in known:
                sys.exit(f"{path}: panel '{title}' asks for {name}, which does not exist")
    print("groups:\n- name: dashboard\n  rules:")
    for i, (_, expression) in enumerate(expressions):
        plain = expression.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*")
        print(f"  - record: panel{i}:query\n    expr: {json.dumps(plain)}")


def main():
    mode, doc = sys.argv[1:3]
    if mode == "names":
        print("\n".join(sorted(names(doc))))
    elif mode == "source":
        code = set()
        for directory in sys.argv[3:]:
            for path in glob.glob(f"{directory}/**/*.cc", recursive=True):
                if not path.endswith("_test.cc") and "/build/" not in path:
                    code |= set(re.findall(r'"(banyan_[a-z_]+)"', open(path, encoding="utf-8").read()))
        documents = {name for name in names(doc) if name.startswith("banyan_")}
        wrong = [f"{name} is in the code and not in {doc}" for name in sorted(code - documents)]
        wrong += [f"{name} is in {doc} and not in the code" for name in sorted(documents - code)]
        wrong += [f"{call} is either in proto/tree.proto or in {doc}, not in both" for call in undocumented_calls(doc)]
        print("\n".join(wrong), file=sys.stderr)
        sys.exit(1 if wrong or not code else 0)
    elif mode == "check":
        wrong = check(doc, [argument.split("=", 1) for argument in sys.argv[3:]])
        print("\n".join(wrong), file=sys.stderr)
        sys.exit(1 if wrong else 0)
    elif mode == "dashboard":
        dashboard(doc, *sys.argv[3:5])
    else:
        sys.exit(__doc__)


main()
