#!/usr/bin/env python3
"""The commands in README.md and docs/*.md (tests/docs/README.md).

  docs_commands.py list SOURCE BIN CTEST_NAMES    checks all marks and all words in running text; prints the documents that have blocks to run
  docs_commands.py script SOURCE DOCUMENT         the document's blocks as one shell script
  docs_commands.py self-test
"""
import glob
import json
import os
import re
import shlex
import subprocess
import sys

MARK = re.compile(r"<!-- docs: (run|test ([\w-]+)|not run: (.+)) -->$")
OURS = re.compile(r"^\s*(?:\$ )?(?:sudo )?(?:\S*=\S* )*(banyan(?:-[a-z-]+)? |scripts/\S+|systemctl |kubectl |curl |tests/|bench/)")


class Wrong(Exception):
    pass


def blocks(path):
    """[(line number, language, mark or None, text)]"""
    out, mark, fence, body, setup = [], None, None, [], None
    for number, line in enumerate(open(path, encoding="utf-8"), 1):
        line = line.rstrip("\n")
        if setup is not None:
            if line.strip() == "-->":
                out.append((setup[0], "sh", MARK.match("<!-- docs: run -->"), "\n".join(setup[1])))
                setup = None
            else:
                setup[1].append(line)
            continue
        if fence is None and line == "<!-- docs: setup":
            setup = (number, [])
            continue
        if fence is not None:
            if line.strip() == "```":
                out.append((fence[0], fence[1], fence[2], "\n".join(body)))
                fence, body = None, []
            else:
                body.append(line)
            continue
        found = re.match(r"```(\w*)$", line)
        if found:
            fence, mark = (number, found[1], mark), None
            continue
        if mark is not None and line.strip():
            raise Wrong(f"{path}:{number}: a mark without a block behind it")
        marked = MARK.match(line)
        if marked:
            mark = marked
        elif line.startswith("<!-- docs:"):
            raise Wrong(f"{path}:{number}: no such mark: {line}")
    return out


def check_blocks(path, tests):
    run = False
    for number, language, mark, text in blocks(path):
        where = f"{path}:{number}"
        if language != "sh":
            if mark:
                raise Wrong(f"{where}: only blocks of sh are marked")
            for line in text.split("\n"):
                # Pictures are not of ASCII.
                if not language and line.isascii() and OURS.match(line):
                    raise Wrong(f"{where}: a command in a block that is not fenced as sh: {line.strip()}")
            continue
        if not mark:
            raise Wrong(f"{where}: a block of commands without a mark")
        if mark[2] and mark[2] not in tests:
            raise Wrong(f"{where}: there is no test {mark[2]}")
        run = run or mark[1] == "run"
    return run


def options_of(entry):
    return {name for option in entry["options"] for name in option["names"]}


def check_words(path, table):
    """`banyan verb --option` in running text and in blocks: known to the program."""
    text = open(path, encoding="utf-8").read()
    # Blocks that say they are plain text hold no commands; their lines still count.
    text = re.sub(r"^```text\n.*?^```$", lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S)
    verbs = {command["name"]: command for command in table["commands"]}
    found = [(m.start(), m[1]) for m in re.finditer(r"`(banyan [^`\n]+)`", text)]
    found += [(m.start(), m[1]) for m in re.finditer(r"^\s*(banyan [^#\n|;&<>]+)", text, re.M)]
    for start, words in found:
        line = text.count("\n", 0, start) + 1
        parts = re.split(r"[\s\[\]|,();…]+", words.split(" -- ")[0])
        entry = None
        for part in parts[1:]:
            if part.startswith("-") and part not in ("-", "--"):
                known = options_of(table) | (options_of(entry) if entry else set()) | {"--help", "--version"}
                if part.split("=")[0] not in known:
                    raise Wrong(f"{path}:{line}: banyan has no option {part} here: {words}")
            elif entry is None and re.fullmatch(r"[a-z]+", part):
                if part not in verbs:
                    if words.startswith("banyan " + part) and re.match(r"`?banyan ", words):
                        raise Wrong(f"{path}:{line}: banyan has no command {part}: {words}")
                    continue
                entry = verbs[part]
    return len(found)


def documents(source):
    return [f"{source}/README.md"] + sorted(glob.glob(f"{source}/docs/*.md")) + sorted(glob.glob(f"{source}/deploy/**/README.md", recursive=True))


def list_documents(source, bin_directory, tests):
    table = json.loads(subprocess.run([f"{bin_directory}/banyan", "--print-commands"], stdout=subprocess.PIPE, check=True).stdout)
    tests = set(open(tests, encoding="utf-8").read().split())
    count = 0
    for path in documents(source):
        if check_blocks(path, tests):
            print(os.path.relpath(path, source))
        count += check_words(path, table)
    if count < 50:
        raise Wrong(f"only {count} mentions of banyan's commands were found")
    print(f"{count} mentions of commands are right", file=sys.stderr)


def script(source, document):
    path = os.path.join(source, document)
    lines = ["set -eo pipefail"]
    for number, _, mark, text in blocks(path):
        if mark and mark[1] == "run":
            lines.append(f"echo {shlex.quote(f'== {document}:{number}')} >&2")
            lines.append(text)
    return "\n".join(lines) + "\n"


def self_test():
    import tempfile
    table = {"options": [{"names": ["--json"]}], "commands": [{"name": "tree", "options": [{"names": ["--stripe"]}]}]}
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/x.md"

        def fails(text, what):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            try:
                check_blocks(path, {"known"})
                check_words(path, table)
            except Wrong:
                return
            sys.exit(f"goes unnoticed: {what}")

        fails("```sh\nls\n```\n", "a block without a mark")
        fails("<!-- docs: run -->\n\ntext\n```sh\nls\n```\n", "a mark without a block")
        fails("```\nbanyan tree\n```\n", "a command in another block")
        fails("<!-- docs: test other -->\n```sh\nls\n```\n", "a test that does not exist")
        fails("<!-- docs: later -->\n```sh\nls\n```\n", "another mark")
        fails("`banyan wood`\n", "a command that does not exist")
        fails("`banyan tree --colour`\n", "an option that does not exist")
        with open(path, "w", encoding="utf-8") as file:
            file.write("<!-- docs: run -->\n```sh\nls\n```\n`banyan tree X --stripe 1 --json`\n```toml\nx = 1\n```\n")
            file.write("```text\nbanyan wood\n```\n")
        if not check_blocks(path, {"known"}) or check_words(path, table) != 1:
            sys.exit("a good document is refused")


def main():
    try:
        if sys.argv[1:2] == ["list"]:
            list_documents(*sys.argv[2:5])
        elif sys.argv[1:2] == ["script"]:
            sys.stdout.write(script(*sys.argv[2:4]))
        elif sys.argv[1:2] == ["self-test"]:
            self_test()
        else:
            sys.exit(__doc__)
    except Wrong as wrong:
        sys.exit(str(wrong))


main()
