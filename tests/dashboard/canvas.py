"""What is on the canvases: the edges by the bytes that they carry, zones, starts in progress; and how the view is moved."""
import json
import time

from harness import edges_of, expect, until

# What a canvas has at a place: red, green, blue, alpha; nothing where a node is to be that was not painted yet. From a copy, since a canvas that is read often is painted slowly.
LOOK = """const look = ({canvas}) => {
  const context = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', {willReadFrequently: true});
  context.drawImage(canvas, 0, 0);
  return (x, y) => (Number.isFinite(x + y) ? [...context.getImageData(Math.floor(x * devicePixelRatio), Math.floor(y * devicePixelRatio), 1, 1).data] : [0, 0, 0, 0]);
};"""


def ask(page, script):
    """What the function's body returns, of one moment."""
    return json.loads(page.run(f"JSON.stringify((() => {{ {LOOK} {script} }})())"))


def colour(page, selector, prop="backgroundColor"):
    text = page.run(f"getComputedStyle(document.querySelector({json.dumps(selector)})).{prop}")
    return [int(number) for number in text.removeprefix("rgb(").removesuffix(")").split(", ")]


def distance(pixel, wanted):
    return max(abs(pixel[i] - wanted[i]) for i in range(3))


# ---- Bytes ----

EDGES = """return banyan.page().drawings.map((drawing) => {
  const at = look(drawing);
  const nodes = drawing.drawn();
  const byId = new Map(nodes.map((node) => [node.id, node]));
  return nodes.filter((node) => node.parent !== null).map((node) => {
    const from = byId.get(node.parent);
    return {...node, middle: at((from.x + node.x) / 2, (from.y + node.y) / 2)};
  });
});"""
FLOWS = (((3_000_000, 200_000, 1_000), "demand", 3.2, "3.2 MB/s: 3 MB/s demand, 200 kB/s prefetch, 1 kB/s fill"),
         ((0, 45_000_000, 0), "prefetch", 4.2, "45 MB/s prefetch"), ((0, 0, 45_000), "fill", 1.8, "45 kB/s fill"))


def edges_carry(cluster, page):
    """Each class in turn comes to all but those that are complete: known of the edges, drawn in the legend's colour and as wide as it
    is much, and said beside the pointer."""
    for flow, kind, width, words in FLOWS:
        cluster.do("flow {} {} {}".format(*flow))
        load = dict(zip(("demand", "prefetch", "fill"), flow)) | {"total": sum(flow)}
        none = dict.fromkeys(load, 0)
        wanted = lambda edge: [none, None, 1] if edge["held"] == 1000 else [load, kind, width]
        told = lambda edge: [edge.get("load"), edge.get("kind"), edge.get("width")]
        until(lambda: all(told(edge) == wanted(edge) for edges in ask(page, EDGES) for edge in edges), lambda: f"edges carry {words}, but {ask(page, EDGES)}", 15)
        expect_coloured(page, kind)
        page.run("banyan.page().drawings[0].events.hover('node-1', 300, 300)")
        expect(page.run("document.querySelector('.tip').lastChild.textContent") == words, f"the tip does not say {words}")
        page.run("banyan.page().drawings[0].events.hover(null)")


def expect_coloured(page, kind):
    """Most edges with bytes have their class's colour in the middle, and none without; on some a name or another edge may lie."""
    wanted = colour(page, f".legend .mark.{kind}")
    def coloured():
        edges = [edge for edges in ask(page, EDGES) for edge in edges]
        painted = [(edge["kind"], edge["middle"][3] > 60 and distance(edge["middle"], wanted) <= 12) for edge in edges]
        loaded = [good for one, good in painted if one]
        return len(loaded) >= 8 and sum(loaded) > len(loaded) / 2 and not any(good for one, good in painted if not one)
    until(coloured, lambda: f"edges are painted in the colour of {kind}, {wanted}: {ask(page, EDGES)}", 5)


def edges_carry_real_bytes(page):
    """Somewhere a node feeds another one: known, and drawn so."""
    widths = (1.3, 1.8, 2.4, 3.2, 4.2, 5.4)  # a step is a factor of ten, from 1 kB/s
    def carrying():
        for edges in ask(page, EDGES):
            for edge in edges:
                if edge["parent"] and edge.get("kind") and edge["load"]["total"] >= 100_000:
                    return edge
        return None
    edge = until(carrying, "no edge between nodes is drawn with bytes on it", 20)
    load = edge["load"]
    most = max(("demand", "prefetch", "fill"), key=lambda kind: load[kind])
    expect(load[edge["kind"]] == load[most] and load["total"] == sum(load[kind] for kind in ("demand", "prefetch", "fill")), f"{edge}")
    expect(edge["width"] == widths[min(len(str(int(load["total"]))) - 4, 5)], f"{edge}: the width is of another rate")
    print(f"the edge {edge['parent']} → {edge['id']} is drawn with {load}, in the colour of {edge['kind']}, {edge['width']} wide")


# ---- Nodes ----

# Below a node nothing is but the ring of a start.
RINGS = """return banyan.page().drawings.map((drawing) => {
  const at = look(drawing);
  return drawing.drawn().filter((node) => node.state === 'live').map(({id, x, y, radius}) => ({id, below: at(x, y + radius + 3.5)}));
});"""


def starts_in_progress(cluster, page, function, names):
    """Who starts has a ring, and says so; `names` do, no others. And each one's role in both stripes is told."""
    accent = colour(page, "nav a[aria-current]", "borderBottomColor")
    ringed = lambda: [{node["id"] for node in nodes if node["below"][3] > 40 and distance(node["below"], accent) <= 16} for nodes in ask(page, RINGS)]
    until(lambda: ringed() == [set(names)] * 2, lambda: f"rings are around {names}, but {ask(page, RINGS)}", 10)
    fact = "[...document.querySelectorAll('.toolbar .facts div')].find((fact) => fact.firstChild.textContent === 'Starting').lastChild.textContent"
    expect(page.run(fact) == str(len(names)), "the number of starts is another")
    for node in cluster.tree(function)["nodes"]:
        name = node["node"]
        page.run(f"banyan.page().drawings[0].events.select('{name}')")
        page.wait(f"document.querySelector('.details h2')?.textContent === '{name}'")
        chips = "[...document.querySelectorAll('.details .chip')].some((chip) => chip.textContent === 'starting')"
        page.wait(f"{chips} === {json.dumps(name in names)}", 5)
        until(lambda name=name: roles_of(page) == [role(edges_of(cluster.tree(function), stripe), name) for stripe in (0, 1)], lambda: f"roles: {roles_of(page)}", 5)
    page.run("banyan.page().drawings[0].events.select(null)")


def roles_of(page):
    return json.loads(page.run("JSON.stringify([...document.querySelectorAll('.details dt')].filter((term) => term.textContent === 'Role')"
                               ".map((term) => term.nextElementSibling.textContent))"))


def role(edges, name):
    """`edges`: node → parent."""
    children = [child for child, parent in edges.items() if parent == name]
    below = lambda above: sum(1 + below(child) for child, parent in edges.items() if parent == above)
    return f"feeds {len(children)}, {below(name)} below it" if children else "leaf"


# ---- Zones ----

# Within the first quarter of each disc, which is filled; and near the lower right corner of each zone's band.
ZONES = """return banyan.page().drawings.map((drawing) => {
  const at = look(drawing);
  const {layout, transform} = drawing;
  const nodes = drawing.drawn();
  const zones = new Map(nodes.map(({id, zone}) => [id, zone]));
  return {
    nodes: nodes.filter(({id}) => id).map(({id, zone, parent, x, y, radius}) => ({id, zone, above: parent ? zones.get(parent) : zone, y, ink: at(x + radius * 0.35, y - radius * 0.35)})),
    bands: layout.zones.map(({name, from, to}) => ({name, from: from * transform.k + transform.y, to: to * transform.k + transform.y,
      ink: at(layout.right * transform.k + transform.x - 12, to * transform.k + transform.y - 4)})),
  };
});"""


def zones(page, names):
    """Each zone has a colour, in the legend, on its nodes and on the band behind them; no edge crosses zones."""
    legend = {name: [int(number) for number in text[4:-1].split(", ")] for name, text in ask(
        page, "return [...document.querySelectorAll('.legend .mark.zone')].map((mark) => [mark.parentElement.textContent, getComputedStyle(mark).backgroundColor]);")}
    expect(sorted(legend) == sorted(names), f"the legend has the zones {legend}")
    expect(len({tuple(one) for one in legend.values()}) == len(names), f"zones look the same: {legend}")
    wrong = []
    def right():
        wrong.clear()
        for stripe in ask(page, ZONES):
            bands = {band["name"]: band for band in stripe["bands"]}
            wrong.extend(node for node in stripe["nodes"] if node["ink"][3] < 250 or distance(node["ink"], legend[node["zone"]]) > 6 or node["above"] != node["zone"])
            wrong.extend(node for node in stripe["nodes"] if not bands[node["zone"]]["from"] < node["y"] < bands[node["zone"]]["to"])
            nearest = lambda ink: min(names, key=lambda name: distance(ink, legend[name]))
            wrong.extend(band for band in stripe["bands"] if not 5 < band["ink"][3] < 60 or nearest(band["ink"]) != band["name"])
            wrong.extend(name for name in names if name not in bands)
        return not wrong
    until(right, lambda: f"all is in its zone's colour {legend}, but {wrong}", 10)


# ---- The view ----

def view(page, drawing=0):
    """Scale and place, once the drawings stand and are painted so."""
    page.run("new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(() => painted(true))))")
    page.wait("[...document.querySelectorAll('.drawing')].every((drawing) => drawing.dataset.settled === 'true')")
    return ask(page, f"const {{k, x, y}} = banyan.page().drawings[{drawing}].transform; return {{k, x, y}};")


def outside(page):
    """Nodes that are not in sight, of both drawings."""
    return ask(page, "return banyan.page().drawings.flatMap((drawing) => drawing.drawn().filter(({x, y}) =>"
                     " x < 0 || y < 0 || x > drawing.painter.width || y > drawing.painter.height)).length;")


def zooming(page):
    """By buttons, which move both drawings; by keys, which move the one with the focus; by pointer."""
    press = lambda label: page.run(f"document.querySelector('.buttons button[aria-label={json.dumps(label)}]').click()")
    grown = lambda now, before: abs(now["k"] / before["k"] / 1.35 - 1) < 0.001
    first = [view(page, drawing) for drawing in (0, 1)]
    press("Zoom in")
    expect(all(grown(view(page, drawing), first[drawing]) for drawing in (0, 1)), "Zoom in does not")
    press("Zoom out")
    expect(all(abs(view(page, drawing)["k"] / first[drawing]["k"] - 1) < 0.001 for drawing in (0, 1)), "Zoom out does not")
    for _ in range(4):
        press("Zoom in")
    view(page)
    expect(outside(page) > 0, "nothing is out of sight after Zoom in")
    press("Show the whole tree")
    near = view(page)
    expect(outside(page) == 0, "Fit does not show the whole tree")

    still = view(page, 1)
    page.run("document.querySelector('.drawing').focus()")
    page.key("+")
    expect(grown(view(page), near), "the key + does not zoom in")
    page.key("-")
    expect(abs(view(page)["k"] / near["k"] - 1) < 0.001, "the key - does not zoom out")
    for _ in range(5):
        page.key("+")
    view(page)
    expect(outside(page) > 0, "nothing is out of sight after +")
    page.key("0")
    view(page)
    expect(outside(page) == 0, "the key 0 does not show the whole tree")
    expect(view(page, 1) == still, "keys move the other drawing")
    by_pointer(page)
    press("Show the whole tree")
    view(page)


def by_pointer(page):
    box = ask(page, "const {x, y, width, height} = document.querySelector('.drawing canvas').getBoundingClientRect(); return {x, y, width, height};")
    x, y = box["width"] / 2, box["height"] / 2
    before = view(page)
    page.mouse("mousePressed", box["x"] + x, box["y"] + y, button="left", buttons=1, clickCount=1)
    for step in (1, 2, 3):
        page.mouse("mouseMoved", box["x"] + x + 20 * step, box["y"] + y - 10 * step, button="left", buttons=1)
    page.mouse("mouseReleased", box["x"] + x + 60, box["y"] + y - 30, button="left", clickCount=1)
    moved = view(page)
    expect(abs(moved["x"] - before["x"] - 60) < 1 and abs(moved["y"] - before["y"] + 30) < 1 and moved["k"] == before["k"], f"dragged from {before} to {moved}")
    page.mouse("mouseWheel", box["x"] + x, box["y"] + y, deltaX=0, deltaY=-200)
    until(lambda: view(page)["k"] > moved["k"] * 1.1, "the wheel zooms in", 5, 0.02)
    time.sleep(0.2)  # one turn of the wheel may be told in parts
    near = view(page)
    under = lambda one: ((x - one["x"]) / one["k"], (y - one["y"]) / one["k"])
    expect(all(abs(a - b) < 1 for a, b in zip(under(near), under(moved))), f"what is under the pointer moves: {moved}, {near}")
    page.mouse("mouseMoved", 2, 2)
