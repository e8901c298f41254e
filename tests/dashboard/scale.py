"""Thousands of simulated nodes that all beat: how soon they are drawn, and whether the page stays responsive."""
import json
import time

from browser import Browser
from harness import Cluster, check_clean, choose, drawn, expect, expect_same

FUNCTION = "sha256:" + "5f2a91c0" * 8
# Nodes → seconds until they are drawn; milliseconds of the median frame while panning, and of the longest task but one: a busy machine may
# stop any program once. The 2 s of 2,000 are what was promised; those of 5,000 are several times what an idle machine of two cores takes.
LIMITS = {2000: (2, 100, 500), 5000: (5, 250, 1500)}
LONGEST_TASK = 3000


def scale(*counts):
    there = 0
    with Cluster() as cluster, Browser() as chromium:
        chromium.open("about:blank")
        for count in [int(count) for count in counts] or LIMITS:
            cluster.do(f"add {count - there} {FUNCTION} 4 {'node-' if there == 0 else 'more-'}")
            there = count
            time.sleep(1)
            look(cluster, chromium, count)


def look(cluster, chromium, count):
    to_draw, median, task = LIMITS[count]
    # A busy machine may lose the beats of one among thousands, at any time: what the manager says counts.
    names = lambda: {node["node"] for node in cluster.tree(FUNCTION)["nodes"]}
    expect(len(names()) >= count * 0.99, f"{len(names())} of {count} agents are there")
    page = chromium.open(cluster.url)
    page.wait("window.banyan && document.querySelectorAll('.drawing').length === 2 && "
              "[...document.querySelectorAll('.drawing')].every((drawing) => drawing.dataset.settled === 'true')", 20)
    took = page.run("Math.max(...[...document.querySelectorAll('.drawing')].map((drawing) => Number(drawing.dataset.drawnAt)))") / 1000
    print(f"{count} nodes are drawn {took:.2f} s after the page was asked for")
    expect(took < to_draw, f"{count} nodes took {took:.2f} s")
    first = page.run("Math.min(...[...document.querySelectorAll('.drawing')].map((drawing) => Number(drawing.dataset.drawnFirst)))")
    expect(first > count * 0.99, f"only {first} were drawn then")
    for stripe in (0, 1):
        expect_same(lambda stripe=stripe: set(drawn(page)[stripe]) - {""}, names, f"stripe {stripe + 1} has the nodes")

    frames, tasks = pan(page)
    print(f"panning: {len(frames)} frames, median {frames[len(frames) // 2]:.0f} ms, 95 % {frames[len(frames) * 95 // 100]:.0f} ms, "
          f"longest {frames[-1]:.0f} ms; longest task {max(tasks, default=0):.0f} ms")
    expect(frames[len(frames) // 2] < median, f"panning: half of the frames take over {median} ms")
    longest = sorted([0, 0, *tasks])[-2:]
    expect(longest[0] < task and longest[1] < LONGEST_TASK, f"tasks blocked the page for {longest} ms")

    # A node far down is found, unfolded and brought into sight.
    wanted = max(cluster.tree(FUNCTION)["nodes"], key=lambda node: max(node["depths"]))["node"]
    page.key("/")
    page.type(wanted)
    began = time.monotonic()
    page.key("Enter")
    page.wait(f"document.querySelector('.details h2')?.textContent === '{wanted}'")
    print(f"search: {time.monotonic() - began:.2f} s")
    choose(page, "table")
    expect_same(lambda: page.run("document.querySelector('.long-table table')?.getAttribute('aria-rowcount')"), lambda: str(len(names()) + 1), "rows of the table")
    expect(page.run("document.querySelectorAll('.long-table tbody tr').length") < 100, "the whole table is in the page")
    check_clean(page, cluster.url)
    page.close()


def pan(page):
    """Pans and zooms for two seconds, or what a slow machine takes for forty moves, while beats of all nodes come in. Milliseconds of its frames, sorted, and of its long tasks."""
    page.run("""(() => {
      window.frames_ = []; window.views_ = []; let last = performance.now();
      const frame = (now) => {
        frames_.push(now - last); last = now;
        const {k, x} = banyan.page().drawings[0].transform; views_.push([k, x]);
        window.more_ && requestAnimationFrame(frame);
      };
      window.more_ = true; requestAnimationFrame(frame);
      window.tasks_ = []; new PerformanceObserver((list) => tasks_.push(...list.getEntries().map((task) => task.duration))).observe({type: 'longtask'});
    })()""")
    box = json.loads(page.run("JSON.stringify(document.querySelector('.drawing').getBoundingClientRect())"))
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    end = time.monotonic() + 2
    page.mouse("mousePressed", x + 40, y + 40, button="left", buttons=1, clickCount=1)
    step = 0
    while time.monotonic() < end or step < 40:
        step += 1
        page.mouse("mouseMoved", x + 40 + step % 20 * 4, y + 40, button="left", buttons=1)
        if step % 10 == 0:
            page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-60 if step % 40 < 20 else 60)
    page.mouse("mouseReleased", x + 40, y + 40, button="left", clickCount=1)
    frames = sorted(json.loads(page.run("(() => { window.more_ = false; return JSON.stringify(frames_.slice(2)); })()")))
    scales, places = (page.run(f"new Set(views_.map((view) => view[{part}])).size") for part in (0, 1))
    expect(scales >= 2 and places >= 3, f"the view has had {scales} scales and {places} places")
    return frames, json.loads(page.run("JSON.stringify(tasks_)"))
