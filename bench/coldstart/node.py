"""A registry behind a link and a node with containerd, as node.sh makes them: what coldstart.py and ../convert.py drive."""
import contextlib
import glob
import json
import os
import shlex
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
MAKE = f"{HERE}/../images/make.py"
TICKS = os.sysconf("SC_CLK_TCK")


def in_own_network(names):
    """Makes these images, for which the network may be needed, then begins this program again in a network namespace without any."""
    if "BANYAN_BENCH_NET" not in os.environ:
        subprocess.run([MAKE, *names], check=True, stdout=subprocess.DEVNULL)
        os.execvpe("unshare", ["unshare", "--net", os.path.abspath(sys.argv[0]), *sys.argv[1:]], {**os.environ, "BANYAN_BENCH_NET": "1"})


class Failed(Exception):
    pass


class Node:
    """node.sh: the registry and the node of the moment, whose sockets, directories and processes are in `self.is_`."""

    def __init__(self):
        self.is_ = {}
        self.shell = subprocess.Popen([f"{HERE}/node.sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):  # it may have ended by itself
            self.shell.stdin.close()
        self.shell.wait()

    def do(self, *commands):
        answer = ""
        try:
            for command in commands:
                self.shell.stdin.write(command + "\n")
                self.shell.stdin.flush()
                answer = self.shell.stdout.readline()
                self.is_ = json.loads(answer)
        except (OSError, ValueError) as error:
            answer += self.shell.stdout.read()  # why it did not even begin
            raise Failed(f"node.sh ended at: {command}{': ' if answer else ''}{answer.strip()}") from error

    def cri(self, *arguments):
        """Begins cri_client; returns its Popen."""
        return subprocess.Popen([self.is_["client"], "--socket", self.is_["socket"], "--log-root", f"{self.is_['directory']}/logs",
                                 "--cgroup-parent", self.is_["cgroup"], *arguments],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def ask(self, *arguments):
        """cri_client, to its end; returns what it prints."""
        process = self.cri(*arguments)
        output = process.communicate()[0]
        if process.returncode != 0:
            raise Failed(f"cri_client {' '.join(arguments)}: exit status {process.returncode}")
        return output.strip()

    def push(self, name):
        """An image of bench/images, to the registry."""
        layout = subprocess.run([MAKE, name], check=True, text=True, stdout=subprocess.PIPE).stdout.strip()
        self.do(f"push_image {shlex.quote(layout)} bench/{name}:1")

    def reference(self, name):
        return f"{self.is_['registry']}/bench/{name}:1"

    def cpu_seconds(self, *names):
        """Of these processes, and of children of theirs that have ended."""
        ticks = 0
        for name in names:
            if self.is_[name]:
                with open(f"/proc/{self.is_[name]}/stat", encoding="utf-8") as file:
                    ticks += sum(map(int, file.read().rsplit(") ", 1)[1].split()[11:15]))
        return ticks / TICKS

    def peak_mib(self, name):
        if not self.is_[name]:
            return None
        with open(f"/proc/{self.is_[name]}/status", encoding="utf-8") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))

    def output(self):
        """What the one container has written."""
        text = ""
        for path in glob.glob(f"{self.is_['directory']}/logs/*/log"):
            with open(path, encoding="utf-8", errors="replace") as file:
                text += "".join(line.split(" ", 3)[3] for line in file if line.count(" ") >= 3)
        return text
