"""What people are told who hear the pages or use no pointer, and whether those who see them can read them."""
import json

from harness import expect

NAMED = ("button", "link", "textbox", "searchbox", "combobox", "radio", "tree", "treeitem", "img", "image", "progressbar", "table", "region", "columnheader")
LEAST_CONTRAST = 4.5  # WCAG 2.1, 1.4.3


def name_of(node):
    return node.get("name", {}).get("value", "")


def accessible_controls(page):
    """Role → what has it; everything that is used or looked up has a name."""
    roles = {}
    for node in page.call("Accessibility.getFullAXTree")["nodes"]:
        if node.get("ignored"):
            continue
        role = node["role"]["value"]
        roles.setdefault("img" if role == "image" else role, []).append(node)
        if role in NAMED:
            expect(name_of(node), f"a {role} without a name: {node}")
    return roles


def accessible(page, title, named, tabbed):
    """What a screen reader is told of a page, and what Tab meets from the top on. `named`: (role, name) that are there; `tabbed`: beginnings of names."""
    roles = accessible_controls(page)
    for role in ("banner", "navigation", "main", "heading", "radio"):
        expect(role in roles, f"{title}: nothing is a {role}")
    for role, name in (("heading", title), ("link", title), *named):
        names = [name_of(node) for node in roles.get(role, [])]
        expect(any(one.startswith(name) for one in names), f"{title}: no {role} is called {name}, but {names}")
    expect(page.run("[...document.querySelectorAll('nav [aria-current=page]')].map((link) => link.textContent).join()") == title, "another page is said to be the current one")
    page.run("document.getElementById('skip').focus()")
    met = []
    while len(met) < 45 and met[-1:] != ["skip"]:
        page.key("Tab")
        met.append(page.run("(document.activeElement.getAttribute('aria-label') || document.activeElement.id || document.activeElement.textContent || '').slice(0, 30)"))
    for name in ("Trees", "Starts", *tabbed):
        expect(any(one.startswith(name) for one in met), f"{title}: Tab meets no {name}, but {met}")


# Every text in sight: its contrast with what is behind it, both as the browser has computed them.
CONTRAST = """(() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/-?[\\d.]+(?:e-?\\d+)?/g).map(Number);
    return text.startsWith('color(') ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((part, i) => part * a + under[i] * (1 - a));
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reduceRight((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const look = (element, text, colour) => {
    const back = behind(element);
    const [dark, bright] = [light(over(parse(colour), back)), light(back)].sort((a, b) => a - b);
    found.push({text: text.trim().slice(0, 30), colour, back: back.map(Math.round).join(), ratio: (bright + 0.05) / (dark + 0.05)});
  };
  for (const element of document.querySelectorAll('body *')) {
    if (!element.checkVisibility({visibilityProperty: true}) || element.matches(':disabled, title')) continue;
    const style = getComputedStyle(element);
    const text = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data).join('');
    if (text.trim()) look(element, text, element instanceof SVGElement ? style.fill : style.color);
    if (!element.matches('input:not([type=radio], [type=checkbox])')) continue;
    look(element, element.value || 'typed', style.color);
    if (element.placeholder) look(element, element.placeholder, getComputedStyle(element, '::placeholder').color);
  }
  return JSON.stringify(found);
})()"""


def readable(page, where):
    """Light and dark, as chosen on the page, which must be one without transitions; then as the system has it."""
    for theme in ("light", "dark"):
        set_theme(page, theme)
        page.run("for (const chip of document.querySelectorAll('.notices .chip')) chip.hidden = false")
        texts = json.loads(page.run(CONTRAST))
        page.run("for (const chip of document.querySelectorAll('.notices .chip')) chip.hidden = true")
        shades = {text["colour"] for text in texts}
        expect(len(texts) > 20 and len(shades) >= 3, f"{where}: only {texts} were looked at")
        faint = [text for text in texts if text["ratio"] < LEAST_CONTRAST]
        expect(not faint, f"{where}, {theme}: too little contrast: {faint}")
        print(f"{where}, {theme}: {len(texts)} texts in {len(shades)} colours, the least contrast is {min(text['ratio'] for text in texts):.2f}")
    set_theme(page, "auto")


def set_theme(page, theme):
    page.run(f"[...document.querySelectorAll('#theme input')].find((input) => input.value === '{theme}').click()")
