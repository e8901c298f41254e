#!/usr/bin/env -S python3 -B
"""The dashboard as a browser shows it: dashboard_test.py trees | scale | pages | conversions | proxy | hostile | model | prefix | pictures."""
import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse

import browser
import canvas
import lists
import preheating
import screenshots
from access import accessible, accessible_controls, readable
from browser import Browser, BrowserError
from harness import (SKIP, Cluster, Failure, PrefixProxy, check_clean, choose, drawn, drawn_edges, edges_of, expect, expect_as_manager, expect_painted,
                     expect_table_as_manager, main, table_of, until, wait_drawn)
from registry import Proxy, Registry, noise
from scale import scale

FUNCTION = "sha256:" + "5f2a91c0" * 8
ROOT = os.path.realpath(f"{os.path.dirname(os.path.abspath(__file__))}/../..")
# Width, height, number of colours, and on which part of it the commonest one is.
PICTURE = """createImageBitmap(new Blob([Uint8Array.from(atob('%s'), (letter) => letter.charCodeAt(0))])).then((image) => {
  const {width, height} = image;
  const context = new OffscreenCanvas(width, height).getContext('2d', {willReadFrequently: true});
  context.drawImage(image, 0, 0);
  const counts = new Map();
  for (const pixel of new Uint32Array(context.getImageData(0, 0, width, height).data.buffer)) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  return JSON.stringify([width, height, counts.size, Math.max(...counts.values()) / (width * height)]);
})"""


# ---- Parts ----

def trees():
    with Cluster() as cluster, Browser() as chromium:
        cluster.do(f"add 8 {FUNCTION} 1")
        page = chromium.open(cluster.url)
        wait_drawn(page, 8)
        expect_as_manager(page, lambda: cluster.tree(FUNCTION))
        expect_painted(page)
        canvas.starts_in_progress(cluster, page, FUNCTION, ["node-3"])
        canvas.edges_carry(cluster, page)
        page.media(calm=True)  # the view goes at once
        unless_moved(page, 8, lambda: canvas.zooming(page))
        page.media()

        choose(page, "table")
        expect_table_as_manager(page, lambda: cluster.tree(FUNCTION))
        choose(page, "rows")
        wait_drawn(page, 8)

        victim = kill(cluster, page)
        search_and_fold(page, 7, "node-3" if victim != "node-3" else "node-4")
        check_clean(page, cluster.url)


def kill(cluster, page):
    tree = cluster.tree(FUNCTION)
    parents = [parent for node in tree["nodes"] for parent in node["parents"] if parent]
    victim = max(set(parents), key=parents.count)
    began = time.monotonic()
    cluster.do(f"kill {victim}")
    name = json.dumps(victim)
    page.wait(f"banyan.page().drawings.every((drawing) => drawing.drawn().find(({{id}}) => id === {name})?.state !== 'live')", 2, 0.02)
    shown = time.monotonic() - began
    print(f"a kill shows after {shown:.2f} s")
    expect(shown < 2, f"the kill of {victim} shows after {shown:.2f} s")
    # Its children's edges move, and the move is told.
    page.wait("banyan.page().drawings.some((drawing) => drawing.list.some((item) => performance.now() - item.movedAt < 2600))", 12, 0.02)
    page.wait(f"banyan.page().drawings.every((drawing) => !drawing.drawn().some(({{id}}) => id === {name}))", 12)
    wait_drawn(page, 7)
    until(lambda: {stripe: drawn_edges(nodes) for stripe, nodes in drawn(page).items()} ==
          {stripe: edges_of(cluster.tree(FUNCTION), stripe) for stripe in (0, 1)}, "the mended trees are drawn", 5)
    return victim


def search_and_fold(page, count, wanted):
    page.key("/")
    expect(page.run("document.activeElement.id") == "search", "'/' does not lead to the search")
    page.type(wanted)
    page.wait("document.querySelector('.found').textContent === '1 found'")
    page.key("Enter")
    page.wait("document.querySelector('.details h2').textContent === " + json.dumps(wanted))
    expect(page.run(f"banyan.page().drawings.every((drawing) => drawing.selected === {json.dumps(wanted)})"), "not marked in both stripes")
    page.run("(() => { const search = document.getElementById('search'); search.value = ''; search.dispatchEvent(new Event('input')); })()")

    unless_moved(page, count, lambda: fold(page, count))


def unless_moved(page, count, act):
    """The manager may move nodes at any time: then another one is below the proxy, the drawing has changed, and all is done again."""
    placed = lambda: page.run("JSON.stringify([...banyan.live.tree.members.values()].map((member) => [member.node, member.parents]))")
    for attempt in range(4):
        before = placed()
        try:
            act()
            return
        except (BrowserError, Failure) as failure:
            if attempt == 3 or placed() == before:
                raise
            print(f"done again, the trees have changed: {failure}")
            page.run("[...document.querySelectorAll('button')].find((button) => button.textContent === 'Unfold').click()")
            wait_drawn(page, count)


def fold(page, count):
    # The node below the proxy of the first stripe, by keyboard: from the proxy to the right, and folded by Space.
    page.run("document.querySelector('.drawing').focus()")
    page.key("Home")
    page.key("ArrowRight")
    root = page.run("banyan.page().drawings[0].active")
    text = page.run("document.getElementById(document.querySelector('.drawing').getAttribute('aria-activedescendant')).textContent")
    expect(text.startswith(root) and "feeds" in text, f"the active item is called {text!r}")
    page.key(" ")
    page.wait("document.querySelector('.drawing').dataset.nodes === '2'")
    nodes = drawn(page)[0]
    expect(nodes[root]["hidden"] == count - 1, f"folded: {nodes[root]}")
    expect(page.run("document.querySelector('[role=treeitem]').getAttribute('aria-expanded')") == "false", "folded, but not said to be")
    page.key(" ")
    wait_drawn(page, count)

    # And by pointer: a double click folds; a click picks, on the folded one unfolds.
    box = json.loads(page.run("JSON.stringify(document.querySelector('.drawing').getBoundingClientRect())"))
    at = lambda: drawn(page)[0][root]
    point = at()
    page.click(box["x"] + point["x"], box["y"] + point["y"], 2)
    page.wait("document.querySelector('.drawing').dataset.nodes === '2' && document.querySelector('.drawing').dataset.settled === 'true'")
    point = at()
    box = json.loads(page.run("JSON.stringify(document.querySelector('.drawing').getBoundingClientRect())"))
    page.click(box["x"] + point["x"], box["y"] + point["y"])
    wait_drawn(page, count)
    page.wait(f"document.querySelector('.details h2').textContent === '{root}'")


def documented(words, cluster):
    """The command of docs/dashboard.md that has these words, for this manager."""
    with open(f"{ROOT}/docs/dashboard.md", encoding="utf-8") as document:
        blocks = re.findall(r"^```sh\n(.*?)^```$", document.read(), re.M | re.S)
    found = [block for block in blocks if words in block]
    expect(len(found) == 1, f"docs/dashboard.md has {len(found)} commands with {words}")
    return found[0].replace("http://127.0.0.1:4651/", cluster.url)


def expect_manifests_have(document):
    """What docs/dashboard.md tells to forward a port to."""
    namespace, kind, name, port = re.search(r"kubectl --namespace (\S+) port-forward (\w+)/(\S+) (\d+)", document).groups()
    with open(f"{ROOT}/deploy/kubernetes/kustomization.yaml", encoding="utf-8") as file:
        expect(f"\nnamespace: {namespace}\n" in file.read(), f"the manifests have no namespace {namespace}")
    with open(f"{ROOT}/deploy/kubernetes/manager.yaml", encoding="utf-8") as file:
        objects = re.split(r"^---$", file.read(), flags=re.M)
    expect(any(re.search(rf"^kind: {kind}$.*^  name: {name}$.*containerPort: {port},", one, re.M | re.S | re.I) for one in objects), f"the manifests have no {kind} {name} with port {port}")


def pictures():
    """Those of docs/dashboard.md come to be as its script makes them; of fewer nodes, and in less time."""
    with open(f"{ROOT}/docs/dashboard.md", encoding="utf-8") as document:
        text = document.read()
    expect_manifests_have(text)
    wanted = set(re.findall(r"\(dashboard/([a-z]+\.png)\)", text))
    with tempfile.TemporaryDirectory(prefix="banyan-pictures-") as directory:
        screenshots.make(directory, quick=True)
        expect(set(os.listdir(directory)) == wanted, f"made are {sorted(os.listdir(directory))}, docs/dashboard.md shows {sorted(wanted)}")
        with Browser() as chromium:
            page = chromium.open("about:blank")
            for name in sorted(wanted):
                with open(f"{directory}/{name}", "rb") as file:
                    width, height, colours, most = json.loads(page.run(PICTURE % base64.b64encode(file.read()).decode()))
                print(f"{name}: {width}×{height}, {colours} colours, one of them on {most:.0%}")
                expect(width >= 900 and height >= 600, f"{name} is {width}×{height}")
                expect(colours >= 100 and most < 0.97, f"{name} is blank: {colours} colours, one of them on {most:.0%}")


def pages():
    with Cluster() as cluster, Browser() as chromium:
        cluster.do(f"add 8 {FUNCTION} 2")
        cluster.do("add 3 web 1 edge-")
        for node in ("node-1", "node-2", "node-3"):
            cluster.do(f"start {node} {FUNCTION}")
        page = chromium.open(cluster.url + "#/fleet", dark=True, calm=True)
        page.wait("document.querySelectorAll('.long-table tbody tr[data-row]').length === 11")
        rows = table_of(page)
        for node in cluster.api("nodes")["nodes"]:
            row = rows[node["node"]]
            expect(row[1] == (node["zone"] or "–") and row[2] == "live" and row[4] == node["version"], f"{node}: the fleet page says {row}")
        lists.fleet(cluster, page)
        accessible(page, "Fleet", [("table", "Nodes"), ("region", "Nodes"), ("searchbox", "Filter nodes"), ("columnheader", "Store"), ("rowheader", "node-1")],
                   ["Filter nodes", "Nodes", "Store"])
        cluster.do("kill edge-2")
        page.wait("[...document.querySelectorAll('.long-table tbody tr')].some((row) => row.dataset.row === 'edge-2' && row.textContent.includes('suspect'))", 3)

        readable(page, "Fleet")
        away = subprocess.run(["bash", "-o", "pipefail", "-c", documented("api/v1/nodes", cluster)], capture_output=True, text=True, check=False)
        expect(away.returncode == 0 and '"edge-2"' in away.stdout and '"edge-1"' not in away.stdout, f"docs/dashboard.md's command says {away}")

        page.run("location.hash = '#/images'")
        page.wait("document.querySelectorAll('.images .long-table tbody tr[data-row]').length === 2")
        page.run("document.querySelector('.long-table button.link').click()")
        page.wait("!document.querySelector('.one').hidden && document.querySelectorAll('.one .long-table tbody tr[data-row]').length === 8")
        lists.image(cluster, page, ["node-3"])
        accessible(page, "Images", [("table", "Images"), ("table", "Nodes that run the image"), ("list", "Nodes by how much they hold"), ("button", "Preheat…")],
                   ["Preheat another", "Images", "Profile", "registry.example", "Its trees", "Nodes that run"])
        readable(page, "Images")

        page.run("location.hash = '#/starts'")
        page.wait("document.querySelectorAll('.start').length === 3")
        page.run("document.querySelector('.start-head').click()")
        page.wait("document.querySelectorAll('.start-more tbody tr').length === 7")
        expect(page.run("document.querySelectorAll('.plot circle').length") == 3, "the picture of the starts has other dots")
        accessible(page, "Starts", [("img", "Starts by when they began"), ("list", "Starts, the newest first"), ("searchbox", "Filter starts"), ("table", "Stages")],
                   ["Filter starts"])
        expect(page.run("[...document.querySelectorAll('.start-head')].map((head) => head.getAttribute('aria-expanded')).join()") == "true,false,false", "which start is open is not told")
        readable(page, "Starts")

        page.run(f"location.hash = '#/trees/{FUNCTION}'")
        wait_drawn(page, 8)
        expect(page.run("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 19)", "dark is not dark")
        page.run("[...document.querySelectorAll('#theme input')].find((input) => input.value === 'light').click()")
        expect(page.run("getComputedStyle(document.body).backgroundColor") == "rgb(245, 245, 241)", "light is not light")
        canvas.zones(page, ["eu-a", "eu-b"])
        accessible(page, "Trees", [("tree", "Stripe 1"), ("tree", "Stripe 2"), ("treeitem", "proxy"), ("combobox", "Function"), ("searchbox", "Search a node")],
                   ["function", "Search a node", "Zoom in", "Stripe 1", "Stripe 2"])
        readable(page, "Trees")
        check_clean(page, cluster.url)
        restarted(cluster, page)
        preheated(chromium)


def restarted(cluster, page):
    """The manager goes, and comes back where it was: the page says so, asks again now and then, and goes on by itself with the new one's state."""
    said = "document.querySelector('#status .text').textContent"
    streams = lambda: sum("api/v1/events" in url for url in page.drain().requests)
    before = streams()
    went = time.monotonic()
    cluster.stop_manager()
    page.wait(f"{said} === 'Reconnecting'", 10)
    until(lambda: streams() > before, "the page asks again", 10)
    asked, away = streams() - before, time.monotonic() - went
    expect(asked <= 1 + away, f"the page has asked {asked} times in {away:.1f} s")
    cluster.start_manager()
    page.wait(f"{said} === 'Live'", 20)
    print(f"live again {time.monotonic() - went:.1f} s after the manager was stopped")
    cluster.do(f"name late {FUNCTION} eu-a")
    page.wait("banyan.page().drawings.every((drawing) => drawing.drawn().some(({id, state}) => id === 'late' && state === 'live'))", 15)
    expect_as_manager(page, lambda: cluster.tree(FUNCTION))
    complaints = [problem for problem in page.drain().problems if "ERR_" not in problem]
    expect(page.problems and not complaints, f"of a manager that is away the page says {page.problems}")


def preheated(chromium):
    with Cluster(token=preheating.TOKEN) as cluster:
        cluster.do(f"add 8 {FUNCTION} 2")
        page = chromium.open(cluster.url, dark=True, calm=True)
        page.wait("window.banyan")
        preheating.with_token(cluster, page, FUNCTION)
        accessible_controls(page)
        readable(page, "Preheat")
        preheating.while_closed(cluster, page)


def conversions():
    with Cluster() as cluster, Browser() as chromium:
        cluster.do(f"add 2 {FUNCTION} 1")
        page = chromium.open(cluster.url + "#/conversions")
        page.wait("document.querySelector('.proxies').textContent.includes('does not answer')")
        page.wait("document.querySelector('.conversions .empty h2').textContent === 'No proxy has answered'")
        cluster.do(f"proxy {cluster.proxy}")
        page.wait("document.querySelector('.conversions .empty h2').textContent.startsWith('Nothing has been converted')")

        running = {"registry": "registry.example", "repository": "shop/app", "reference": "7", "digest": FUNCTION, "state": "RUNNING", "asks": 3,
                   "layers": 5, "layersDone": 2, "bytes": 400_000_000, "bytesDone": 100_000_000, "beganUnixMicros": int(time.time() * 1e6)}
        cluster.convert(**running)
        cluster.convert(registry="registry.example", repository="shop/bad", reference="1", digest="sha256:" + "0b" * 32, state="FAILED",
                        message="layer 1 of 2: the tar has no end", beganUnixMicros=1, endedUnixMicros=2_000_001)
        page.wait("document.querySelectorAll('.conversions tbody tr[data-row]').length === 2")
        rows = table_of(page)
        expect(rows["registry.example/shop/app:7"][1:5] == ["running", "25 %", "2/5", "400 MB"], f"the table says {rows}")
        expect(rows["registry.example/shop/bad:1"][1] == "failed" and rows["registry.example/shop/bad:1"][7] == "2.00 s", f"the table says {rows}")
        expect(page.run("document.querySelector('main [role=progressbar]').getAttribute('aria-valuenow')") == "25", "the bar does not say how far it is")
        expect(page.run("document.querySelector('.conversions .summary').textContent") == "1 running, 1 failed", "the summary is another")
        cluster.convert(**running | {"bytesDone": 300_000_000})
        page.wait("document.querySelector('main [role=progressbar]').getAttribute('aria-valuenow') === '75'", 3)

        # By keyboard: the failed one, and why.
        page.run("[...document.querySelectorAll('button.link')].find((button) => button.textContent.includes('shop/bad')).focus()")
        page.key("Enter")
        page.wait("document.querySelector('.conversions .message').textContent === 'layer 1 of 2: the tar has no end'")
        preheating.open_form(page, "Preheat…")
        expect(page.run("document.getElementById('preheat-reference').value") == "registry.example/shop/bad:1", "the form is for another image")
        preheating.read_only(cluster, page)
        page.key("Escape")
        page.wait("!document.querySelector('dialog.preheat').open")
        cluster.convert(**running | {"state": "DONE", "bytesDone": 400_000_000, "layersDone": 5, "layersReused": 1, "blobBytes": 360_000_000, "chunks": 1500,
                                     "sharedChunks": 700, "sharedBytes": 90_000_000, "endedUnixMicros": int(time.time() * 1e6)})
        page.wait("!document.querySelector('main [role=progressbar]')")
        row = table_of(page)["registry.example/shop/app:7"]
        expect(row[1:7] == ["done", "100 %", "5/5", "400 MB", "360 MB", "25 %"], f"the table says {row}")

        page.run(f"location.hash = '#/images/{FUNCTION}'")
        page.wait("!document.querySelector('.one').hidden && document.querySelector('.one .facts').textContent.includes('90 MB, 25 %')")
        facts = page.run("document.querySelector('.one .facts').innerText")
        for words in ("done", "400 MB", "1,500"):
            expect(words in facts, f"the image page lacks {words}: {facts}")
        cluster.do(f"proxy {cluster.proxy}")
        page.wait("document.querySelector('.one .facts').textContent.includes('no proxy tells')", 5)
        accessible_controls(page)
        check_clean(page, cluster.url)


def proxy():
    """A real registry proxy converts two images of which one contains most of the other."""
    registry = Registry()
    base, own = noise("base", 4), noise("own", 4)
    first = registry.add("shop/first", base, own)
    second = registry.add("shop/second", base, own + noise("more", 1))
    with Proxy(registry) as real, Cluster([real.status]) as cluster, Browser() as chromium:
        cluster.do(f"add 2 {second} 1")
        page = chromium.open(cluster.url + "#/conversions")
        page.wait("document.querySelector('.conversions .empty h2').textContent.startsWith('Nothing has been converted')", 20)
        registry.rate = 2e6  # the first of 8 MB: some seconds
        real.pull_manifest("shop/first")
        page.wait("((bar) => bar && bar.getAttribute('aria-valuenow') > 0 && bar.getAttribute('aria-valuenow') < 100)(document.querySelector('main [role=progressbar]'))", 20)
        registry.rate = 1e12
        name = f"{registry.name}/shop"
        page.wait(f"[...document.querySelectorAll('tbody tr[data-row]')].some((row) => row.textContent.startsWith('{name}/first') && row.textContent.includes('done'))", 20)
        row = table_of(page)[f"{name}/first:1"]
        expect(row[3] == "2/2" and row[6] == "0 %", f"the first image shares something: {row}")
        real.pull_manifest("shop/second")
        page.wait(f"[...document.querySelectorAll('tbody tr[data-row]')].some((row) => row.textContent.startsWith('{name}/second') && row.textContent.includes('done'))", 20)
        # 8 of its 9 MiB are the first's, but for the chunk where they part.
        shared = float(table_of(page)[f"{name}/second:1"][6].split()[0])
        expect(75 <= shared <= 89, f"the second image shares {shared} %")
        one = next(one for one in cluster.api("conversions")["conversions"] if one["digest"] == second)
        expect(one["layersReused"] == 1 and one["state"] == "done" and one["chunks"] > one["sharedChunks"] > 10, f"{one}")
        expect(next(one for one in cluster.api("conversions")["conversions"] if one["digest"] == first)["sharedChunks"] == 0, "the first shares chunks")
        page.run(f"location.hash = '#/images/{second}'")
        page.wait(f"!document.querySelector('.one').hidden && document.querySelector('.one .facts').textContent.includes('{shared:.0f} %')")

        # It goes, and the page says so; it comes back, and says that it has nothing to tell.
        page.run("location.hash = '#/conversions'")
        real.stop()
        page.wait(f"document.querySelector('.proxies').textContent.includes('{real.status} does not answer')", 10)
        real.start()
        page.wait(f"document.querySelector('.proxies').textContent.includes('{real.status} answers')", 20)
        # What it has converted before it tells again, once it is asked for.
        real.pull_manifest("shop/second")
        real.pull_manifest("shop/first")
        page.wait(f"document.querySelectorAll('tbody tr[data-row]').length === 2", 20)
        rows = table_of(page)
        expect(rows[f"{name}/second:1"][1] == "done" and rows[f"{name}/second:1"][9] == "earlier" and rows[f"{name}/second:1"][6] == "0 %", f"{rows}")
        expect(rows[f"{name}/first:1"][3] == "2/2" and float(rows[f"{name}/first:1"][6].split()[0]) > 80, f"{rows}")
        check_clean(page, cluster.url)


def hostile():
    names = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "\"'><svg onload=alert(1)>", "__proto__", "constructor",
             "javascript:alert(1)", "a" * 255, "\u202egnp.exe", "{{7*7}}"]
    zone = "<b onmouseover=alert(1)>z"
    function = "<script>window.pwned=1</script>"
    quote = urllib.parse.quote
    with Cluster(token=preheating.TOKEN) as cluster, Browser() as chromium:
        for name in names:
            cluster.do(f"name {quote(name, safe='')} {function} {quote(zone, safe='')}")
        cluster.do("wait")
        cluster.do(f"start {quote(names[0], safe='')} {function}")
        cluster.do(f"proxy {cluster.proxy}")
        for name in names:
            cluster.convert(registry=name, repository=name, reference=name, digest=name, state="RUNNING", bytes=1, bytesDone=2**63, message=name,
                            artifact=name)
        cluster.convert(registry="r", digest=function, state="FAILED", message=names[1])
        page = chromium.open(cluster.url)
        wait_drawn(page, len(names))
        expect_as_manager(page, lambda: cluster.tree(function))
        for name in names:
            page.run(f"banyan.page().drawings[0].events.select({json.dumps(name)})")
            page.wait(f"document.querySelector('.details h2').textContent === {json.dumps(name)}")
            page.run(f"banyan.page().drawings[0].events.hover({json.dumps(name)}, 300, 300)")
        choose(page, "table")
        page.wait(f"document.querySelectorAll('.long-table tbody tr[data-row]').length === {len(names)}")
        expect(set(table_of(page)) == set(names), f"the table has {sorted(table_of(page))}")
        for place, condition in (("fleet", f"document.querySelectorAll('tbody tr[data-row]').length === {len(names)}"),
                                 ("images/" + quote(function), "!document.querySelector('.one').hidden"),
                                 ("conversions", f"document.querySelectorAll('tbody tr[data-row]').length === {len(names) + 1}"),
                                 ("conversions/" + quote("\n".join([cluster.proxy, "r", "", function]), safe=""), "!document.querySelector('.one').hidden"),
                                 ("starts", "document.querySelectorAll('.start').length === 1"), ("%zz", "document.querySelector('.trees')"),
                                 ("trees/" + quote(function, safe=""), "document.querySelector('.trees')")):
            page.run(f"location.hash = {json.dumps('#/' + place)}")
            page.wait(condition)
        expect(page.run("document.querySelectorAll('main img, main script, main b, [onerror], [onload], [onmouseover]').length") == 0,
               "a name has become markup")
        page.run(f"location.hash = {json.dumps('#/images/' + quote(function))}")
        page.wait("document.querySelector('.one') && !document.querySelector('.one').hidden")
        preheating.open_form(page, "Preheat…")
        expect(page.run("document.getElementById('preheat-zone').options[1].value") == zone, "the form has not the zone")
        page.type(preheating.TOKEN)
        page.key("Enter")
        preheating.ended(page, f"{len(names)} of {len(names)} nodes have the image")
        expect(set(preheating.states(page)) == set(names), "the form has other nodes")
        expect(page.run("document.querySelectorAll('.preheat img, .preheat script, .preheat b').length") == 0, "a name has become markup in the form")
        expect(page.run("window.pwned === undefined && ({}).node === undefined"), "a name has become code")
        # The policy holds what the code might let through.
        blocked = page.run("""(() => { try { document.body.innerHTML = '<p>x</p>'; return false; } catch (error) { return error instanceof TypeError; } })()""")
        expect(blocked, "markup can be made out of text")
        page.drain()
        page.problems = [problem for problem in page.problems if "TrustedHTML" not in problem]
        check_clean(page, cluster.url)


def model():
    """What a batch of changes may look like in the middle: rings, parents that are gone. Nobody is lost, nothing hangs."""
    with Cluster() as cluster, Browser() as chromium:
        page = chromium.open(cluster.url)
        page.wait("window.banyan")
        answer = json.loads(page.run("""import('./forest.js').then(({buildTree, shownNodes, foldToFit, NameOrder}) => {
          const member = (node, parent) => [node, {node, zone: '', parents: [parent, parent], depths: [1, 1]}];
          const members = new Map([member('a', 'b'), member('b', 'c'), member('c', 'a'), member('d', 'a'), member('self', 'self'),
            member('orphan', 'gone'), member('root', ''), member('leaf', 'root'), member('node-10', 'root'), member('node-9', 'root')]);
          const order = new NameOrder();
          order.update(members);
          const {root} = buildTree(members, 0, new Set(), order);
          const shown = shownNodes(root);
          const chain = new Map(Array.from({length: 3000}, (_, i) => member(`n${i}`, i === 0 ? '' : `n${(i - 1) >> 1}`)));
          order.update(chain);
          const big = buildTree(chain, 0, new Set(), order);
          const folds = foldToFit(big, 100);
          const folded = buildTree(chain, 0, folds, order);
          const few = shownNodes(folded.root);
          return JSON.stringify({names: shown.map((node) => node.id).sort(), size: root.size, order: shown.find((node) => node.id === 'root').children.map((node) => node.id),
            few: few.length, hidden: few.reduce((sum, node) => sum + node.hidden, 0)});
        })"""))
        expect(answer["names"] == sorted(["", "a", "b", "c", "d", "self", "orphan", "root", "leaf", "node-10", "node-9"]), f"{answer}")
        expect(answer["size"] == 11, f"{answer}")
        expect(answer["order"] == ["leaf", "node-9", "node-10"], f"siblings do not stand as people count: {answer}")
        expect(answer["few"] <= 101 and answer["few"] + answer["hidden"] == 3001, f"folding loses nodes: {answer}")
        check_clean(page, cluster.url)


def prefix():
    with Cluster(token=preheating.TOKEN) as cluster, Browser() as chromium:
        cluster.do(f"add 8 {FUNCTION} 2")
        reverse = PrefixProxy(cluster.url, "/ops/banyan/")
        page = chromium.open(reverse.url)
        wait_drawn(page, 8)
        expect_as_manager(page, lambda: cluster.tree(FUNCTION))
        cluster.do(f"name late {FUNCTION} eu-a")
        wait_drawn(page, 9)  # events come through as they happen
        page.run("location.hash = '#/fleet'")
        page.wait("document.querySelectorAll('.long-table tbody tr[data-row]').length === 9")
        page.run("location.hash = '#/conversions'")
        page.wait("document.querySelector('.proxies').textContent.includes('does not answer')")
        preheating.from_elsewhere(cluster, chromium)
        preheating.typed(page, 9)
        preheating.refusals(page)
        preheating.manager_goes(cluster, page, 9)
        check_clean(page, reverse.url)
        expect(not reverse.refused, f"asked beside the prefix: {reverse.refused}")
        reverse.shutdown()


if __name__ == "__main__":
    if browser.program() is None:
        print("needs chromium (scripts/install-deps.sh)")
        sys.exit(SKIP)
    sys.exit(main({"trees": trees, "scale": scale, "pages": pages, "conversions": conversions, "proxy": proxy, "hostile": hostile, "model": model, "prefix": prefix, "pictures": pictures}))
