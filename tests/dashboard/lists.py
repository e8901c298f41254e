"""The pages that are lists: the fleet's figures, sorted and filtered; an image's profile, and whose start is in progress."""
import json

from harness import expect, table_of, until

# In the order in which fleet.cc numbers them: eight of one function in two zones, three of another one.
NUMBERS = {**{f"node-{number}": number for number in range(1, 9)}, **{f"edge-{number - 8}": number for number in range(9, 12)}}
TILES = """JSON.stringify(Object.fromEntries([...document.querySelectorAll('.tile')].map((tile) =>
  [tile.querySelector('h2').textContent, [tile.querySelector('.value').textContent, tile.querySelector('.more').textContent]])))"""


def gigabytes(name):
    """What fleet.cc says of its store of 100 GB."""
    return 4 + NUMBERS[name] * 7 % 89


def order(page):
    return json.loads(page.run("JSON.stringify([...document.querySelectorAll('.long-table tbody tr[data-row]')].map((row) => row.dataset.row))"))


def fleet(cluster, page):
    """All bring 3 MB/s in each stripe but those that hold everything, every fifth; half of them send twice as much."""
    cluster.do("flow 3000000 0 0")
    wanted = {"Nodes": ["11", "all live, in 3 zones"], "Sent to peers": ["48 MB/s", "by all nodes together"], "Received": ["54 MB/s", "from peers, proxy and registry"],
              "Stores": [f"{sum(map(gigabytes, NUMBERS))} GB", "of 1.1 TB"], "Versions": ["0.1.0", "0.1.0: 10, 0.0.9: 1"]}
    until(lambda: json.loads(page.run(TILES)) == wanted, lambda: f"the tiles say {json.loads(page.run(TILES))}, not {wanted}", 15)
    for name, row in table_of(page).items():
        busy = NUMBERS[name] % 5 != 0
        sends = "12 MB/s" if busy and NUMBERS[name] % 2 == 0 else "–"
        expect(row[6:9] == [sends, "6 MB/s" if busy else "–", f"{gigabytes(name)} GB"], f"the fleet page says {row}")
        part = page.run(f"document.querySelector('tr[data-row={name}] .track span').style.width")
        expect(part == f"{gigabytes(name)}%", f"the bar of {name}'s store is {part} long")

    by_store = sorted(NUMBERS, key=gigabytes)
    page.run("[...document.querySelectorAll('.long-table thead button')].find((button) => button.textContent === 'Store').focus()")
    for direction, names in (("descending", by_store[::-1]), ("ascending", by_store)):
        page.key("Enter")
        told = page.run("[...document.querySelectorAll('main thead th')].filter((head) => head.ariaSort !== 'none').map((head) => `${head.textContent} ${head.ariaSort}`).join()")
        expect(told == f"Store {direction}", f"sorted by store, {direction}, it says {told}")
        expect(order(page) == names, f"by store, {direction}: {order(page)}")

    # 0.0.9 is the version of one, and in the address of another.
    for text, names in (("eu-b", {"node-2", "node-4", "node-6", "node-8"}), ("0.0.9", {"edge-1", "node-8"}), ("NODE-", {f"node-{number}" for number in range(1, 9)}), ("nobody", set())):
        page.run("document.getElementById('search').focus(); document.getElementById('search').select()")
        page.type(text)
        page.wait(f"document.querySelector('.found').textContent === '{len(names)} of 11'", 5)
        expect(set(order(page)) == names, f"{text} finds {order(page)}")
    page.run("(() => { const search = document.getElementById('search'); search.value = ''; search.dispatchEvent(new Event('input')); })()")
    page.wait("document.querySelectorAll('.long-table tbody tr[data-row]').length === 11 && document.querySelector('.found').textContent === ''")


def image(cluster, page, starting):
    """One of eight nodes, the page of which is shown: who starts; and its profile, once a node tells what it touches."""
    fact = "[...document.querySelectorAll('.one .facts div')].find((fact) => fact.firstChild.textContent === 'Profile').lastChild.textContent"
    expect(page.run(fact) == "none yet", f"the profile is {page.run(fact)}")
    told = lambda: {name: row[3] for name, row in table_of(page).items() if name in NUMBERS}
    wanted = {f"node-{number}": "over" for number in range(1, 9)} | dict.fromkeys(starting, "in progress")
    until(lambda: told() == wanted, lambda: f"starts: {told()}", 10)
    cluster.do("touch node-1 42")
    page.wait(f"{fact} === '42 chunks'", 10)
    row = next(row for name, row in table_of(page).items() if name.startswith("registry.example/sha256"))
    expect(row[3] == "8" and row[5] == str(len(starting)) and row[6] == "42", f"the list of images says {row}")
