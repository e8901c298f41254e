"""A Prometheus inside a lab (scripts/lab.sh), on the tree-manager's machine, that scrapes every daemon of it: the sample
configuration of deploy/ with the lab's addresses, its alerts, and a scrape a second or two instead of every fifteen."""
import json
import os
import re
import shutil
import subprocess
import tempfile

from harness import Failure, expect, until

DEPLOY = os.path.realpath(f"{os.path.dirname(os.path.abspath(__file__))}/../../deploy/prometheus")
LISTEN = "127.0.0.1:9090"
INTERVAL = "2s"


def program():
    return shutil.which("prometheus")


def config_for(lab, rules):
    with open(f"{DEPLOY}/prometheus.yml", encoding="utf-8") as sample:
        text = sample.read()
    agents = ", ".join(f'"10.77.1.{node[1:]}:4650"' for node in lab.nodes)
    for old, new in ((r"(scrape|evaluation)_interval: \w+", rf"\1_interval: {INTERVAL}"), (r'"127\.0\.0\.1:5065"', agents),
                     (r"127\.0\.0\.1:5050", lab.env["LAB_PROXY"]), (r"\[banyan\.rules\.yml\]", f"[{rules}]")):
        text, count = re.subn(old, new, text)
        expect(count > 0, f"deploy/prometheus/prometheus.yml has no {old}")
    return text


class Prometheus:
    def __init__(self, lab):
        self.lab = lab
        self.inside = ["nsenter", f"--net={lab.env['LAB_NAMESPACES']}manager"]
        self.directory = tempfile.mkdtemp(prefix="banyan-prometheus-")
        with open(f"{self.directory}/prometheus.yml", "w", encoding="utf-8") as config:
            config.write(config_for(lab, f"{DEPLOY}/banyan.rules.yml"))
        self.log_path = f"{self.directory}/log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([*self.inside, program(), f"--config.file={self.directory}/prometheus.yml",
                                             f"--storage.tsdb.path={self.directory}/tsdb", f"--web.listen-address={LISTEN}",
                                             "--log.format=logfmt"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def api(self, path, **arguments):
        """Of /api/v1/; None while it does not answer."""
        expect(self.process.poll() is None, f"Prometheus has ended: {self.log()[-500:]}")
        data = [word for name, value in arguments.items() for word in ("--data-urlencode", f"{name}={value}")]
        done = subprocess.run([*self.inside, "curl", "-sS", "--fail", "--max-time", "10", "--get", *data, f"http://{LISTEN}/api/v1/{path}"],
                              check=False, stdin=subprocess.DEVNULL, capture_output=True)
        return json.loads(done.stdout)["data"] if done.returncode == 0 else None

    def query(self, expression):
        """{instance: number}; "" without one."""
        answer = self.api("query", query=expression) or {"result": []}
        return {one["metric"].get("instance", ""): float(one["value"][1]) for one in answer["result"]}

    def down(self):
        """What the latest scrape of each target found wrong: {instance: error}; None before each has been scraped."""
        targets = (self.api("targets") or {}).get("activeTargets", [])
        if len(targets) != len(self.lab.nodes) + 2 or any(target["health"] == "unknown" for target in targets):
            return None
        return {target["labels"]["instance"]: target["lastError"] for target in targets if target["health"] != "up" or target["lastError"]}

    def wait_down(self, *instances):
        """Until these are down, and all others up."""
        try:
            until(lambda: (down := self.down()) is not None and set(down) == set(instances), f"down are {list(instances)}, and no others", 30, 0.2)
        except Failure as failure:
            raise Failure(f"{failure}, but {self.down()}") from None

    def check_rules(self):
        """Every rule was evaluated, and no alert fires in a healthy cluster."""
        def rules():
            return [rule for group in (self.api("rules") or {"groups": []})["groups"] for rule in group["rules"]]
        until(lambda: rules() and all(rule["health"] == "ok" for rule in rules()), "all rules are evaluated", 20, 0.2)
        firing = [rule["name"] for rule in rules() if rule.get("state") == "firing"]
        expect(not firing, f"alerts of a healthy lab: {firing}")

    def check_clean(self):
        complaints = [line for line in self.log().splitlines() if re.search(r"level=(warn|error)", line)]
        expect(not complaints, f"Prometheus complains: {complaints}")
