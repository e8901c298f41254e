#!/usr/bin/env python3
"""Holds the source tree to the table of docs/architecture.md: which folder may include which.

That table is the rule, and read from there. Also: a folder with sources is in it and has a README.md; a header has
`#pragma once`; an include of ours is written from the project root. `layering_test.py --self-test` checks that each breach
is found.
"""
import os
import re
import subprocess
import sys
import tempfile

DOCUMENT = "docs/architecture.md"
ROW = re.compile(r"^\| ((?:`[a-z-]+/`(?:, )?)+) \| .* \| ([^|]+) \|$", re.MULTILINE)
# Tests and test doubles may also use these: an end of a wire is tested against the other end, lazyfs over a real store.
ALLOWED_IN_TESTS = {
    "fetch": ["lazyfs"],
    "lazyfs": ["store", "net"],
    "cli": ["store"],
    "swarm": ["fetch"],
}
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def read_table(text):
    """Folder → the folders whose headers it may include, besides its own."""
    table = {}
    for names, may_include in ROW.findall(text):
        above = list(table)
        for folder in re.findall(r"`([a-z-]+)/`", names):
            table[folder] = {"nothing": [], "nothing of ours": [], "all libraries above": above, "anything": None}.get(
                may_include, may_include.split(", "))
    for folder, allowed in table.items():
        table[folder] = list(table) if allowed is None else allowed
        strangers = set(table[folder]) - set(table)
        if strangers:
            sys.exit(f"{DOCUMENT}: {folder} may include {', '.join(sorted(strangers))}, which the table does not have")
    return table


def is_test(path):
    name = os.path.basename(path)
    return "/testing/" in path or re.search(r"(_test|_fuzz|_bench|_test_util)\.(cc|h)$", name) is not None


def check_file(path, text, table):
    folder = path.split("/")[0]
    breaches = []
    if path.endswith(".h") and not re.search(r"^#pragma once$", text, re.MULTILINE):
        breaches.append(f"{path}: no #pragma once")
    allowed = {folder, *table[folder]}
    if is_test(path):
        allowed |= set(ALLOWED_IN_TESTS.get(folder, []))
    for match in INCLUDE.finditer(text):
        include = match.group(1)
        line = text.count("\n", 0, match.start()) + 1
        target = include.split("/")[0]
        if "/" not in include or target == "..":
            breaches.append(f"{path}:{line}: \"{include}\" is not written from the project root")
        elif target not in table:
            breaches.append(f"{path}:{line}: \"{include}\" is in no folder of ours; a library's header takes <>")
        elif target not in allowed:
            breaches.append(f"{path}:{line}: {folder} may not include {target} (\"{include}\")")
    return breaches


def check_tree(root, paths, table):
    """`paths` are the tracked C++ sources below `root`, relative to it."""
    breaches = []
    for folder in sorted({path.split("/")[0] for path in paths}):
        if folder not in table:
            breaches.append(f"{folder}/: not in the table of folders")
        elif not os.path.exists(f"{root}/{folder}/README.md"):
            breaches.append(f"{folder}/: no README.md")
    for path in paths:
        if path.split("/")[0] in table:
            with open(f"{root}/{path}", encoding="utf-8") as f:
                breaches += check_file(path, f.read(), table)
    return breaches


def tracked_sources(root):
    """git's list where there is a repository (build trees do not count), else every source outside build/."""
    listed = subprocess.run(["git", "-C", root, "-c", "safe.directory=*", "ls-files", "*.cc", "*.h", "*.proto"],
                            capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return [path for path in listed.stdout.splitlines() if os.path.exists(f"{root}/{path}")]
    found = []
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = [d for d in subdirectories if d not in ("build", ".git", ".cache")]
        found += [os.path.relpath(f"{directory}/{name}", root) for name in names if name.endswith((".cc", ".h", ".proto"))]
    return found


TABLE_OF_SELF_TEST = """
| folder | what it is | may include |
|---|---|---|
| `common/` | a | nothing of ours |
| `net/` | b | common |
| `fetch/` | c | common, net |
| `store/` | d | all libraries above |
| `lazyfs/` | e | common |
| `bench/`, `tests/` | f | anything |
| `banyan` | no folder | x |
"""


def self_test():
    table = read_table(TABLE_OF_SELF_TEST)
    assert table["common"] == [] and table["fetch"] == ["common", "net"], table
    assert table["store"] == ["common", "net", "fetch"] and table["tests"] == list(table) == table["bench"], table
    good = {
        "common/a.h": "#pragma once\n#include <string>\n",
        "net/b.cc": '#include "net/b.h"\n#include "common/a.h"\n',
        "lazyfs/c_test.cc": '#include "store/s.h"\n',
    }
    bad = {
        "common/a.h": "#include <string>\n",
        "common/up.cc": '#include "net/b.h"\n',
        "net/b.cc": '#include "fetch/f.h"\n',
        "net/relative.cc": '#include "b.h"\n',
        "net/parent.cc": '#include "../common/a.h"\n',
        "net/library.cc": '#include "boost/asio.hpp"\n',
        "lazyfs/c.cc": '  #  include "store/s.h"\n',
        "stranger/d.cc": "",
    }
    for files, expected in ((good, 0), (bad, len(bad) + 1)):
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                os.makedirs(os.path.dirname(f"{root}/{path}"), exist_ok=True)
                with open(f"{root}/{path}", "w", encoding="utf-8") as f:
                    f.write(text)
            for folder in ("net", "lazyfs") if files is bad else ("common", "net", "lazyfs"):
                with open(f"{root}/{folder}/README.md", "w", encoding="utf-8") as f:
                    f.write("x")
            breaches = check_tree(root, sorted(files), table)
            assert len(breaches) == expected, breaches
    print("self-test passed")


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return 0
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with open(f"{root}/{DOCUMENT}", encoding="utf-8") as f:
        table = read_table(f.read())
    breaches = check_tree(root, tracked_sources(root), table)
    for breach in breaches:
        print(breach)
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
