#!/usr/bin/env -S python3 -B
"""The dashboard over a lab of eight real nodes that fetch an image: the trees, the bytes on their edges, a start, a kill, search,
folding, a preheating; and a Prometheus that scrapes every daemon meanwhile."""
import os
import subprocess
import sys
import time

import browser
import canvas
import preheating
import prometheus
from browser import Browser, BrowserError
from dashboard_test import search_and_fold
from harness import SKIP, Failure, check_clean, drawn, expect, expect_as_manager, expect_painted, until, wait_drawn
from prometheus import Prometheus

sys.path.insert(0, os.path.realpath(f"{os.path.dirname(os.path.abspath(__file__))}/../../bench/lab"))
from lablib import Lab, finish_all  # pylint: disable=wrong-import-position

NODES = 8
MIB = 48
IMAGE = f"random-{MIB}"
URL = "http://127.0.0.1:4651/"


def load_drawn(page):
    """Bytes per second on all edges of the page."""
    return page.run("""[...banyan.live.tree.members.values()].flatMap((member) => member.feeds ?? [])
      .reduce((sum, feed) => sum + feed.demand + feed.prefetch + feed.fill, 0)""")


def expect_scraped(monitor):
    """Every daemon is scraped, and what is scraped is this lab's."""
    monitor.wait_down()
    monitor.check_rules()
    expect(len(monitor.query("banyan_build_info")) == NODES + 2, f"who tells its version: {monitor.query('banyan_build_info')}")
    until(lambda: monitor.query("sum(banyan_fetch_bytes_total)").get("", 0) >= NODES * MIB << 20, "Prometheus has what the agents fetched", 10, 0.2)
    until(lambda: sum(monitor.query('banyan_tree_nodes{state="live"}').values()) == NODES, "Prometheus has the manager's nodes", 10, 0.2)
    slowest = max(monitor.query("max_over_time(scrape_duration_seconds[1m])").values())
    print(f"Prometheus scrapes {NODES + 2} daemons; the slowest scrape while all links were full took {slowest:.2f} s")


def open_page(lab, chromium):
    """When its machine gets an address, as IPv6's come some time after a link is up, Chromium drops what it loads: waits for that, and opens anew."""
    tentative = ["nsenter", f"--net={lab.env['LAB_NAMESPACES']}manager", "ip", "-6", "-o", "address", "show", "tentative"]
    until(lambda: not subprocess.run(tentative, check=True, stdout=subprocess.PIPE).stdout, "the manager's machine has its addresses", 10, 0.1)
    page, deadline = chromium.open(URL), time.monotonic() + 40
    while True:
        try:
            page.wait("window.banyan && banyan.live.tree && banyan.live.tree.members.size > 0", 2)
            return page
        except BrowserError:
            if time.monotonic() > deadline:
                raise
            if any("ERR_NETWORK_CHANGED" in problem for problem in page.problems):
                page = chromium.open(URL)


def run(lab, chromium, monitor):
    reference = f"{lab.registry}/{IMAGE}:1"
    directory = f"{lab.directory}/mounted"
    os.mkdir(directory)
    finish_all({"n1": lab.start("n1", "-q", "mount", f"docker://{reference}", directory)})
    page = open_page(lab, chromium)
    prefetches = {node: lab.start(node, "-q", "prefetch", reference) for node in lab.nodes}
    wait_drawn(page, NODES, 20)
    page.wait("[...banyan.live.tree.members.values()].some((member) => (member.feeds ?? []).some((feed) => feed.from === 'parent' && feed.prefetch + feed.fill > 0))", 20)
    print(f"edges carry {load_drawn(page) / 1e6:.1f} MB/s")
    canvas.edges_carry_real_bytes(page)
    finish_all(prefetches)
    until(lambda: all(node["held"] == 1000 for name, node in drawn(page)[0].items() if name), "all nodes are drawn complete", 10)
    expect_as_manager(page, lambda: lab.tree(IMAGE))
    expect_painted(page)
    expect_scraped(monitor)
    with open(f"{lab.directory}/token", encoding="utf-8") as token:
        preheating.real_nodes(page, lab.tree(IMAGE)["function"]["function"], token.readline().strip(), NODES)

    victim = next(node["node"] for node in lab.tree(IMAGE)["nodes"] if any(node["node"] in other["parents"] for other in lab.tree(IMAGE)["nodes"])
                  and node["node"] != "n1")
    began = time.monotonic()
    lab.sh("kill", victim)
    page.wait(f"banyan.page().drawings.every((drawing) => drawing.drawn().find(({{id}}) => id === '{victim}')?.state !== 'live')", 2, 0.02)
    took = time.monotonic() - began
    print(f"the kill of {victim} shows {took:.2f} s after it was begun")
    expect(took < 2, f"the kill of {victim} shows after {took:.2f} s")
    wait_drawn(page, NODES - 1, 20)
    expect_as_manager(page, lambda: lab.tree(IMAGE))
    monitor.wait_down(f"10.77.1.{victim[1:]}:4650")
    search_and_fold(page, NODES - 1, "n2" if victim != "n2" else "n3")

    page.run("location.hash = '#/starts'")
    page.wait("document.querySelectorAll('.start').length === 1", 10)
    expect(page.run("document.querySelector('.start .where').textContent") == "n1", "the start is not told as n1's")
    page.run("location.hash = '#/fleet'")
    page.wait(f"document.querySelectorAll('main tbody tr[data-row]').length === {NODES - 1}", 10)
    expect(page.run("[...banyan.live.nodes.values()].every((node) => node.storeBytes > 40e6 && node.storeBudgetBytes > 0)"), "stores are not told")
    page.run("location.hash = '#/conversions'")
    page.wait("document.querySelector('.proxies').textContent.endsWith(':5051 answers')", 10)
    check_clean(page, URL)
    monitor.check_clean()


def main():
    sys.stdout.reconfigure(line_buffering=True)
    if browser.program() is None or prometheus.program() is None or os.geteuid() != 0:
        print("needs chromium and prometheus (scripts/install-deps.sh), and root")
        return SKIP
    began = time.monotonic()
    with Lab(NODES, "tree2", "40mbit", [IMAGE]) as lab:
        with Browser(before=["nsenter", f"--net={lab.env['LAB_NAMESPACES']}manager"]) as chromium, Prometheus(lab) as monitor:
            try:
                run(lab, chromium, monitor)
            except Failure as failure:
                print(f"FAILED: {failure}")
                return 1
    print(f"passed in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
