#!/usr/bin/env python3
"""Writes what is made out of the programs' own words: man pages, shell completions, the configuration reference.

  scripts/command_docs.py BIN_DIRECTORY [OUTPUT_DIRECTORY]     default: this source tree

docs/man/*.1, *.8            of `banyan --print-commands`, the daemons' --help and --print-config
deploy/completion/           bash, zsh and fish, of `banyan --print-commands`
docs/configuration.md        of the daemons' --print-config
tests/docs/command_docs.sh holds these files against the programs: run this, as root (defaults differ for others), after a
change of options or keys.
"""
import json
import os
import re
import subprocess
import sys

DAEMONS = {
    "banyan-peer-agent": "the node's daemon: store, lazy mounts, snapshotter, mirror, peer",
    "banyan-registry-proxy": "registry mirror that converts what is pulled through it",
    "banyan-tree-manager": "says which node gets an image's bytes from which",
    "banyan-keeper": "keeps lazy mounts alive while the agent is away",
}
CONFIGURED = list(DAEMONS)[:3]
PATH_OPTION = re.compile(r"(file|(?<!work)dir|root|socket|config|key|DIR|containerd)$")
# CLI11's words for an option's argument.
ARGUMENTS = {"TEXT": "VALUE", "INT": "NUMBER", "UINT": "NUMBER"}


def output_of(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, text=True).stdout


# ---- Man pages ----

def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.M)


def paragraphs(text):
    """Footers: indented lines and lines of several columns stay as they are, "Examples:" and the like are headings."""
    out, verbatim = [], False

    def literal(on):
        nonlocal verbatim
        if on != verbatim:
            out.extend([".RS 2", ".nf"] if on else [".fi", ".RE"])
            verbatim = on

    for line in text.strip("\n").split("\n"):
        heading = re.fullmatch(r"(Examples?|Exit codes):(.*)", line)
        if heading:
            literal(False)
            out.append(".SH " + ("EXAMPLES" if heading[1].startswith("Ex") and "code" not in heading[1] else "EXIT STATUS"))
            if heading[2].strip():
                out.append(roff(heading[2].strip()))
        elif not line.strip():
            literal(False)
            out.append(".PP")
        else:
            literal(line.startswith("  "))
            out.append(roff(line[2:] if verbatim else line))
    literal(False)
    # .PP next to a heading, or twice, is noise.
    clean = []
    for line in out:
        if line == ".PP" and (not clean or clean[-1].startswith((".SH", ".PP"))):
            continue
        if line.startswith(".SH") and clean and clean[-1] == ".PP":
            clean.pop()
        clean.append(line)
    while clean and clean[-1] == ".PP":
        clean.pop()
    return clean


def option_lines(option):
    takes = option["takes"]
    value = "|".join(option["choices"]) or ARGUMENTS.get(takes, takes)
    names = ", ".join(f"\\fB{roff(name)}\\fR" for name in reversed(option["names"])) or f"\\fI{roff(option['positional'])}\\fR"
    head = names + (f" \\fI{roff(value)}\\fR" if takes and option["names"] else "")
    notes = [option["description"].rstrip(".") + "."]
    if option["default"]:
        notes.append(f"Default: {option['default']}.")
    if option["environment"]:
        notes.append(f"Environment: {option['environment']}.")
    return [".TP", head, roff(" ".join(notes))]


def synopsis(name, command):
    words = [f".B {roff(name)}"]
    if any(option["names"] for option in command["options"]):
        words.append("[\\fIoption\\fR]...")
    if command["commands"]:
        words.append("\\fIcommand\\fR ...")
    for option in command["options"]:
        if not option["names"]:
            word = f"\\fI{roff(option['positional'])}\\fR"
            words.append(word if option["required"] else f"[{word}]")
    return words


def man_page(name, section, summary, body):
    title = f'.TH {name.upper()} {section} "" "Banyan" "Banyan"'.replace("-", "\\-")
    return "\n".join([title, ".SH NAME", f"{roff(name)} \\- {roff(summary[0].lower() + summary[1:].rstrip('.'))}", *body]) + "\n"


def visible(command):
    return [option for option in command["options"] if option["names"] != ["--help", "-h"]]


def command_pages(table):
    pages = {}
    globals_ = [line for option in visible(table) for line in option_lines(option)]
    listing = []
    for command in table["commands"]:
        name = f"banyan-{command['name']}"
        listing += [".TP", f"\\fBbanyan {roff(command['name'])}\\fR", roff(command["description"]) + "."]
        body = [".SH SYNOPSIS", *synopsis(f"banyan {command['name']}", command), ".SH DESCRIPTION", roff(command["description"]) + "."]
        if command["commands"]:
            body.append(".SH COMMANDS")
            for inner in command["commands"]:
                body += [".TP", f"\\fB{roff(inner['name'])}\\fR", roff(inner["description"]) + "."]
        lines = [line for option in visible(command) for line in option_lines(option)]
        if lines:
            body += [".SH OPTIONS", *lines]
        if command["footer"].strip():
            footer = paragraphs(command["footer"])
            if footer and not footer[0].startswith(".SH"):
                body.append(".SH NOTES")
            body += footer
        body += [".SH SEE ALSO", ".BR banyan (1),", "also for the options that all commands take and for exit codes"]
        pages[f"{name}.1"] = man_page(name, 1, command["description"], body)
    body = [".SH SYNOPSIS", *synopsis("banyan", table), ".SH DESCRIPTION", roff(table["description"]),
            "Each command has a page of its own, as", ".BR banyan\\-mount (1),", "and \\fB\\-\\-help\\fR.", ".SH COMMANDS", *listing,
            ".SH OPTIONS", "They may stand before or after the command.", *globals_]
    footer = paragraphs(table["footer"])
    if not footer[0].startswith(".SH"):
        body.append(".SH REFERENCES")
    body += footer + [".SH SEE ALSO", ".BR banyan\\-peer\\-agent (8),", ".BR banyan\\-registry\\-proxy (8),",
                      ".BR banyan\\-tree\\-manager (8)"]
    pages["banyan.1"] = man_page("banyan", 1, table["description"], body)
    return pages


def daemon_page(bin_directory, name):
    text = output_of(f"{bin_directory}/{name}", "--help")
    if "Options:" in text:
        head, rest = text.split("Options:\n", 1)
        options, _, footer = rest.partition("\n\n")
        usage = re.search(r"Usage: (.*)", head)[1]
        description = head.split("Usage:")[0].strip()
    else:
        usage = re.search(r"Usage: (.*)", text)[1]
        blocks = text.split("\n\n")
        description, options, footer = blocks[1], blocks[2], "\n\n".join(blocks[3:])
    body = [".SH SYNOPSIS", roff(usage), ".SH DESCRIPTION", roff(re.sub(r"\s+", " ", description)), ".SH OPTIONS"]
    for line in options.split("\n"):
        match = re.match(r"  (-\S.*?)(?:  +|$)(.*)", line)
        if match:
            names = re.sub(r"^(-\w),(--)", r"\1, \2", match[1])
            names = re.sub(r" (TEXT|U?INT)\b", lambda m: " " + ARGUMENTS[m[1]], names)
            body += [".TP", f"\\fB{roff(names)}\\fR"]
        body.append(roff((match[2] if match else line).strip()))
    if footer.strip():
        body += [".SH NOTES", *paragraphs(footer)]
    if name in CONFIGURED:
        body += [".SH CONFIGURATION", f"TOML; unknown keys are refused. \\fB{roff(name)} \\-\\-print\\-config\\fR prints all of it."]
        for section, _, keys in config_sections(bin_directory, name):
            for key, default, meaning in keys:
                full = f"{section}.{key}" if section else key
                body += [".TP", f"\\fB{roff(full)}\\fR = {roff(default)}", roff(" ".join(meaning))]
        body += [".SH FILES", ".TP", f"/etc/banyan/{roff(name.removeprefix('banyan-'))}.toml", "the configuration"]
    body += [".SH SEE ALSO", ".BR banyan (1)"]
    return man_page(name, 8, DAEMONS[name], body)


# ---- Configuration ----

def config_sections(bin_directory, name):
    """[(section, its description, [(key, default, lines of meaning)])]"""
    sections, comment = [("", [], [])], []
    for line in output_of(f"{bin_directory}/{name}", "--print-config").splitlines():
        bare = re.sub(r"^# ?(?=\[|[a-z_]+ = )", "", line)
        header = re.fullmatch(r"\[(.+)\]", bare)
        key = re.fullmatch(r"([a-z_]+) = (.*)", bare)
        if header:
            sections.append((header[1], comment, []))
            comment = []
        elif key:
            sections[-1][2].append((key[1], key[2], comment))
            comment = []
        elif line.startswith("#"):
            comment.append(line.lstrip("# ").rstrip())
        elif line.strip():
            sys.exit(f"{name} --print-config: cannot read: {line}")
    return sections


def cell(text):
    return text.replace("|", "\\|").replace("<", "&lt;")


def configuration(bin_directory):
    out = ["# Configuration", "",
           "Made by `scripts/command_docs.py` out of the programs themselves (`--print-config` prints the same as a file to begin with); not to be",
           "edited by hand. Each daemon reads one TOML file. Unknown keys and values of a wrong type are refused with file, line and key, so a misspelt key",
           "is never a default. Sizes are written as `\"64GiB\"`, times as `\"10s\"`, `\"5m\"`, `\"1h30m\"`. A sample for each is in `deploy/`.", ""]
    for name in CONFIGURED:
        out += [f"## {name}", "", f"/etc/banyan/{name.removeprefix('banyan-')}.toml: {DAEMONS[name]}.", ""]
        for section, description, keys in config_sections(bin_directory, name):
            if not keys:
                continue
            if section:
                out += [f"### [{section}]", ""]
            if description:
                out += [" ".join(description), ""]
            out += ["| key | default | meaning |", "|---|---|---|"]
            out += [f"| `{key}` | `{cell(default)}` | {cell(' '.join(meaning))} |" for key, default, meaning in keys]
            out.append("")
    return "\n".join(out)


# ---- Completions ----

def completes_files(option):
    return bool(PATH_OPTION.search(option["names"][0] if option["names"] else option["positional"]))


def takes_directory(command):
    return any(not option["names"] and option["positional"] in ("DIR", "DIRECTORY") for option in command["options"])


def brief(option):
    return option["description"].split(". ")[0]


BASH = r"""# bash completion for banyan; made by scripts/command_docs.py
_banyan() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command="" words="" files="" i
  COMPREPLY=()
  # "--form=lo" is three words to bash.
  if [[ $word == = ]]; then
    word=""
  elif [[ $before == = ]]; then
    before=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  for ((i = 1; i < COMP_CWORD; ++i)); do
    case ${COMP_WORDS[i]} in
      @VALUED@)
        [[ ${COMP_WORDS[i + 1]} != = ]] || ((++i))
        ((++i))
        ;;
      -*) ;;
      *)
        command=${COMP_WORDS[i]}
        break
        ;;
    esac
  done
  case "$command $before" in
@VALUES@
  esac
  case $command in
@WORDS@
  esac
  if [[ $files && $word != -* ]]; then
    _banyan_files
  else
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
  fi
}
_banyan_files() {
  compopt -o filenames 2>/dev/null
  mapfile -t COMPREPLY < <(compgen -f -- "$word")
}
complete -F _banyan banyan
"""


def bash(table):
    common = [name for option in table["options"] for name in option["names"]]

    def words(command):
        names = [name for option in command["options"] for name in option["names"]]
        names += [inner["name"] for inner in command["commands"]]
        return " ".join(names + [name for name in common if name not in names])

    def value_cases(command, options):
        lines = []
        for option in options:
            if not option["takes"] or not option["names"]:
                continue
            patterns = "|".join(f'"{command} {name}"' if command else f'*" {name}"' for name in option["names"])
            if option["choices"]:
                answer = f'mapfile -t COMPREPLY < <(compgen -W "{" ".join(option["choices"])}" -- "$word"); return'
            else:
                answer = "_banyan_files; return" if completes_files(option) else "return"
            lines.append(f"    {patterns}) {answer} ;;")
        return lines

    scopes = [("", table["options"])] + [(command["name"], command["options"]) for command in table["commands"]]
    valued = sorted({name for _, options in scopes for option in options if option["takes"] for name in option["names"]})
    answers = [f'    "") words="{words(table)}" ;;']
    for command in table["commands"]:
        files = "; files=yes" if takes_directory(command) else ""
        answers.append(f'    {command["name"]}) words="{words(command)}"{files} ;;')
    text = BASH.replace("@VALUED@", " | ".join(valued)).replace("@WORDS@", "\n".join(answers))
    return text.replace("@VALUES@", "\n".join(line for name, options in scopes for line in value_cases(name, options)))


ZSH = r"""#compdef banyan
# zsh completion for banyan; made by scripts/command_docs.py
_banyan() {
  local curcontext=$curcontext state line
  local -a common=(
@COMMON@
  )
  local -a commands=(
@COMMANDS@
  )
  _arguments -C $common '1:command:->command' '*::argument:->argument'
  case $state in
    command) _describe command commands ;;
    argument)
      case $line[1] in
@ARGUMENTS@
      esac
      ;;
  esac
}
_banyan "$@"
"""


def zsh(table):
    def quote(text):
        text = re.sub(r"[\\\[\]:]", lambda m: "\\" + m[0], text)
        return text.replace("'", "'\\''")

    def spec(option):
        action = f"({' '.join(option['choices'])})" if option["choices"] else "_files" if completes_files(option) else " "
        if not option["names"]:
            colons = ":" if option["required"] else "::"
            return f"'{colons}{quote(option['positional'].lower())}:{action}'"
        value = f":{option['takes'].lower()}:{action}" if option["takes"] else ""
        note = f"[{quote(brief(option))}]{value}"
        if len(option["names"]) == 1:
            return f"'{equals(option, option['names'][0])}{note}'"
        names = ",".join(equals(option, name) for name in option["names"])
        return f"'({' '.join(option['names'])})'{{{names}}}'{note}'"

    def equals(option, name):
        # "--form loop" and "--form=loop" both.
        return name + ("=" if option["takes"] and name.startswith("--") else "")

    arguments = []
    for command in table["commands"]:
        specs = [spec(option) for option in visible(command)]
        if command["commands"]:
            specs.append(f"'1:command:({' '.join(inner['name'] for inner in command['commands'])})'")
        lines = [f"        {command['name']}) _arguments $common"] + [f"          {one}" for one in specs]
        arguments.append(" \\\n".join(lines) + " ;;")
    commands = "\n".join(f"    '{command['name']}:{quote(command['description'])}'" for command in table["commands"])
    text = ZSH.replace("@COMMON@", "\n".join(f"    {spec(option)}" for option in table["options"]))
    return text.replace("@COMMANDS@", commands).replace("@ARGUMENTS@", "\n".join(arguments))


def fish(table):
    def quote(text):
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    def option_line(option, condition):
        words = ["complete -c banyan"] + ([f"-n {quote(condition)}"] if condition else [])
        for name in option["names"]:
            words.append(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}")
        words.append(f"-d {quote(brief(option))}")
        if option["choices"]:
            words.append(f"-x -a {quote(' '.join(option['choices']))}")
        elif option["takes"]:
            words.append("-r -F" if completes_files(option) else "-x")
        return " ".join(words)

    names = " ".join(command["name"] for command in table["commands"])
    none_yet = quote("not __fish_seen_subcommand_from " + names)
    out = ["# fish completion for banyan; made by scripts/command_docs.py", "complete -c banyan -f"]
    out += [option_line(option, "") for option in table["options"]]
    for command in table["commands"]:
        out.append(f"complete -c banyan -n {none_yet} -a {command['name']} -d {quote(command['description'])}")
        seen = f"__fish_seen_subcommand_from {command['name']}"
        out += [option_line(option, seen) for option in visible(command) if option["names"]]
        for inner in command["commands"]:
            out.append(f"complete -c banyan -n {quote(seen)} -a {inner['name']} -d {quote(inner['description'])}")
        if takes_directory(command):
            out.append(f"complete -c banyan -n {quote(seen)} -F")
    return "\n".join(out) + "\n"


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    bin_directory = sys.argv[1]
    output = sys.argv[2] if len(sys.argv) == 3 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    if os.geteuid() != 0:
        sys.exit("needs root: the defaults of others are different")
    # They would show as defaults.
    for name in [name for name in os.environ if name.startswith("BANYAN_")]:
        del os.environ[name]
    table = json.loads(output_of(f"{bin_directory}/banyan", "--print-commands"))
    files = {"docs/configuration.md": configuration(bin_directory), "deploy/completion/banyan.bash": bash(table),
             "deploy/completion/_banyan": zsh(table), "deploy/completion/banyan.fish": fish(table)}
    for name, text in command_pages(table).items():
        files[f"docs/man/{name}"] = text
    for name in DAEMONS:
        files[f"docs/man/{name}.8"] = daemon_page(bin_directory, name)
    for path, text in files.items():
        path = os.path.join(output, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


main()
