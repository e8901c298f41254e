#!/usr/bin/python3
"""deploy/prometheus/kubernetes.yml, by a real Prometheus: of the pods that deploy/kubernetes makes it scrapes those ports that have /metrics, in the jobs
that the rules go by, and nothing else. Debian's Prometheus is built without Kubernetes' discovery: what that would find, a target for each port of a
container with its labels, is in a file instead. Nobody answers the scrapes.

  scrape.py SOURCE_DIRECTORY
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

try:
    import yaml
except ImportError as error:
    print(f"needs python3-yaml: {error}")
    sys.exit(77)

# Nodes' and pods' addresses; the ports are held against the daemons' configurations by manifests.py.
ADDRESSES = {"banyan-keeper": "127.1.0.1", "banyan-agent": "127.1.0.2", "banyan-proxy": "127.1.0.3", "banyan-manager": "127.1.0.4"}
WANTED = {("banyan-agents", "http://127.1.0.2:5066/metrics"), ("banyan-proxy", "http://127.1.0.3:5050/metrics"),
          ("banyan-manager", "http://127.1.0.4:4651/metrics")}


def discovered(source):
    """As kubernetes_sd_configs of the role pod has them: (namespaces, [{targets, labels}])."""
    rendered = subprocess.run(["kubectl", "kustomize", f"{source}/deploy/kubernetes"], stdout=subprocess.PIPE, check=True, text=True).stdout
    namespaces, found = set(), []
    for document in filter(None, yaml.safe_load_all(rendered)):
        if "template" not in document.get("spec", {}):
            continue
        name, template = document["metadata"]["name"], document["spec"]["template"]
        namespaces.add(document["metadata"]["namespace"])
        of_pod = {"__meta_kubernetes_namespace": document["metadata"]["namespace"], "__meta_kubernetes_pod_name": f"{name}-x"}
        for key, value in template["metadata"]["labels"].items():
            of_pod["__meta_kubernetes_pod_label_" + re.sub("[^a-zA-Z0-9_]", "_", key)] = value
        for container in template["spec"]["containers"]:
            of_container = {**of_pod, "__meta_kubernetes_pod_container_name": container["name"]}
            if not container.get("ports"):
                found.append({"targets": [ADDRESSES[name]], "labels": of_container})
            for port in container.get("ports", []):
                found.append({"targets": [f"{ADDRESSES[name]}:{port['containerPort']}"],
                              "labels": {**of_container, "__meta_kubernetes_pod_container_port_name": port["name"]}})
    return sorted(namespaces), found


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def targets(address):
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/targets?state=active", timeout=5) as answer:
            return {(t["labels"]["job"], t["scrapeUrl"]) for t in json.load(answer)["data"]["activeTargets"]}
    except OSError:
        return set()


def main():
    for program in ("prometheus", "promtool", "kubectl"):
        if not shutil.which(program):
            print(f"needs {program}")
            sys.exit(77)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not without ending Prometheus
    source = sys.argv[1]
    namespaces, found = discovered(source)
    with open(f"{source}/deploy/prometheus/kubernetes.yml", encoding="utf-8") as file:
        config = yaml.safe_load(file)
    config["rule_files"] = [f"{os.path.abspath(source)}/deploy/prometheus/{name}" for name in config["rule_files"]]
    with tempfile.TemporaryDirectory(prefix="banyan-scrape-") as directory:
        for job in config["scrape_configs"]:
            discovery = job.pop("kubernetes_sd_configs")
            if discovery != [{"role": "pod", "namespaces": {"names": namespaces}}]:
                sys.exit(f"{job['job_name']} looks for {discovery}")
            job["file_sd_configs"] = [{"files": [f"{directory}/pods.json"]}]
        with open(f"{directory}/pods.json", "w", encoding="utf-8") as file:
            json.dump(found, file)
        with open(f"{directory}/prometheus.yml", "w", encoding="utf-8") as file:
            yaml.safe_dump(config, file)
        subprocess.run(["promtool", "check", "config", f"{directory}/prometheus.yml"], stdout=subprocess.DEVNULL, check=True)
        address = f"127.0.0.1:{free_port()}"
        with open(f"{directory}/log", "w", encoding="utf-8") as log:
            process = subprocess.Popen(["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
                                        f"--web.listen-address={address}"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 30
            while (scraped := targets(address)) != WANTED and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.2)
            if scraped != WANTED:
                with open(f"{directory}/log", encoding="utf-8") as log:
                    sys.stderr.write("".join(log.readlines()[-10:]))
                sys.exit(f"Prometheus scrapes {sorted(scraped)}, not {sorted(WANTED)}")
        finally:
            process.terminate()
            process.wait()
    print(f"of {len(found)} ports {len(WANTED)} are scraped")


main()
