// One stripe's tree as people use it: pan, zoom, pick, fold; by pointer, touch or keyboard. The painting is painter.js's.
//
// For screen readers the drawing is a tree (WAI-ARIA) of which one item is there at a time, the active one: arrow keys move
// it, and its label says everything that the picture shows. The table beside it shows all at once.

import {announce, el} from './dom.js';
import {PROXY, edgeLoad, incoming, shownNodes} from './forest.js';
import {percent, rate} from './format.js';
import {layOut, place} from './layout.js';
import {Painter, loadText} from './painter.js';
import {calm, onPaletteChange} from './palette.js';

const {select, zoom, zoomIdentity} = window.d3;

const MOVE_MILLIS = 650;
const REACH = 9;         // pixels from a node at which the pointer still means it
const ZOOM_STEP = 1.35;
let drawings = 0;

const ease = (t) => 1 - (1 - t) ** 3;

export class TreeDrawing {
  /** `events`: {select(id), hover(id, x, y), fold(id)}; hover(null) when the pointer is on nothing. */
  constructor(label, stripe, events) {
    this.stripe = stripe;
    this.events = events;
    this.items = new Map();
    this.list = [];
    this.ghosts = [];
    this.transform = zoomIdentity;
    this.goal = zoomIdentity;  // where the view is, or is going
    this.moveBegan = -Infinity;
    this.active = PROXY;
    this.selected = null;
    this.hovered = null;
    this.matches = null;
    this.path = new Set();
    this.userMoved = false;
    this.target = null;    // in the middle, also when the size changes
    this.travel = null;    // the view's transition under way
    this.canvas = el('canvas', {'aria-hidden': 'true'});
    this.item = el('div', {role: 'treeitem', id: `item-${++drawings}`});
    this.element = el('div', {class: 'drawing', role: 'tree', tabindex: '0', 'aria-label': label,
      'aria-activedescendant': this.item.id}, this.canvas, el('div', {class: 'hidden'}, this.item));
    this.painter = new Painter(this.canvas);
    this.#listen();
  }

  destroy() {
    this.observer.disconnect();
    this.forgetPalette();
    cancelAnimationFrame(this.frame);
    this.destroyed = true;
  }

  /** `tree`: of buildTree(). `fresh`: another function or shape; nothing moves. */
  show(tree, shape, zoneOf, fresh) {
    const began = performance.now();
    this.tree = tree;
    this.zoneOf = zoneOf;
    if (!this.painter.width) this.#measure();
    const changed = fresh || this.shape !== shape || this.#structureChanged(tree);
    this.shape = shape;
    if (fresh) this.userMoved = false;
    if (changed) this.#lay(fresh || calm());
    else this.#renew();
    if (!this.items.has(this.active)) this.active = PROXY;
    this.#describe();
    this.element.dataset.layoutMillis = (performance.now() - began).toFixed(1);
    this.#draw();
  }

  #structureChanged(tree) {
    const shown = shownNodes(tree.root);
    if (shown.length !== this.list.length) return true;
    return shown.some((node) => {
      const item = this.items.get(node.id);
      return !item || item.node.parent?.id !== node.parent?.id || item.node.hidden !== node.hidden;
    });
  }

  // The same nodes with newer figures.
  #renew() {
    for (const node of shownNodes(this.tree.root)) this.items.get(node.id).node = node;
  }

  #lay(still) {
    const now = performance.now();
    const moving = this.#progress(now);
    const old = this.items;
    this.layout = layOut(this.tree.root, this.shape, {width: this.painter.width, height: this.painter.height});
    this.items = new Map();
    this.list = shownNodes(this.tree.root).map((node) => {
      const {u, v} = this.layout.nodes.get(node.id);
      const item = {id: node.id, node, u, v, fromU: u, fromV: v, movedAt: -Infinity, oldParent: null};
      const before = old.get(node.id);
      if (!still && before) this.#moveFrom(item, before, moving, now);
      else if (!still && node.parent) this.#growFrom(item, now);
      this.items.set(node.id, item);
      return item;
    });
    this.ghosts = still ? [] : [...old.values()].filter((item) => !this.tree.nodes.has(item.id));
    this.moveBegan = still ? -Infinity : now;
    if (!this.userMoved) this.fit(!still);
    this.element.dataset.nodes = String(this.list.length);
    this.element.dataset.settled = 'false';
  }

  #moveFrom(item, before, moving, now) {
    item.fromU = before.fromU + (before.u - before.fromU) * moving;
    item.fromV = before.fromV + (before.v - before.fromV) * moving;
    item.movedAt = before.movedAt;
    if (before.node.parent && before.node.parent.id !== item.node.parent.id) {
      item.movedAt = now;
      item.oldParent = before.node.parent.id;
    }
  }

  // Out of its parent.
  #growFrom(item, now) {
    const parent = this.items.get(item.node.parent.id);
    item.fromU = parent.fromU;
    item.fromV = parent.fromV;
    item.movedAt = this.list.length > 0 ? now : -Infinity;
  }

  #progress(now) { return ease(Math.min(Math.max((now - this.moveBegan) / MOVE_MILLIS, 0), 1)); }

  // ---- Pointer, touch, size ----

  #listen() {
    this.zoom = zoom().scaleExtent([0.02, 14]).on('zoom', () => {
      const {event} = window.d3;
      this.transform = event.transform;
      if (event.sourceEvent) {
        this.goal = event.transform;
        this.userMoved = true;
        this.target = null;
      }
      this.#draw();
    });
    select(this.canvas).call(this.zoom).on('dblclick.zoom', null);
    this.canvas.addEventListener('mousemove', (event) => this.#hover(event));
    this.canvas.addEventListener('mouseleave', () => this.#hover(null));
    this.canvas.addEventListener('click', (event) => this.#click(event));
    this.canvas.addEventListener('dblclick', () => this.clicked && this.events.fold(this.clicked));
    this.element.addEventListener('keydown', (event) => this.#key(event));
    this.element.addEventListener('focus', () => this.#draw());
    this.element.addEventListener('blur', () => this.#draw());
    this.forgetPalette = onPaletteChange(() => this.#draw());
    this.observer = new ResizeObserver(() => {
      if (!this.#measure() || !this.tree) return;
      this.#lay(true);
      if (this.target !== null) this.goTo(this.target);
      this.#draw();
    });
    this.observer.observe(this.element);
  }

  // False: nothing has changed.
  #measure() {
    const {clientWidth: width, clientHeight: height} = this.element;
    if (width === this.painter.width && height === this.painter.height) return false;
    this.painter.resize(width, height);
    return true;
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left;
    const y = event.clientY - box.top;
    let best = null;
    let least = REACH ** 2;
    for (const item of this.list) {
      const distance = Math.max(0, Math.hypot(item.x - x, item.y - y) - item.radius) ** 2;
      if (distance < least) {
        least = distance;
        best = item.id;
      }
    }
    return best;
  }

  #hover(event) {
    const id = event ? this.#at(event) : null;
    this.canvas.style.cursor = id ? 'pointer' : '';
    this.events.hover(id, event?.clientX ?? 0, event?.clientY ?? 0);
  }

  // The second of two clicks is the first one's node's: picking a node may move the drawing from under the pointer.
  #click(event) {
    if (event.detail > 1) return;
    const id = this.#at(event);
    if (id) this.active = id;
    this.#describe();
    const folded = id && this.items.get(id).node.hidden > 0;
    this.clicked = folded ? null : id;
    if (folded) this.events.fold(id);
    this.events.select(id || null);
  }

  // ---- Keyboard ----

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.tree) return;
    const node = this.items.get(this.active).node;
    const siblings = node.parent?.shown ?? [node];
    const at = siblings.indexOf(node);
    const actions = {
      ArrowLeft: () => this.#activate(node.parent),
      ArrowRight: () => (node.hidden > 0 ? this.events.fold(node.id) : this.#activate(node.shown[0])),
      ArrowUp: () => this.#activate(siblings[at - 1] ?? this.#beside(node, -1)),
      ArrowDown: () => this.#activate(siblings[at + 1] ?? this.#beside(node, 1)),
      Home: () => this.#activate(this.tree.root),
      End: () => this.#activate(this.list[this.list.length - 1].node),
      Enter: () => this.events.select(node.id || null),
      ' ': () => node.id && node.children.length > 0 && this.events.fold(node.id),
      Escape: () => this.events.select(null),
      '+': () => this.zoomBy(ZOOM_STEP),
      '=': () => this.zoomBy(ZOOM_STEP),
      '-': () => this.zoomBy(1 / ZOOM_STEP),
      0: () => this.fit(true),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  // The next one of its level, across parents.
  #beside(node, step) {
    const level = this.list.filter((item) => item.node.depth === node.depth);
    const at = level.findIndex((item) => item.node === node) + step;
    return level[at]?.node;
  }

  #activate(node) {
    if (!node) return;
    this.active = node.id;
    this.#describe();
    this.#reveal(node.id);
    this.#draw();
  }

  #describe() {
    const node = this.items.get(this.active)?.node;
    if (!node) return;
    const {item} = this;
    const siblings = node.parent?.shown ?? [node];
    item.setAttribute('aria-level', String(node.depth + 1));
    item.setAttribute('aria-setsize', String(siblings.length));
    item.setAttribute('aria-posinset', String(siblings.indexOf(node) + 1));
    item.setAttribute('aria-selected', String(this.selected === node.id));
    if (node.children.length > 0) item.setAttribute('aria-expanded', String(!node.collapsed));
    else item.removeAttribute('aria-expanded');
    const text = describe(node, this.stripe);
    if (item.textContent === text) return;
    item.textContent = text;
    if (document.activeElement === this.element) announce(text);
  }

  // ---- View ----

  fit(smooth) {
    const {layout, painter} = this;
    if (!layout || !painter.width) return;
    const {left, right, top, bottom} = layout.extent;
    const k = Math.min(painter.width / (right - left), painter.height / (bottom - top), 1.25);
    const x = (painter.width - (left + right) * k) / 2;
    const y = (painter.height - (top + bottom) * k) / 2;
    this.userMoved = false;
    this.target = null;
    this.zoom.scaleExtent([Math.min(k * 0.7, 0.7), 14]);
    this.#go(zoomIdentity.translate(x, y).scale(k), smooth);
  }

  zoomBy(factor) {
    const middle = [this.painter.width / 2, this.painter.height / 2];
    const [x, y] = this.goal.invert(middle);
    const [least, most] = this.zoom.scaleExtent();
    const k = Math.min(Math.max(this.goal.k * factor, least), most);
    this.userMoved = true;
    this.#go(zoomIdentity.translate(...middle).scale(k).translate(-x, -y), true, 180);
  }

  /** Brings a node into the middle, near enough to be read. */
  goTo(id) {
    const item = this.items.get(id);
    if (!item) return;
    const {x, y} = place(this.shape, item.u, item.v);
    const k = Math.max(this.goal.k, Math.min(14 / this.layout.room(item.node.depth), 8), 0.9);
    this.userMoved = true;
    this.target = id;
    this.#go(zoomIdentity.translate(this.painter.width / 2 - x * k, this.painter.height / 2 - y * k).scale(k), true);
  }

  // Only as far as it takes.
  #reveal(id) {
    const item = this.items.get(id);
    const {x, y} = place(this.shape, item.u, item.v);
    const [sx, sy] = this.goal.apply([x, y]);
    const margin = 30;
    const dx = sx < margin ? margin - sx : Math.min(0, this.painter.width - margin - sx);
    const dy = sy < margin ? margin - sy : Math.min(0, this.painter.height - margin - sy);
    if (dx === 0 && dy === 0) return;
    const {k} = this.goal;
    this.#go(zoomIdentity.translate(this.goal.x + dx, this.goal.y + dy).scale(k), true);
  }

  #go(transform, smooth, millis = 450) {
    const canvas = select(this.canvas).interrupt();
    this.goal = transform;
    if (!smooth || calm()) {
      this.zoom.transform(canvas, transform);
      return;
    }
    const travel = canvas.transition().duration(millis).on('end.settle interrupt.settle cancel.settle', () => {
      if (this.travel !== travel) return;
      this.travel = null;
      this.goal = this.transform;
      this.#draw();
    });
    this.travel = travel;
    this.element.dataset.settled = 'false';
    this.zoom.transform(travel, transform);
  }

  /** What is to stand out. `path`: names from a node to the proxy; `dims`: the rest fades; `matches`: of a search, or null. */
  mark({selected, hovered, path, dims, matches}) {
    this.selected = selected;
    this.hovered = hovered;
    this.path = path;
    this.dims = dims;
    this.matches = matches;
    this.#draw();
  }

  // ---- Frames ----

  #draw() {
    if (this.destroyed || this.frame || !this.layout) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      if (this.destroyed || !this.painter.width) return;
      const again = this.#paint();
      // What flows or pulses needs no more than half of the frames.
      if (again) setTimeout(() => this.#draw(), this.#progress(performance.now()) < 1 ? 0 : 33);
    });
  }

  #paint() {
    const now = performance.now();
    const moving = this.#progress(now);
    if (moving === 1) this.ghosts = [];
    const again = this.painter.paint({
      layout: this.layout, items: this.list, byId: this.items, ghosts: this.ghosts, stripe: this.stripe, zoneOf: this.zoneOf,
      transform: this.transform, now, moving, active: this.active, hovered: this.hovered, selected: this.selected,
      path: this.path, dims: this.dims, matches: this.matches, focused: document.activeElement === this.element,
    });
    this.element.dataset.paintMillis = (performance.now() - now).toFixed(1);
    this.element.dataset.drawnAt ??= performance.now().toFixed(0);  // since the page was asked for; for tests, as the next one
    this.element.dataset.drawnFirst ??= String(this.list.length);
    this.element.dataset.settled = String(moving === 1 && !this.travel);  // for tests: nothing moves any more
    const starting = this.list.length <= 400 && !calm() &&
      this.list.some((item) => item.node.member && !item.node.member.ready && item.inside);
    return again || starting;
  }

  /** What is on the canvas now; for tests. `load`, `kind`, `width`: of the edge to its parent, as it was painted last. */
  drawn() {
    return this.list.map(({id, node, x, y, radius, load, kind, width}) => ({
      id, parent: node.parent ? node.parent.id : null, x, y, radius, load, kind, width, hidden: node.hidden,
      state: node.member?.state ?? null, zone: node.member?.zone ?? null, held: node.member?.presentPermille ?? null,
    }));
  }
}

/** A node in a sentence. */
export function describe(node, stripe) {
  if (!node.member) return `proxy, feeds ${node.children.length} ${node.children.length === 1 ? 'node' : 'nodes'}`;
  const {member} = node;
  const parts = [member.node];
  if (member.zone) parts.push(`zone ${member.zone}`);
  parts.push(member.state);
  parts.push(node.children.length > 0 ? `feeds ${node.children.length}` : 'leaf');
  parts.push(`holds ${percent(member.presentPermille)}`);
  if (!member.ready) parts.push('start in progress');
  const load = edgeLoad(member, stripe);
  parts.push(load.total > 0 ? `receives ${loadText(load)} from ${member.parents[stripe] || 'the proxy'}` : 'receives nothing now');
  const spare = incoming(member).get('spare');
  if (spare && spare.total > 0) parts.push(`${rate(spare.total)} from spare parents`);
  if (node.hidden > 0) parts.push(`${node.hidden} nodes folded below it`);
  return parts.join(', ');
}
