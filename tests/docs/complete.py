#!/usr/bin/env python3
"""Types a line and TAB into an interactive shell in a terminal of its own: complete.py bash|zsh FILE LINE WORD…

Ends with 0 as soon as the shell has shown all WORDs where the line's last word is; with 1, and what it has shown, after 30 s without. FILE is the
completion; zsh takes it from its directory, as it does when it is installed."""
import os
import pty
import re
import select
import sys
import time

PATIENCE = 30
SETUP = {
    "bash": "PS1=; bind 'set show-all-if-ambiguous on'; bind 'set completion-query-items 0'; bind 'set page-completions off'; source {file}",
    "zsh": "PS1=; fpath=({directory} $fpath); autoload -Uz compinit; compinit -u -D; unsetopt zle_bracketed_paste; LISTMAX=1000; setopt auto_list",
}


class Shell:
    def __init__(self, name):
        pid, self.fd = pty.fork()
        if pid == 0:
            os.environ.update(TERM="dumb", COLUMNS="200", LINES="200", HISTFILE="/dev/null")
            os.execvp(name, [name, "--norc", "-i"] if name == "bash" else [name, "-f", "-i"])
        self.shown = ""

    def type(self, text):
        self.shown = ""
        os.write(self.fd, text.encode())

    def wait(self, what):
        """Until what(shown) holds."""
        end = time.monotonic() + PATIENCE
        while not what(self.shown):
            if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                return False
            try:
                self.shown += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", os.read(self.fd, 65536).decode(errors="replace"))
            except OSError:  # it has ended
                return False
        return True


def main():
    name, file, line, *words = sys.argv[1:]
    shell = Shell(name)
    # The quotes keep the echoed line from being taken for the answer.
    shell.type(SETUP[name].format(file=file, directory=os.path.dirname(file)) + "; echo REA''DY\n")
    if not shell.wait(lambda shown: "READY" in shown):
        sys.exit(f"{name} does not begin: {shell.shown}")
    shell.type(line + "\t")

    before_last_word = line.rpartition(" ")[0]

    def complete(shown):
        behind = shown.partition(before_last_word)[2]
        return all(re.search(rf"(^|[\s=]){re.escape(word)}(\s|$)", behind) for word in words)

    if not shell.wait(complete):
        sys.exit(f"{name}: behind '{line}' {' '.join(words)} should be offered, but: {shell.shown}")
    os.close(shell.fd)


main()
