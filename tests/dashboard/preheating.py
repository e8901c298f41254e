"""Preheating from the page: what it asks the manager for, what it says of the answers, and where the token is not."""
import json
import time
import urllib.error
import urllib.parse
import urllib.request

from harness import check_clean, expect, until, wait_drawn

TOKEN = "4be1c0ffee.of-the~cluster"
ERROR = "<img src=x onerror=alert(1)> registry.example: 404"
STATES = """JSON.stringify(Object.fromEntries([...document.querySelectorAll('.preheat tbody tr[data-row]')].map((row) =>
  [row.dataset.row, [...row.children].slice(1).map((cell) => cell.textContent)])))"""


def states(page):
    """Node → what the form's table says of it."""
    return json.loads(page.run(STATES))


def message(page, words, seconds=10):
    page.wait(f"document.getElementById('preheat-message').textContent.includes({json.dumps(words)})", seconds)


def ended(page, text, seconds=15):
    """Until the form says so, of all nodes; a screen reader is told the same."""
    page.wait(f"document.getElementById('preheat-spoken').textContent === {json.dumps(text)}", seconds)
    expect(page.run("document.querySelector('.preheat section p').textContent").startswith(text + ", after "), "what is shown is not what is said")


def open_form(page, opener):
    """By keyboard: the button with this text."""
    page.run(f"[...document.querySelectorAll('main button')].find((button) => button.textContent === {json.dumps(opener)}).focus()")
    page.key("Enter")
    page.wait("document.querySelector('dialog.preheat').open && document.getElementById('preheat-reach').textContent")


def with_token(cluster, page, function):
    """A wrong token, then the right one; one of eight nodes fails."""
    cluster.do(f"refuse node-5 {urllib.parse.quote(ERROR, safe='')}")
    page.run(f"location.hash = '#/images/{function}'")
    page.wait("!document.querySelector('.one').hidden")
    open_form(page, "Preheat…")
    reference = f"registry.example/{function[:32]}:2.14"
    expect(page.run("document.getElementById('preheat-reference').value") == reference, "the field is not filled from the image")
    expect(page.run("document.getElementById('preheat-reach').textContent") == "8 nodes will be told", "it does not say whom it will tell")
    expect(page.run("document.activeElement.id") == "preheat-token", "the token's field has not the focus")
    page.type("wrong-" + TOKEN)
    page.key("Enter")
    message(page, "The manager refuses the token")
    expect(page.run("document.activeElement.id") == "preheat-token" and page.run("document.activeElement.getAttribute('aria-invalid')") == "true",
           "the refused token is not marked")
    expect(page.run("document.querySelector('.preheat section').hidden"), "something has begun with a wrong token")
    until(lambda: page.drain().problems, "the browser tells of the refusal")
    expect(len(page.problems) == 1 and "401" in page.problems[0], f"the page complains: {page.problems}")
    page.problems = []

    cluster.do("bring 1")
    page.type(TOKEN)  # over the refused one, which is selected
    page.key("Enter")
    page.wait("document.querySelectorAll('.preheat tbody .state.running').length === 7 && document.querySelectorAll('.preheat tbody .state.bad').length === 1")
    expect(states(page)["node-1"] == ["running", "137 MB of 412 MB", "–"], f"the table says {states(page)}")
    expect(page.run("document.getElementById('preheat-message').textContent") == "", "the refusal is still shown")
    cluster.do("bring 3")
    ended(page, "7 of 8 nodes have the image, 1 failed")
    rows = states(page)
    expect(rows.pop("node-5") == ["failed", "137 MB of 412 MB", ERROR], f"the table says {rows}")
    expect(len(rows) == 7 and all(row == ["done", "412 MB of 412 MB", "–"] for row in rows.values()), f"the table says {rows}")
    expect(page.run("document.querySelector('.preheat .errors').textContent") == "node-5: " + ERROR, "why it failed is not told")
    expect(page.run("document.querySelectorAll('.preheat img, .preheat [onerror]').length") == 0, "an error has become markup")
    expect(page.run("document.querySelector('.preheat [role=progressbar]').getAttribute('aria-valuenow')") == "91", "the bar says something else")
    told = cluster.api("preheats/1")
    expect(told["ended"] and told["reference"] == "docker://" + reference, f"the manager says {told}")
    expect_not_kept(cluster, page)
    check_clean(page, cluster.url)


def expect_not_kept(cluster, page):
    """The token is in no storage, address, cookie, markup or log."""
    kept = page.run("""(async () => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href, history.state, document.title,
      await indexedDB.databases(), await caches.keys(), document.documentElement.outerHTML]))()""")
    expect("banyan-theme" in kept, f"what the page keeps is not seen: {kept[:200]}")
    expect(TOKEN not in kept, "the token is kept")
    expect(not any(TOKEN in url for url in page.drain().requests), "the token was in an address")
    expect(TOKEN not in open(cluster.log_path, encoding="utf-8").read(), "the token is in the manager's log")


def typed(page, nodes):
    """An image that no node runs: its name is typed. Without the token nothing is sent."""
    page.run("location.hash = '#/images'")
    page.wait("document.querySelector('.images')")
    open_form(page, "Preheat another…")
    expect(page.run("document.activeElement.id") == "preheat-reference", "the image's field has not the focus")
    page.type("registry.example/other:1")
    page.key("Enter")
    expect(not page.run("document.getElementById('preheat-token').validity.valid"), "the form can do without a token")
    page.run("document.getElementById('preheat-token').focus()")
    page.type(TOKEN)
    expect(not any("/preheats" in url for url in page.drain().requests), "something was sent without a token")
    page.key("Enter")
    ended(page, f"{nodes} of {nodes} nodes have the image")


def read_only(cluster, page):
    """The manager has no token: its form, which is open, says so and sends nothing, and its API takes nothing, whatever is shown to it."""
    page.wait("document.getElementById('preheat-read-only').checkVisibility()")
    expect("token_file" in page.run("document.getElementById('preheat-read-only').textContent"), "it is not said how to give it a token")
    expect(page.run("document.querySelector('.preheat button.primary').disabled"), "the button can be pressed")
    page.run("document.getElementById('preheat-token').focus()")
    page.type(TOKEN)
    page.key("Enter")
    page.run("document.querySelector('.preheat button.primary').click()")
    page.run("document.getElementById('preheat-token').value = ''")
    expect(not any("/preheats" in url for url in page.drain().requests), "a page that can only read has sent something")
    for headers in ({}, {"Authorization": ""}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {TOKEN}"}):
        status, answer, _ = refused(cluster.url + "api/v1/preheats", "POST", {"Content-Type": "application/json", **headers})
        expect(status == 403 and "token_file" in json.loads(answer)["error"], f"with {headers} the manager says {status} {answer}")


def refused(url, method, headers):
    """Status, body and headers of what the manager says to a preheating, which it is not to take."""
    request = urllib.request.Request(url, b'{"reference": "registry.example/evil:1"}', headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def real_nodes(page, function, token, nodes):
    """Agents that hold the image say so; then back to the trees."""
    page.run(f"location.hash = '#/images/{function}'")
    page.wait("document.querySelector('.one') && !document.querySelector('.one').hidden")
    open_form(page, "Preheat…")
    page.run("document.getElementById('preheat-plain').click()")
    page.run("document.getElementById('preheat-token').focus()")
    page.type(token)
    page.key("Enter")
    ended(page, f"{nodes} of {nodes} nodes have the image", 20)
    rows = states(page)
    expect(len(rows) == nodes and all(state == "done" and len(set(has.split(" of "))) == 1 for state, has, _ in rows.values()), f"the table says {rows}")
    print(f"preheated from the page: {rows}")
    page.key("Escape")
    page.run(f"location.hash = '#/trees/{function}'")
    wait_drawn(page, nodes)


def while_closed(cluster, page):
    """A zone's two nodes; the form is closed meanwhile, and the frame tells."""
    page.run("(() => { const zone = document.getElementById('preheat-zone'); zone.value = 'eu-b'; zone.dispatchEvent(new Event('change')); })()")
    page.run("document.getElementById('preheat-most').focus()")
    page.type("2")
    expect(page.run("document.getElementById('preheat-reach').textContent") == "2 nodes will be told", "it does not say whom it will tell")
    cluster.do("bring 1")
    page.key("Enter")
    page.wait("document.querySelectorAll('.preheat tbody tr[data-row]').length === 2")
    page.key("Escape")
    page.wait("!document.querySelector('dialog.preheat').open && !document.getElementById('preheating').hidden")
    expect(page.run("document.activeElement.textContent") == "Preheat…", "the focus does not go back")
    page.run("location.hash = '#/trees'")
    cluster.do("bring 3")
    page.wait("document.getElementById('announcements')?.textContent === 'Preheating: 2 of 2 nodes have the image'", 15)
    zones = {node["node"]: node["zone"] for node in cluster.api("nodes")["nodes"]}
    told = [node["node"] for node in cluster.api("preheats/2")["nodes"]]
    expect([zones[node] for node in told] == ["eu-b", "eu-b"], f"told were {told}")
    page.run("document.getElementById('preheating').click()")
    expect(page.run("document.querySelector('.preheat section p').textContent").startswith("2 of 2 nodes have the image, after "), "the end is not shown")
    expect(page.run("document.getElementById('preheating').hidden"), "the end is told of although it is seen")
    check_clean(page, cluster.url)


def refusals(page):
    """What a person reads of each answer; the manager's own are in preheat_api_test.cc."""
    page.run("window.fetch_ = window.fetch")
    for status, body, words in ((400, {"error": "the reference: <b>no</b>"}, "does not take this: the reference: <b>no</b>"),
                                (403, {"error": "no token here"}, "takes no preheating: no token here"),
                                (404, None, "Nothing takes preheatings at this address (HTTP 404)"), (409, {"error": "no node fits"}, "No node was told: no node fits"),
                                (503, {"error": "64 are under way already"}, "takes no more for now: 64 are under way already"),
                                (502, None, "Nodes were not told (HTTP 502)"), (200, None, "Something else than the manager has answered")):
        text = json.dumps(json.dumps(body)) if body else "'<h1>login</h1>'"
        page.run(f"window.fetch = async () => new Response({text}, {{status: {status}}})")
        page.run("document.querySelector('.preheat button.primary').click()")
        message(page, words)
    page.run("window.fetch = async () => { throw new TypeError('lost'); }")
    page.run("document.querySelector('.preheat button.primary').click()")
    message(page, "cannot be reached, or broke off")
    expect(page.run("document.querySelectorAll('.preheat .message b').length") == 0, "a reason has become markup")
    page.run("window.fetch = window.fetch_")


def manager_goes(cluster, page, nodes):
    """In the middle of it: the page says so, and does not give up; told 404, it does."""
    cluster.do("bring 1")
    page.run("document.querySelector('.preheat button.primary').click()")
    page.wait("document.querySelectorAll('.preheat .state.running').length > 0")
    page.run("window.fetch = async () => { throw new TypeError('lost'); }")
    page.wait("document.querySelector('.preheat section .message').textContent.startsWith('No word from the manager')")
    page.run("window.fetch = window.fetch_")
    cluster.do("bring 3")
    ended(page, f"{nodes} of {nodes} nodes have the image")
    expect(page.run("document.querySelector('.preheat section .message').textContent") == "", "it is still said to be lost")
    cluster.do("bring 1")
    page.run("document.querySelector('.preheat button.primary').click()")
    page.wait("document.querySelectorAll('.preheat .state.running').length > 0")
    page.run("""(() => { window.asked = 0; window.fetch = async (url) => { window.asked += String(url).includes('/preheats/'); return new Response('{"error":"no preheating 4 is known"}', {status: 404}); }; })()""")
    page.wait("document.querySelector('.preheat section .message').textContent.includes('knows this preheating no more')")
    time.sleep(1.5)
    expect(page.run("window.asked") == 1, "it asks on for what is forgotten")
    page.run("window.fetch = window.fetch_")


def from_elsewhere(cluster, browser):
    """A page of another site can have nothing preheated; a form could not either if it had the token."""
    url = cluster.url + "api/v1/preheats"
    page = browser.open("about:blank")
    said = page.run(f"""(async () => {{
      const ask = (options) => fetch({json.dumps(url)}, {{method: 'POST', body: '{{"reference": "registry.example/evil:1"}}', ...options}}).then((answer) => answer.type, () => 'refused');
      return [await ask({{mode: 'no-cors'}}), await ask({{}}), await ask({{headers: {{'Content-Type': 'application/json'}}}}), await ask({{headers: {{Authorization: 'Bearer x'}}}})].join(' ');
    }})()""")
    expect(said in ("opaque refused refused refused", "refused refused refused refused"), f"another site's page is told {said}")
    page.close()
    known = {"Authorization": f"Bearer {TOKEN}"}
    for method, headers, wanted in (("POST", {"Content-Type": "application/json"}, 401), ("POST", {"Content-Type": "text/plain"} | known, 415),
                                    ("POST", {"Content-Type": "application/x-www-form-urlencoded"} | known, 415),
                                    ("OPTIONS", {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}, 401)):
        status, _, answered = refused(url, method, {"Origin": "http://evil.example", **headers})
        opened = [name for name in answered if name.lower().startswith("access-control")]
        expect(status == wanted and not opened, f"{method} with {headers}: {status}, {opened}")
    try:
        cluster.api("preheats/1")
        expect(False, "another site's page has had something preheated")
    except urllib.error.HTTPError as error:
        expect(error.code == 404, f"preheats/1: {error.code}")
