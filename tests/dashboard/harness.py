"""A tree-manager with simulated agents, and what the dashboard's tests ask of it."""
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

BIN = os.environ.get("BANYAN_BIN", "")
FLEET = os.environ.get("DASHBOARD_FLEET", "")
SKIP = 77


class Failure(Exception):
    pass


def expect(condition, what):
    if not condition:
        raise Failure(what)


def until(condition, what, seconds=15, step=0.05):
    """Until condition() gives something; returns it. `what`: a text, or what gives it."""
    end = time.monotonic() + seconds
    while True:
        got = condition()
        if got:
            return got
        if time.monotonic() > end:
            raise Failure(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(step)


def end(process):
    if process and process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Cluster:
    """One manager, and a process of agents and of a registry proxy that does as it is told."""

    def __init__(self, proxies=(), token=""):
        """`proxies`: status addresses that the manager is to ask, beside `proxy`, which is the process's own."""
        self.proxies = proxies
        self.token = token

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="banyan-dashboard-")
        self.log_path = f"{self.directory}/log"
        self.log = open(self.log_path, "wb")
        self.manager = self.fleet = None
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self):
        self.proxy = f"unix:{self.directory}/proxy.sock"
        with open(f"{self.directory}/manager.toml", "w", encoding="utf-8") as config:
            config.write(f"proxies = {json.dumps([self.proxy, *self.proxies])}\n")
            if self.token:
                config.write(f'token_file = "{self.directory}/token"\n')
                with open(f"{self.directory}/token", "w", encoding="utf-8") as file:
                    file.write(self.token + "\n")
        self._run_manager(0, 0)
        self.http = until(lambda: self._port("dashboard on"), "the manager listens")
        self.port = until(lambda: self._port("listening on"), "the manager listens")
        self.url = f"http://127.0.0.1:{self.http}/"
        self.fleet = subprocess.Popen([FLEET, f"127.0.0.1:{self.port}", *([f"{self.directory}/token"] if self.token else [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _run_manager(self, port, http):
        self.manager = subprocess.Popen([f"{BIN}/banyan-tree-manager", "--config", f"{self.directory}/manager.toml", "--data-root", f"{self.directory}/data",
                                         "--listen", f"127.0.0.1:{port}", "--http", f"127.0.0.1:{http}"], stdout=self.log, stderr=self.log)

    def start_manager(self):
        """Once more, after stop_manager(): where it was. The agents do not come back."""
        self._run_manager(self.port, self.http)

    def stop_manager(self):
        end(self.manager)

    def _port(self, what):
        expect(self.manager.poll() is None, f"the manager has ended: {open(self.log_path).read()}")
        found = re.search(rf"{what} .*\(port (\d+)\)", open(self.log_path).read())
        return int(found.group(1)) if found else None

    def __exit__(self, *_):
        for process in (self.fleet, self.manager):
            end(process)
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def do(self, order):
        self.fleet.stdin.write(order + "\n")
        self.fleet.stdin.flush()
        answer = self.fleet.stdout.readline().strip()
        expect(answer == "ok", f"{order}: {answer}")

    def convert(self, **fields):
        """The proxy's conversion of that digest: fields of proto/proxy.proto's Conversion."""
        self.do("conversion " + json.dumps(fields))

    def tree(self, function):
        """As `banyan tree --json` says."""
        command = [f"{BIN}/banyan", "--json", "tree", function, "--manager", f"127.0.0.1:{self.port}"]
        token = {"BANYAN_TOKEN_FILE": f"{self.directory}/token"} if self.token else {}
        return json.loads(subprocess.run(command, capture_output=True, check=True, text=True, env={**os.environ, **token}).stdout)

    def api(self, path):
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        with urllib.request.urlopen(urllib.request.Request(self.url + "api/v1/" + path, headers=headers), timeout=10) as answer:
            return json.load(answer)


def edges_of(tree, stripe):
    return {node["node"]: node["parents"][stripe] for node in tree["nodes"]}


DRAWN = "JSON.stringify(banyan.page().drawings.map((drawing) => ({stripe: drawing.stripe, nodes: drawing.drawn()})))"


def drawn(page):
    """Per stripe: node → what is drawn of it; "" is the proxy."""
    return {entry["stripe"]: {node["id"]: node for node in entry["nodes"]} for entry in json.loads(page.run(DRAWN))}


def drawn_edges(nodes):
    return {name: node["parent"] for name, node in nodes.items() if node["parent"] is not None}


def wait_drawn(page, count, seconds=10):
    """Until both stripes show so many nodes and the proxy, and stand still."""
    return page.wait("window.banyan && document.querySelectorAll('.drawing').length === 2 && [...document.querySelectorAll('.drawing')]"
                     f".every((drawing) => drawing.dataset.nodes === '{count + 1}' && drawing.dataset.settled === 'true')", seconds)


def expect_same(shown, told, what, seconds=10):
    """Until both give the same; the page lags behind the manager."""
    end = time.monotonic() + seconds
    while (got := shown()) != (wanted := told()):
        expect(time.monotonic() < end, f"{what}: {got}, the manager's {wanted}")
        time.sleep(0.1)


def expect_as_manager(page, tree):
    """What is drawn comes to be what the manager tells, in both stripes: nodes, their parents, states, zones and holdings.
    `tree()`: as `banyan tree --json` says."""
    for stripe in (0, 1):
        expect_same(lambda stripe=stripe: {name: [node[key] for key in ("parent", "state", "zone", "held")] for name, node in drawn(page)[stripe].items() if name},
                    lambda stripe=stripe: {node["node"]: [node["parents"][stripe], node["state"], node["zone"], node["present_permille"]] for node in tree()["nodes"]},
                    f"stripe {stripe + 1} is drawn")


def expect_table_as_manager(page, tree):
    """The same of the table of the trees' page, which is shown: what expect_as_manager compares, depths, and who feeds how many."""
    def told():
        nodes = tree()["nodes"]
        rows = {}
        for node in nodes:
            held = node["present_permille"]
            rows[node["node"]] = [node["node"], node["zone"] or "–", node["state"], "100 %" if held == 1000 else f"{held // 10} %"]
            for stripe in (0, 1):
                feeds = sum(other["parents"][stripe] == node["node"] for other in nodes)
                rows[node["node"]] += [node["parents"][stripe] or "proxy", str(node["depths"][stripe]), str(feeds)]
        return rows
    expect_same(lambda: {name: row[:10] for name, row in table_of(page).items()}, told, "the table says")


def table_of(page):
    """First cell → all cells, of every long table in the page."""
    rows = page.run("""JSON.stringify([...document.querySelectorAll('.long-table tbody tr[data-row]')].map((row) =>
      [...row.children].map((cell) => cell.textContent)))""")
    return {row[0]: row for row in json.loads(rows)}


def choose(page, value):
    """A view or a stripe of the trees."""
    page.run(f"[...document.querySelectorAll('.how input[type=radio]')].find((input) => input.value === '{value}').click()")


def expect_painted(page):
    """Where a node is said to be drawn there is ink, and where none is there is none."""
    ink = json.loads(page.run("""JSON.stringify(banyan.page().drawings.map((drawing) => {
      const ratio = devicePixelRatio;
      const {width, height} = drawing.canvas;
      const {data} = drawing.canvas.getContext('2d').getImageData(0, 0, width, height);
      const alpha = (x, y) => data[(Math.round(y * ratio) * width + Math.round(x * ratio)) * 4 + 3];
      return {inked: drawing.drawn().every(({x, y}) => alpha(x, y) > 100), corner: alpha(2, 2)};
    }))"""))
    expect(all(one["inked"] for one in ink), f"a node is not painted: {ink}")
    expect(all(one["corner"] == 0 for one in ink), f"the corner is painted: {ink}")


def check_clean(page, url):
    """No console error, and nothing was asked of another host."""
    page.drain()
    expect(not page.problems, f"the page complains: {page.problems}")
    strangers = [request for request in page.requests if not request.startswith(url)]
    expect(not strangers, f"asked elsewhere: {strangers}")
    expect(page.requests, "no request was seen: the test is blind")


class PrefixProxy(http.server.ThreadingHTTPServer):
    """A reverse proxy that shows a server below a path, as nginx would."""
    daemon_threads = True

    def __init__(self, target, prefix):
        super().__init__(("127.0.0.1", 0), PrefixHandler)
        self.target = target.rstrip("/")
        self.prefix = prefix
        self.url = f"http://127.0.0.1:{self.server_address[1]}{prefix}"
        self.refused = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class PrefixHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.pass_on(self.rfile.read(int(self.headers["Content-Length"])))

    def do_GET(self):
        self.pass_on(None)

    def pass_on(self, body):
        self.close_connection = True
        if not self.path.startswith(self.server.prefix):
            self.server.refused.append(self.path)
            self.send_error(404)
            return
        try:
            headers = {name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers}
            request = urllib.request.Request(self.server.target + "/" + self.path[len(self.server.prefix):], body, headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    if name.lower() not in ("connection", "transfer-encoding"):
                        self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                while data := answer.read1(65536):
                    self.wfile.write(data)
                    self.wfile.flush()
        except OSError:
            pass


def main(parts):
    """Runs one part; what it says goes to the log of ctest."""
    sys.stdout.reconfigure(line_buffering=True)
    if len(sys.argv) < 2 or sys.argv[1] not in parts:
        print(f"usage: {sys.argv[0]} {'|'.join(parts)}", file=sys.stderr)
        return 2
    try:
        parts[sys.argv[1]](*sys.argv[2:])
    except Failure as failure:
        print(f"FAILED: {failure}")
        return 1
    print("passed")
    return 0
