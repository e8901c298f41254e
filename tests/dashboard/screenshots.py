#!/usr/bin/env -S python3 -B
"""Makes the pictures of docs/dashboard.md: screenshots.py [DIRECTORY [small | conversions | large]]. Wants Inter (fonts-inter) for the same letters everywhere.

BANYAN_BIN and DASHBOARD_FLEET: the build's bin/ and tests/dashboard_fleet.
"""
import os
import sys
import time

from browser import Browser
from harness import Cluster, expect, wait_drawn

MOST_BYTES = 300_000


def save(page, directory, name):
    size = len(page.screenshot(f"{directory}/{name}.png"))
    print(f"{name}.png: {size} bytes")
    expect(size <= MOST_BYTES, f"{name}.png is larger than {MOST_BYTES} bytes")


def small(directory, chromium, quick):
    with Cluster() as cluster:
        cluster.do("hold 640")
        cluster.do("add 22 shop/recommender 2 node-")
        for number in range(48):
            cluster.do(f"start node-{1 + number * 5 % 22} shop/recommender")
            time.sleep(0.01 if quick else 0.4)
        page = chromium.open(cluster.url, 1360, 820)
        wait_drawn(page, 22)
        time.sleep(0.2 if quick else 2)
        save(page, directory, "trees")
        page.run("banyan.page().drawings[0].events.select('node-6')")
        page.media(dark=True)
        time.sleep(0.2 if quick else 2)
        save(page, directory, "node")
        page.media(dark=False)
        page.run("location.hash = '#/starts'")
        page.wait("document.querySelectorAll('.start').length > 3")
        time.sleep(0.5)
        save(page, directory, "starts")
        page.close()


def conversions(directory, chromium, quick):
    function = "sha256:" + "5f2a91c0" * 8
    now = int(time.time() * 1e6)
    images = [("shop/search", "31", "RUNNING", 0.63, 0), ("shop/search", "30", "DONE", 1, 0.71), ("shop/recommender", "2.14", "DONE", 1, 0.24),
              ("base/python", "3.12", "DONE", 1, 0.02), ("ml/model", "7", "QUEUED", 0, 0), ("team/broken", "1", "FAILED", 0.4, 0), ("base/nginx", "1.27", "PRESENT", 0, 0)]
    with Cluster() as cluster:
        cluster.do("hold 640")
        cluster.do(f"add 22 {function} 2 node-")
        cluster.do(f"proxy {cluster.proxy}")
        for number, (name, tag, state, part, shared) in enumerate(images):
            size = 430_000_000 - number * 31_000_000
            cluster.convert(registry="registry.example", repository=name, reference=tag, state=state, asks=9 - number, layers=7,
                            digest=function if name == "shop/recommender" else "sha256:" + f"{number:02x}" * 32, layersDone=int(7 * part), bytes=size,
                            bytesDone=int(size * part), blobBytes=int(size * part * 0.96), chunks=int(1500 * part), sharedChunks=int(1500 * shared),
                            sharedBytes=int(size * 0.96 * shared), layersReused=int(7 * shared), beganUnixMicros=0 if state == "QUEUED" else now - 9_000_000 - number * 40_000_000,
                            endedUnixMicros=0 if state in ("QUEUED", "RUNNING") else now - number * 40_000_000,
                            message="layer 3 of 7: the tar ends in the middle of a file" if state == "FAILED" else "")
        page = chromium.open(cluster.url + "#/conversions", 1360, 640)
        page.wait(f"document.querySelectorAll('tbody tr[data-row]').length === {len(images)}")
        page.run("[...document.querySelectorAll('button.link')].find((button) => button.textContent.includes('broken')).click()")
        time.sleep(0.2 if quick else 1)
        save(page, directory, "conversions")
        page.run(f"location.hash = '#/images/{function}'")
        page.wait("!document.querySelector('.one').hidden")
        time.sleep(0.2 if quick else 2)
        save(page, directory, "image")
        page.close()


def large(directory, chromium, quick):
    nodes = 100 if quick else 1000
    with Cluster() as cluster:
        cluster.do("hold 800")
        cluster.do(f"add {nodes} shop/recommender 4 node-")
        time.sleep(0.2 if quick else 16)  # the burst is over, for a busy machine as well
        page = chromium.open(cluster.url, 960, 770, calm=True)
        wait_drawn(page, nodes)
        page.run("[...document.querySelectorAll('.how input[type=radio]')].find((input) => input.value === '0').click()")
        time.sleep(0.2 if quick else 3)
        save(page, directory, "rings")
        page.media(dark=True)
        page.resize(1360, 820)
        page.run("location.hash = '#/fleet'")
        page.wait("document.querySelectorAll('tbody tr[data-row]').length > 9")
        time.sleep(0.2 if quick else 2)
        save(page, directory, "fleet")
        page.close()


def make(directory, parts=(), quick=False):
    """`parts`: names of some; none: all. `quick`: the same pages, of fewer nodes and not as handsome, as ctest looks at them."""
    with Browser() as chromium:
        for part in (small, conversions, large):
            if not parts or part.__name__ in parts:
                part(directory, chromium, quick)


if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else os.path.realpath(f"{os.path.dirname(os.path.abspath(__file__))}/../../docs/dashboard")
    os.makedirs(target, exist_ok=True)
    make(target, sys.argv[2:])
