"""A lab (scripts/lab.sh) for the programs beside this file: brought up for one mode, and gone at the end of a `with`.

Modes: tree2 (two stripes), tree1 (one), star (every node fed by the proxy). BANYAN_BIN and BANYAN_LAB as for lab.sh; without
BANYAN_LAB the lab gets a directory of its own below /var/tmp. LAB_KEEP=1 leaves it up at the end.
"""
import hashlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

SOURCE_DIR = os.path.realpath(f"{os.path.dirname(__file__)}/../..")
LAB_SH = f"{SOURCE_DIR}/scripts/lab.sh"
MODES = {"tree2": ["--stripes", "2"], "tree1": ["--stripes", "1"], "star": ["--star"]}
UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


def bits_per_second(rate):
    """Of tc's notation, as far as the lab uses it: 100mbit."""
    match = re.fullmatch(r"([0-9.]+)([kmg]?)bit", rate.lower())
    if not match:
        sys.exit(f"rate {rate}: write it as 100mbit")
    return float(match[1]) * UNITS[match[2]]


class LabError(Exception):
    pass


class Lab:
    def __init__(self, nodes, mode, rate, images, extra=()):
        self.mode, self.rate = mode, rate
        self.nodes = [f"n{i}" for i in range(1, nodes + 1)]
        self.own = None
        self.directory = os.environ.get("BANYAN_LAB")
        if not self.directory:
            self.own = tempfile.mkdtemp(prefix="banyan-lab.", dir="/var/tmp")
            self.directory = f"{self.own}/lab"
        self.up_arguments = ["up", str(nodes), "--rate", rate, *MODES[mode], *extra]
        for image in images:
            self.up_arguments += ["--image", image]

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            self.sh(*self.up_arguments)
            self.env = dict(line.split("=", 1) for line in self.sh("env").splitlines())
        except BaseException:
            self.__exit__()
            raise
        self.registry = self.env["LAB_REGISTRY"]
        return self

    def __exit__(self, *_):
        if os.environ.get("LAB_KEEP"):
            print(f"kept: {LAB_SH} --dir {self.directory} down", file=sys.stderr)
            return
        subprocess.run([LAB_SH, "--dir", self.directory, "down"], check=False)
        if self.own:
            os.rmdir(self.own)

    def sh(self, *arguments):
        """Runs a command of lab.sh; returns what it prints."""
        done = subprocess.run([LAB_SH, "--dir", self.directory, *arguments], check=False, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE)
        if done.returncode != 0:
            raise LabError(f"lab.sh {' '.join(arguments)}: exit status {done.returncode}")
        return done.stdout

    def begin_sh(self, *arguments):
        """Begins a command of lab.sh; returns its Popen."""
        return subprocess.Popen([LAB_SH, "--dir", self.directory, *arguments], stdin=subprocess.DEVNULL)

    def start(self, node, *banyan, **options):
        """Begins `banyan` with these arguments on a node; returns its Popen. Straight, since a shell a node would delay the last ones."""
        return subprocess.Popen(["nsenter", f"--net={self.env['LAB_NAMESPACES']}{node}", f"{self.env['BANYAN_BIN']}/banyan",
                                 "--data-root", self.data_root(node), "--plain-http", *banyan],
                                stdin=subprocess.DEVNULL, text=True, **options)

    def begin_prefetch(self, image):
        """Has every node fetch the image from the same moment on; returns a Popen for finish_prefetch(). One program for all: as many
        that begin would take the processors from the agents (bench/prefetch_many.cc)."""
        program = f"{self.env['BANYAN_BIN']}/../bench/prefetch_many"
        return subprocess.Popen([program, f"docker://{self.registry}/{image}:1", *map(self.data_root, self.nodes)], stdin=subprocess.DEVNULL,
                                text=True, stdout=subprocess.PIPE)

    def finish_prefetch(self, begun, dead=()):
        """{node: seconds until it had the image}, of all but the dead."""
        out, _ = begun.communicate()
        seconds = json.loads(out or "{}")
        nodes = {node: seconds[self.data_root(node)] for node in self.nodes if self.data_root(node) in seconds}
        if missing := set(self.nodes) - set(nodes) - set(dead):
            raise LabError(f"{', '.join(sorted(missing))}: could not fetch")
        return nodes

    def run(self, node, *command):
        return self.sh("exec", node, *command)

    def mark(self):
        self.sh("stats", "--mark")

    def stats(self):
        """{link: {"sent": bytes, "received": bytes}} since mark()."""
        return json.loads(self.sh("stats", "--json"))

    def data_root(self, node):
        return f"{self.directory}/nodes/{node}/data"

    def log(self, node):
        place = f"nodes/{node}" if node in self.nodes else node
        with open(f"{self.directory}/{place}/log", encoding="utf-8", errors="replace") as f:
            return f.read()

    def metrics(self, name):
        """{"metric{label=\"value\"}": number} of a node's or the manager's daemon."""
        port = 4651 if name == "manager" else 4650
        fetch = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/metrics', timeout=5).read().decode())"
        text = subprocess.run(["nsenter", f"--net={self.env['LAB_NAMESPACES']}{name}", sys.executable, "-c", fetch], check=True, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line and line[0] != "#"}

    def artifact(self, image):
        """Blobs of the image's artifact: [{"digest", "size", "mediaType"}, …]."""
        with open(f"{self.directory}/{image}.json", encoding="utf-8") as f:
            return json.load(f)

    def data_blobs(self, image):
        return [blob for blob in self.artifact(image) if blob["mediaType"] == "application/vnd.banyan.layer.v1"]

    def tree(self, image):
        """`banyan tree --json` of the image's function; None in a star."""
        if self.mode == "star":
            return None
        return json.loads(self.run("manager", "banyan", "--json", "tree", f"docker://{self.registry}/{image}:1"))

    def check_blobs(self, node, image):
        """Compares what the node's store holds of the image's layers with their digests. Returns what is wrong, or nothing."""
        for blob in self.data_blobs(image):
            hexadecimal = blob["digest"].removeprefix("sha256:")
            compressed = f"{self.data_root(node)}/store/blobs/sha256/{hexadecimal}"
            if os.path.exists(compressed) and digest_of(compressed) == hexadecimal:
                continue
            # Some chunks may be there decoded only: those that another layer had so.
            device = f"{self.data_root(node)}/store/devices/{hexadecimal}"
            if not os.path.exists(device) or digest_of(device) != self.device_digest(hexadecimal):
                return f"{node}: {blob['digest']} is not there, or not right"
        return None

    def device_digest(self, hexadecimal):
        self.device_digests = getattr(self, "device_digests", {})
        if hexadecimal not in self.device_digests:
            blob = f"{self.directory}/registry/data/docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"
            with subprocess.Popen(["zstd", "-dc", blob], stdout=subprocess.PIPE) as zstd:
                self.device_digests[hexadecimal] = hashlib.file_digest(zstd.stdout, "sha256").hexdigest()
        return self.device_digests[hexadecimal]


def digest_of(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def finish_all(started):
    """Waits for {node: Popen}; returns {node: seconds on time.monotonic()} as each ends. Ends this program if one fails."""
    ended = {}
    while len(ended) < len(started):
        for node, process in started.items():
            if node not in ended and process.poll() is not None:
                ended[node] = time.monotonic()
                if process.returncode != 0:
                    raise LabError(f"{node}: {process.args[4:]} ended with {process.returncode}")
        time.sleep(0.005)
    return ended


def json_lines(path):
    """A function that adds a line to the file, at once; to none if there is no path."""
    out = open(path or os.devnull, "w", encoding="utf-8")  # for as long as the program runs
    return lambda line: print(json.dumps(line), file=out, flush=True)


def summary(times):
    ordered = sorted(times)
    return {"first": ordered[0], "median": statistics.median(ordered), "last": ordered[-1]}


def percentiles(seconds):
    ordered = sorted(seconds) or [0.0]
    return {"p50": ordered[len(ordered) // 2], "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], "max": ordered[-1],
            "reads": len(seconds)}


def mount_all(lab, nodes, image, below):
    """Returns {node: the mounted image's file}, {node: seconds it took}."""
    began = time.monotonic()
    paths = {node: f"{lab.directory}/{below}/{node}" for node in nodes}
    ended = finish_all({node: lab.start(node, "-q", "mount", f"docker://{lab.registry}/{image}:1", path) for node, path in paths.items()})
    return {node: f"{path}/random.bin" for node, path in paths.items()}, {node: end - began for node, end in ended.items()}
