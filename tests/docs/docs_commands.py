#!/usr/bin/env python3
"""The commands in README.md and docs/*.md (tests/docs/README.md).

  docs_commands.py list SOURCE BIN TESTS          checks all marks and all words in running text; prints the documents that have blocks to run;
                                                  TESTS: what ctest --show-only=json-v1 says
  docs_commands.py script SOURCE DOCUMENT KIND    the document's blocks of that mark, run or smaller, as one shell script
  docs_commands.py self-test
"""
import glob
import json
import os
import re
import shlex
import subprocess
import sys

MARK = re.compile(r"<!-- docs: (?P<kind>run|test (?P<tests>[\w -]+)|smaller: (?P<options>.+)|not run: .+) -->$")
OURS = re.compile(r"^\s*(?:\$ )?(?:sudo )?(?:\S*=\S* )*(banyan(?:-[a-z-]+)? |scripts/\S+|systemctl |kubectl |curl |ssh |nft |apt-get |tests/|bench/)")
# What stands in the tree and is named by its path there. Not behind a path, and not in kubectl's deploy/NAME.
PATHS = re.compile(r"(?<![\w/.<>~$}-])((?:bench|deploy|docs|proto|scripts|tests)/[\w.*{},/-]*)")
LINKS = re.compile(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)")
KUBECTL = re.compile(r"kubectl [^`\n|]*")
KINDS = {"daemonset": "DaemonSet", "ds": "DaemonSet", "deploy": "Deployment", "deployment": "Deployment", "statefulset": "StatefulSet", "sts": "StatefulSet",
         "service": "Service", "svc": "Service", "configmap": "ConfigMap", "cm": "ConfigMap", "secret": "Secret", "serviceaccount": "ServiceAccount"}

WITH_VERBS = ("apt-get", "banyan", "kubectl", "systemctl")


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


def commands_of(text):
    """[(line, what it runs)]: a script or a program, and the verb of those that have some."""
    out = []
    for line in text.split("\n"):
        words = shlex.split(line, comments=True)
        if words:
            out.append((line, " ".join(words[:2]) if words[0] in WITH_VERBS else words[0]))
    return out


def check_tests(path, where, names, text, tests):
    """Each of the block's commands stands in the text of one of these tests, and each test has one of them."""
    idle = set(names)
    for name in names:
        if name not in tests:
            raise Wrong(f"{where}: there is no test {name}")
    for line, program in commands_of(text):
        running = [name for name in names if program in tests[name] or f"docs/{os.path.basename(path)}" in tests[name]]
        if not running:
            raise Wrong(f"{where}: {' '.join(names)} does not run {program}: {line.strip()}")
        idle -= set(running)
    if idle:
        raise Wrong(f"{where}: {' '.join(sorted(idle))} runs nothing of this")


def text_of(source, files):
    """What these files and the scripts and helpers of ours that they name say."""
    texts, left = {}, list(files)
    while left:
        file = left.pop()
        if file in texts or not os.path.isfile(f"{source}/{file}"):
            continue
        with open(f"{source}/{file}", encoding="utf-8", errors="replace") as opened:
            texts[file] = opened.read()
        left += re.findall(r"\b(?:scripts|tests/lib)/[\w-]+\.sh", texts[file])
        left += [f"tests/lib/{name}" for name in re.findall(r"/lib/([\w-]+\.sh)", texts[file])]
    return "\n".join(texts.values())


def tests_of(source, path):
    """{ctest's name: its command, and what the scripts in it say}; CI: what a clone must pass."""
    with open(path, encoding="utf-8") as listing:
        tests = json.load(listing)["tests"]
    out = {"CI": text_of(source, [".ci/run"])}
    for test in tests:
        command = [os.path.relpath(os.path.realpath(word), source) if os.path.isfile(word) else word for word in test.get("command", [])]
        out[test["name"]] = " ".join(command) + "\n" + text_of(source, [word for word in command if word.endswith((".sh", ".py"))])
    return out


def check_blocks(path, tests):
    run = False
    for number, language, mark, text in blocks(path):
        where = f"{path}:{number}"
        if language != "sh":
            if mark:
                raise Wrong(f"{where}: only blocks of sh are marked")
            # Pictures are not of ASCII alone; what is, and has lines that begin with a word, holds commands or says with `text` that it does not.
            if not language and text.isascii() and re.search(r"^\s*(?:\$ )?[a-z]", text, re.M):
                raise Wrong(f"{where}: a block that does not say what it is: sh, text …")
            for line in text.split("\n"):
                if not language and line.isascii() and OURS.match(line):
                    raise Wrong(f"{where}: a command in a block that is not fenced as sh: {line.strip()}")
            continue
        if not mark:
            raise Wrong(f"{where}: a block of commands without a mark")
        if mark["tests"]:
            check_tests(path, where, mark["tests"].split(), text, tests)
        run = run or mark["kind"] == "run" or mark["options"] is not None
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


def braces(word):
    """a{b,c}d: [abd, acd]"""
    found = re.match(r"(.*?)\{([^{}]*)\}(.*)$", word)
    if not found:
        return [word]
    return [whole for part in found[2].split(",") for whole in braces(found[1] + part + found[3])]


def check_paths(path, source):
    """Files and directories of the tree that the document names or links to are there."""
    text = open(path, encoding="utf-8").read()
    # Their places stay: lines are counted.
    plain = KUBECTL.sub(lambda m: re.sub(r"\S+/\S+", lambda word: "-" * len(word[0]), m[0]), text)
    named = [(m.start(), name.rstrip(".,/-"), source) for m in PATHS.finditer(plain) for name in braces(m[1])]
    named += [(m.start(), m[1], os.path.dirname(path)) for m in LINKS.finditer(text)]
    for start, name, base in named:
        # A decision is named by its number, too.
        if not glob.glob(f"{base}/{name}") and not glob.glob(f"{base}/{name}-*.md"):
            raise Wrong(f"{path}:{text.count(chr(10), 0, start) + 1}: there is no {name}")
    return len(named)


def check_scripts(path, source):
    """Options and verbs behind a script in running text stand in what the script says."""
    text = open(path, encoding="utf-8").read()
    for m in re.finditer(r"`((?:bench|scripts|tests)/[\w./-]+) ([^`\n]+)`", text):
        said = text_of(source, [m[1]])
        words = m[2].split()
        for before, word in zip([""] + words, words):
            verb = re.fullmatch(r"[a-z]+", word) and not before.startswith("--")
            if (verb or word.startswith("--")) and word.split("=")[0] not in said:
                raise Wrong(f"{path}:{text.count(chr(10), 0, m.start()) + 1}: {m[1]} has no {word}")


def check_evidence(path, tests):
    """In a table of what was tested each row names its test, or says that there is none; ctest's names are names of tests."""
    shown = False
    for number, line in enumerate(open(path, encoding="utf-8"), 1):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        shown = bool(cells) and (shown or cells[-1] == "shown by")
        if shown and cells[-1] not in ("shown by", "---") and "`" not in cells[-1] and "not tested" not in cells[-1]:
            raise Wrong(f"{path}:{number}: no test is named: {line.strip()}")
        for name in re.findall(r"ctest's `(\w+)`", line):
            if name not in tests:
                raise Wrong(f"{path}:{number}: there is no test {name}")


def objects_of(source):
    """{(kind, name)} and the namespaces of deploy/kubernetes."""
    objects = set()
    for path in glob.glob(f"{source}/deploy/kubernetes/**/*.yaml", recursive=True):
        for document in re.split(r"^---$", open(path, encoding="utf-8").read(), flags=re.M):
            kind, name = (re.search(pattern, document, re.M) for pattern in (r"^kind: (\w+)", r"^  name: ([\w.-]+)"))
            if kind and name:
                objects.add((kind[1], name[1]))
    return objects


def check_kubectl(path, source, objects):
    """The objects and namespaces that kubectl is told in the document are those of deploy/kubernetes."""
    text = open(path, encoding="utf-8").read()
    for m in KUBECTL.finditer(text):
        where = f"{path}:{text.count(chr(10), 0, m.start()) + 1}"
        named = [(KINDS[kind], name) for kind, name in re.findall(r"\b([a-z]+)/([\w.-]+)", m[0])
                 if kind in KINDS and not os.path.exists(f"{source}/{kind}/{name}")]
        named += [("Namespace", name) for name in re.findall(r"(?:-n|--namespace)[ =]([\w.-]+)", m[0])]
        for kind, name in named:
            if (kind, name) not in objects:
                raise Wrong(f"{where}: deploy/kubernetes has no {kind} {name}: {m[0].strip()}")


def documents(source):
    return [f"{source}/README.md"] + sorted(glob.glob(f"{source}/docs/*.md")) + sorted(glob.glob(f"{source}/deploy/**/README.md", recursive=True))


def further_documents(source):
    """Without commands to run."""
    found = [path for pattern in ("docs/decisions/*.md", "*/README.md", "*/*/README.md") for path in glob.glob(f"{source}/{pattern}")]
    return [path for path in found if not path.startswith((f"{source}/build/", f"{source}/deploy/"))]


def list_documents(source, bin_directory, tests):
    table = json.loads(subprocess.run([f"{bin_directory}/banyan", "--print-commands"], stdout=subprocess.PIPE, check=True).stdout)
    tests = tests_of(os.path.realpath(source), tests)
    objects = objects_of(source)
    count = paths = 0
    for path in documents(source):
        if check_blocks(path, tests):
            print(os.path.relpath(path, source))
        count += check_words(path, table)
        paths += check_paths(path, source)
        check_kubectl(path, source, objects)
        check_scripts(path, source)
        check_evidence(path, tests)
    paths += sum(check_paths(path, source) for path in further_documents(source))
    if count < 50 or paths < 200 or len(objects) < 10:
        raise Wrong(f"only {count} mentions of banyan's commands, {paths} of paths and {len(objects)} objects of Kubernetes were found")
    print(f"{count} mentions of commands and {paths} of paths are right", file=sys.stderr)


def script(source, document, kind):
    path = os.path.join(source, document)
    lines = ["set -eo pipefail"]
    for number, _, mark, text in blocks(path):
        if not mark or kind != ("smaller" if mark["options"] else mark["kind"]):
            continue
        lines.append(f"echo {shlex.quote(f'== {document}:{number}')} >&2")
        if kind == "run":
            lines.append(text)
        else:
            lines += [f"{shlex.join(shlex.split(line, comments=True))} {mark['options']}" for line, _ in commands_of(text)]
    return "\n".join(lines) + "\n"


def self_test():
    import tempfile
    table = {"options": [{"names": ["--json"]}], "commands": [{"name": "tree", "options": [{"names": ["--stripe"]}]}]}
    objects = {("DaemonSet", "banyan-agent"), ("Namespace", "banyan-system")}
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/x.md"
        os.makedirs(f"{directory}/deploy/kubernetes")
        os.mkdir(f"{directory}/scripts")
        for name in ("known", "unknown", "x"):
            with open(f"{directory}/scripts/{name}.sh", "w", encoding="utf-8") as file:
                file.write("up) shift ;; --rate) rate=$2 ;;\n")

        def fails(text, what):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            try:
                check_blocks(path, {"known": "scripts/known.sh\ncurl --silent", "other": ""})
                check_words(path, table)
                check_paths(path, directory)
                check_kubectl(path, directory, objects)
                check_scripts(path, directory)
                check_evidence(path, {"known": ""})
            except Wrong:
                return
            sys.exit(f"goes unnoticed: {what}")

        fails("```sh\nls\n```\n", "a block without a mark")
        fails("<!-- docs: test known -->\n```sh\nscripts/unknown.sh\n```\n", "a command that its test does not run")
        fails("<!-- docs: test known other -->\n```sh\nscripts/known.sh\n```\n", "a test that runs nothing of the block")
        fails("<!-- docs: run -->\n\ntext\n```sh\nls\n```\n", "a mark without a block")
        fails("```\nbanyan tree\n```\n", "a command in another block")
        fails("<!-- docs: test neither -->\n```sh\nls\n```\n", "a test that does not exist")
        fails("<!-- docs: later -->\n```sh\nls\n```\n", "another mark")
        fails("```\nls /\n```\n", "a block that does not say what it is")
        fails("```\nbanyan tree ── a picture\nbanyan tree\n```\n", "a command below a picture")
        fails("see `scripts/none.sh`\n", "a script that does not exist")
        fails("see `scripts/known.sh down`\n", "a verb that a script does not have")
        fails("see `scripts/known.sh up --nodes 8`\n", "an option that a script does not have")
        fails("see tests/{none,no}.sh.\n", "files that do not exist")
        fails("[this](none.md)\n", "a link to nothing")
        fails("`kubectl -n banyan-system logs daemonset/banyan`\n", "an object that does not exist")
        fails("`kubectl -n banyan logs daemonset/banyan-agent`\n", "another namespace")
        fails("| what | shown by |\n|---|---|\n| fire | |\n", "a row without a test")
        fails("shown by ctest's `none`\n", "a test that there is not")
        fails("`banyan wood`\n", "a command that does not exist")
        fails("`banyan tree --colour`\n", "an option that does not exist")
        with open(path, "w", encoding="utf-8") as file:
            file.write("<!-- docs: run -->\n```sh\nls\n```\n`banyan tree X --stripe 1 --json`\n```toml\nx = 1\n```\n")
            file.write("```text\nbanyan wood\n```\n<!-- docs: test known -->\n```sh\nscripts/known.sh  # why\ncurl x\n```\n")
            file.write("<!-- docs: smaller: --n 1 -->\n```sh\nscripts/x.sh --n 9  # long\n```\n```\n├── a picture\n```\n")
            file.write("| what | shown by |\n|---|---|\n| fire | ctest's `known` |\n| flood | not tested |\n\n| a | b |\n|---|---|\n| c | |\n")
            file.write("`kubectl -n banyan-system logs ds/banyan-agent deploy/kubernetes`, scripts/{known,x}.sh, `scripts/x.sh up 8 --rate fast`, /a/scripts/y.sh, [x](x.md#here)\n")
        if script(directory, "x.md", "smaller").splitlines()[2:] != ["scripts/x.sh --n 9 --n 1"]:
            sys.exit("a measurement is not made smaller: " + script(directory, "x.md", "smaller"))
        if not check_blocks(path, {"known": "scripts/known.sh\ncurl --silent"}) or check_words(path, table) != 1:
            sys.exit("a good document is refused")
        if check_paths(path, directory) != 6:
            sys.exit(f"{check_paths(path, directory)} paths")
        check_kubectl(path, directory, objects)
        check_scripts(path, directory)
        check_evidence(path, {"known": ""})


def main():
    try:
        if sys.argv[1:2] == ["list"]:
            list_documents(*sys.argv[2:5])
        elif sys.argv[1:2] == ["script"]:
            sys.stdout.write(script(*sys.argv[2:5]))
        elif sys.argv[1:2] == ["self-test"]:
            self_test()
        else:
            sys.exit(__doc__)
    except Wrong as wrong:
        sys.exit(str(wrong))


main()
