#!/usr/bin/env -S python3 -B
"""Makes the pictures of docs/dashboard.md: screenshots.py [DIRECTORY [small | large]]. Wants Inter (fonts-inter) for the same letters everywhere.

BANYAN_BIN and DASHBOARD_FLEET: the build's bin/ and tests/dashboard_fleet.
"""
import os
import sys
import time

from browser import Browser
from harness import Cluster, wait_drawn

MOST_BYTES = 300_000


def save(page, directory, name):
    size = len(page.screenshot(f"{directory}/{name}.png"))
    print(f"{name}.png: {size} bytes")
    if size > MOST_BYTES:
        sys.exit(f"{name}.png is larger than {MOST_BYTES} bytes")


def small(directory):
    with Cluster() as cluster, Browser() as chromium:
        cluster.do("hold 640")
        cluster.do("add 22 shop/recommender 2 node-")
        for number in range(48):
            cluster.do(f"start node-{1 + number * 5 % 22} shop/recommender")
            time.sleep(0.4)
        page = chromium.open(cluster.url, 1360, 820)
        wait_drawn(page, 22)
        time.sleep(2)
        save(page, directory, "trees")
        page.run("banyan.page().drawings[0].events.select('node-6')")
        page.media(dark=True)
        time.sleep(2)
        save(page, directory, "node")
        page.media(dark=False)
        page.run("location.hash = '#/starts'")
        page.wait("document.querySelectorAll('.start').length > 3")
        time.sleep(0.5)
        save(page, directory, "starts")


def large(directory):
    with Cluster() as cluster, Browser() as chromium:
        cluster.do("hold 800")
        cluster.do("add 1000 shop/recommender 4 node-")
        time.sleep(16)  # the burst is over, for a busy machine as well
        page = chromium.open(cluster.url, 960, 770, calm=True)
        wait_drawn(page, 1000)
        page.run("[...document.querySelectorAll('.how input[type=radio]')].find((input) => input.value === '0').click()")
        time.sleep(3)
        save(page, directory, "rings")
        page.media(dark=True)
        page.resize(1360, 820)
        page.run("location.hash = '#/fleet'")
        page.wait("document.querySelectorAll('tbody tr[data-row]').length > 9")
        time.sleep(2)
        save(page, directory, "fleet")


if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else os.path.realpath(f"{os.path.dirname(os.path.abspath(__file__))}/../../docs/dashboard")
    os.makedirs(target, exist_ok=True)
    for part in (small, large):
        if part.__name__ in (sys.argv[2:] or ["small", "large"]):
            part(target)
