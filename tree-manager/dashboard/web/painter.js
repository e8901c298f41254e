// Paints one stripe onto a canvas. Knows nothing of pages, input or where the data come from.
//
// Thousands of strokes are cheap, thousands of changes of style are not: edges and small nodes are gathered by style first.
// What is not within the canvas is left out; what is too small to be read is drawn simpler.

import {calm, palette} from './palette.js';
import {edgeLoad, mainClass, PROXY} from './forest.js';
import {rate} from './format.js';
import {place} from './layout.js';

const WIDTHS = [1.3, 1.8, 2.4, 3.2, 4.2, 5.4];   // of edges, from 1 kB/s on, by powers of ten
const MOVED_MILLIS = 2600;                        // an edge that changed is told for so long
const MAX_LABELS = 600;
const CURVED_FROM = 9;                            // pixels between levels
const FULL_FROM = 3.4;                            // radius of nodes that are drawn with all their marks
const FLOWING_EDGES = 260;                        // at most, if they are to move

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export function widthOf(total) { return WIDTHS[clamp(Math.floor(Math.log10(Math.max(total, 1))) - 3, 0, WIDTHS.length - 1)]; }

export class Painter {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d');
    this.widths = new Map();
  }

  resize(width, height) {
    const ratio = window.devicePixelRatio || 1;
    this.width = width;
    this.height = height;
    this.canvas.width = Math.max(1, Math.round(width * ratio));
    this.canvas.height = Math.max(1, Math.round(height * ratio));
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  /**
   * `scene`: {layout, items (parents first), ghosts, stripe, zoneOf(name) → colour index, transform, now, moving (0…1),
   * active, hovered, path (Set of ids), dims, matches (Set or null), focused}. Returns whether anything is still in motion.
   */
  paint(scene) {
    this.scene = scene;
    this.colours = palette();
    this.k = scene.transform.k;
    const {context} = this;
    context.clearRect(0, 0, this.width, this.height);
    context.lineCap = 'round';
    this.labels = [];
    this.taken = new Set();
    this.#placeItems();
    this.#paintZones();
    const moving = this.#paintEdges();
    this.#paintGhosts();
    this.#paintNodes();
    this.#paintLabels();
    return moving || scene.moving < 1;
  }

  // ---- Where ----

  #screen(item, u, v) {
    const {x, y} = place(this.scene.layout.shape, u, v);
    item.x = x * this.k + this.scene.transform.x;
    item.y = y * this.k + this.scene.transform.y;
  }

  #placeItems() {
    const {items, moving, layout} = this.scene;
    for (const item of items) {
      const u = moving < 1 ? item.fromU + (item.u - item.fromU) * moving : item.u;
      const v = moving < 1 ? item.fromV + (item.v - item.fromV) * moving : item.v;
      item.nowU = u;
      item.nowV = v;
      this.#screen(item, u, v);
      const room = layout.room(item.node.depth) * this.k;
      item.radius = clamp(room * 0.3, 0.9, 8 + Math.max(0, Math.min(room - 30, 40)) * 0.08) * (item.node.children.length > 0 ? 1.12 : 1);
      item.inside = item.x > -60 && item.x < this.width + 60 && item.y > -30 && item.y < this.height + 30;
    }
  }

  #colourOf(item) {
    return item.node.member ? this.colours.zones[this.scene.zoneOf(item.node.member.zone)] : this.colours.ink;
  }

  #faded(item) {
    const {path, dims, matches} = this.scene;
    if (matches) return !matches.has(item.id) && !path.has(item.id);
    return dims && !path.has(item.id);
  }

  // ---- Zones ----

  #paintZones() {
    const {context, scene} = this;
    const {layout, transform} = scene;
    for (const zone of layout.zones) {
      const colour = this.colours.zones[scene.zoneOf(zone.name)];
      context.globalAlpha = 0.07;
      context.fillStyle = colour;
      context.beginPath();
      if (layout.shape === 'rings') {
        const inner = layout.ring * 0.55 * this.k;
        const outer = (layout.radius + 14) * this.k;
        const [from, to] = [zone.from - Math.PI / 2 - 0.012, zone.to - Math.PI / 2 + 0.012];
        context.arc(transform.x, transform.y, outer, from, to);
        context.arc(transform.x, transform.y, inner, to, from, true);
      } else {
        const left = layout.column * 0.42 * this.k + transform.x;
        const right = layout.right * this.k + transform.x;
        context.roundRect(left, zone.from * this.k + transform.y, right - left, (zone.to - zone.from) * this.k, 10);
      }
      context.fill();
      context.globalAlpha = 1;
      this.#zoneLabel(zone);
    }
  }

  #zoneLabel(zone) {
    const {context} = this;
    const {layout, transform} = this.scene;
    const text = zone.name || 'no zone';
    context.font = `600 11px ${this.colours.font}`;
    context.fillStyle = this.colours['ink-2'];
    if (layout.shape === 'rings') {
      const angle = (zone.from + zone.to) / 2;
      const {x, y} = place('rings', angle, layout.radius + 22);
      context.textAlign = Math.abs(Math.sin(angle)) < 0.3 ? 'center' : Math.sin(angle) > 0 ? 'left' : 'right';
      context.textBaseline = 'middle';
      context.fillText(text, x * this.k + transform.x, y * this.k + transform.y);
    } else {
      context.textAlign = 'left';
      context.textBaseline = 'top';
      context.fillText(text, layout.column * 0.42 * this.k + transform.x + 10, zone.from * this.k + transform.y + 8);
    }
  }

  // ---- Edges ----

  #edgePath(item, source) {
    const {context} = this;
    const {layout} = this.scene;
    context.moveTo(source.x, source.y);
    const far = Math.abs(item.nowV - source.nowV) * this.k;
    if (far < CURVED_FROM) {
      context.lineTo(item.x, item.y);
    } else if (layout.shape === 'rows') {
      const middle = (source.x + item.x) / 2;
      context.bezierCurveTo(middle, source.y, middle, item.y, item.x, item.y);
    } else {
      const {transform} = this.scene;
      const middle = (source.nowV + item.nowV) / 2;
      const a = place('rings', source.nowV === 0 ? item.nowU : source.nowU, middle);
      const b = place('rings', item.nowU, middle);
      context.bezierCurveTo(a.x * this.k + transform.x, a.y * this.k + transform.y, b.x * this.k + transform.x,
        b.y * this.k + transform.y, item.x, item.y);
    }
  }

  // While a node moves to another parent, so does the beginning of its edge.
  #sourceOf(item) {
    const parent = this.scene.byId.get(item.node.parent.id);
    const {moving} = this.scene;
    const old = moving < 1 && item.oldParent ? this.scene.byId.get(item.oldParent) : null;
    if (!old || old === parent) return parent;
    const mix = (name) => old[name] + (parent[name] - old[name]) * moving;
    return {x: mix('x'), y: mix('y'), nowU: mix('nowU'), nowV: mix('nowV')};
  }

  #paintEdges() {
    const {context, scene} = this;
    const groups = new Map();
    const told = [];
    const onPath = [];
    const put = (key, item, source) => {
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(item, source);
    };
    let loaded = 0;
    for (const item of scene.items) {
      if (!item.node.parent) continue;
      const source = this.#sourceOf(item);
      if (!item.inside && !source.inside && !this.#crosses(item, source)) continue;
      const load = edgeLoad(item.node.member, scene.stripe);
      const kind = mainClass(load);
      const faded = this.#faded(item);
      const width = kind ? widthOf(load.total) : 1;
      put(`${kind ?? 'plain'} ${width} ${faded ? 1 : 0}`, item, source);
      Object.assign(item, {load, kind, width});
      if (kind) ++loaded;
      if (scene.now - item.movedAt < MOVED_MILLIS) told.push([item, source]);
      if (scene.path.has(item.id) && scene.path.has(item.node.parent.id)) onPath.push([item, source]);
    }
    const detail = clamp((scene.layout.room(scene.layout.height) * this.k) / 13, 0.34, 1);
    const flowing = loaded > 0 && loaded <= FLOWING_EDGES && !calm();
    for (const [key, edges] of [...groups.entries()].sort()) {
      const [kind, width, faded] = key.split(' ');
      context.strokeStyle = kind === 'plain' ? this.colours.edge : this.colours[kind];
      context.lineWidth = Number(width) * detail;
      context.globalAlpha = (kind === 'plain' ? 1 : 0.5 + 0.35 * detail) * (faded === '1' ? 0.25 : 1);
      context.beginPath();
      for (let i = 0; i < edges.length; i += 2) this.#edgePath(edges[i], edges[i + 1]);
      context.stroke();
      if (flowing && kind !== 'plain') this.#paintFlow(Number(width));
    }
    context.globalAlpha = 1;
    for (const [item, source] of onPath) this.#strokeOne(item, source, this.colours.ink, 2, 0.9);
    for (const [item, source] of told) {
      const age = (scene.now - item.movedAt) / MOVED_MILLIS;
      this.#strokeOne(item, source, this.colours.accent, 3.5, 0.85 * (1 - age));
    }
    context.globalAlpha = 1;
    return told.length > 0 || flowing;
  }

  // Lighter drops that run along the path at hand: bytes go that way.
  #paintFlow(width) {
    const {context} = this;
    context.save();
    context.strokeStyle = this.colours.surface;
    context.globalAlpha *= 0.75;
    context.lineWidth = Math.max(1, width * 0.5);
    context.setLineDash([2, 16]);
    context.lineDashOffset = -((this.scene.now / 38) % 18);
    context.stroke();
    context.restore();
  }

  #strokeOne(item, source, colour, width, alpha) {
    const {context} = this;
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.globalAlpha = alpha;
    context.beginPath();
    this.#edgePath(item, source);
    context.stroke();
  }

  #crosses(a, b) {
    return Math.min(a.x, b.x) < this.width && Math.max(a.x, b.x) > 0 && Math.min(a.y, b.y) < this.height &&
      Math.max(a.y, b.y) > 0;
  }

  // ---- Nodes ----

  #paintGhosts() {
    const {context, scene} = this;
    for (const ghost of scene.ghosts) {
      this.#screen(ghost, ghost.u, ghost.v);
      context.globalAlpha = 0.7 * (1 - scene.moving);
      context.strokeStyle = this.colours.bad;
      context.lineWidth = 1.5;
      context.beginPath();
      context.arc(ghost.x, ghost.y, ghost.radius + 7 * scene.moving, 0, 2 * Math.PI);
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  #paintNodes() {
    const {context, scene} = this;
    const small = new Map();
    const large = [];
    for (const item of scene.items) {
      if (!item.inside) continue;
      if (item.radius >= FULL_FROM || item.id === PROXY) {
        large.push(item);
        continue;
      }
      const key = this.#smallStyle(item);
      if (!small.has(key)) small.set(key, []);
      small.get(key).push(item);
    }
    for (const [key, items] of small) {
      const [colour, alpha] = key.split('|');
      context.fillStyle = colour;
      context.globalAlpha = Number(alpha);
      context.beginPath();
      for (const item of items) {
        context.moveTo(item.x + item.radius, item.y);
        context.arc(item.x, item.y, item.radius, 0, 2 * Math.PI);
      }
      context.fill();
    }
    context.globalAlpha = 1;
    for (const item of large) this.#paintNode(item);
    for (const item of small.values()) for (const one of item) this.#label(one);
  }

  #smallStyle(item) {
    const {member} = item.node;
    const faded = this.#faded(item) ? 0.22 : 1;
    if (member.state === 'suspect') return `${this.colours.bad}|${faded}`;
    if (member.state === 'draining') return `${this.colours.warn}|${faded}`;
    if (member.state === 'away') return `${this.colours['ink-3']}|${faded * 0.6}`;
    const held = Math.floor(member.presentPermille / 250) / 4;
    return `${this.#colourOf(item)}|${((0.4 + 0.6 * held) * faded).toFixed(2)}`;
  }

  #paintNode(item) {
    const {context} = this;
    if (item.id === PROXY) return this.#paintProxy(item);
    const {member} = item.node;
    const {x, y, radius} = item;
    const colour = this.#colourOf(item);
    const suspect = member.state === 'suspect';
    context.fillStyle = this.colours.surface;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
    context.globalAlpha = this.#faded(item) ? 0.3 : 1;
    if (!member.ready && member.state === 'live') this.#paintStarting(item);
    if (!suspect) this.#paintHeld(item, colour);
    context.lineWidth = radius > 5 ? 1.8 : 1.3;
    context.strokeStyle = colour;
    if (suspect) {
      context.strokeStyle = this.colours.bad;
      context.setLineDash([3, 2.4]);
    } else if (member.state === 'draining') {
      context.strokeStyle = this.colours.warn;
    } else if (member.state === 'away') {
      context.strokeStyle = this.colours['ink-3'];
      context.setLineDash([1.5, 2.5]);
    }
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.stroke();
    context.setLineDash([]);
    if (suspect && radius > 4) this.#paintCross(item);
    this.#paintMarks(item);
    context.globalAlpha = 1;
    this.#label(item);
  }

  // How much of the function it holds, as a clock.
  #paintHeld(item, colour) {
    const {context} = this;
    const part = item.node.member.presentPermille / 1000;
    if (part <= 0) return;
    context.fillStyle = item.node.member.state === 'away' ? this.colours['ink-3'] : colour;
    context.beginPath();
    if (part < 1) context.moveTo(item.x, item.y);
    context.arc(item.x, item.y, item.radius - (part < 1 ? 1.4 : 0), -Math.PI / 2, -Math.PI / 2 + 2 * Math.PI * part);
    context.fill();
  }

  #paintStarting(item) {
    const {context} = this;
    const pulse = calm() ? 0.5 : 0.5 + 0.5 * Math.sin(this.scene.now / 320);
    context.save();
    context.globalAlpha *= 0.25 + 0.35 * pulse;
    context.strokeStyle = this.colours.accent;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(item.x, item.y, item.radius + 3.5, 0, 2 * Math.PI);
    context.stroke();
    context.restore();
  }

  #paintCross(item) {
    const {context} = this;
    const arm = item.radius * 0.42;
    context.lineWidth = 1.8;
    context.beginPath();
    context.moveTo(item.x - arm, item.y - arm);
    context.lineTo(item.x + arm, item.y + arm);
    context.moveTo(item.x + arm, item.y - arm);
    context.lineTo(item.x - arm, item.y + arm);
    context.stroke();
  }

  #paintMarks(item) {
    const {context, scene} = this;
    const ring = (colour, extra, width) => {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      context.arc(item.x, item.y, item.radius + extra, 0, 2 * Math.PI);
      context.stroke();
    };
    if (scene.matches?.has(item.id)) ring(this.colours.accent, 3, 2);
    if (scene.selected === item.id) ring(this.colours.ink, 3, 2);
    else if (scene.hovered === item.id) ring(this.colours['ink-2'], 3, 1.2);
    if (scene.focused && scene.active === item.id) {
      ring(this.colours.bg, 4.5, 4);
      ring(this.colours.accent, 5, 2);
    }
  }

  #paintProxy(item) {
    const {context} = this;
    const size = clamp(7 * Math.sqrt(this.k), 5, 9);
    context.fillStyle = this.colours.ink;
    context.beginPath();
    context.roundRect(item.x - size, item.y - size, 2 * size, 2 * size, size * 0.45);
    context.fill();
    item.radius = size;
    if (this.scene.focused && this.scene.active === PROXY) this.#paintMarks(item);
    this.#label(item);
  }

  // ---- Names ----

  #label(item) {
    const {scene} = this;
    const wanted = item.id === scene.selected || item.id === scene.hovered || (scene.focused && item.id === scene.active) ||
      (scene.matches?.has(item.id) && scene.matches.size <= 40);
    const room = item.id === PROXY ? Infinity : scene.layout.room(item.node.depth) * this.k;
    const least = scene.layout.shape === 'rings' && item.node.shown.length > 0 ? 24 : 11.5;
    if (!wanted && (room < least || this.labels.length >= MAX_LABELS)) return;
    if (wanted) this.labels.unshift(item);
    else this.labels.push(item);
  }

  #paintLabels() {
    for (const item of this.labels) this.#paintLabel(item);
  }

  #textOf(item) {
    if (item.id === PROXY) return 'proxy';
    const name = item.id.length > 26 ? `${item.id.slice(0, 25)}…` : item.id;
    return item.node.hidden > 0 ? `${name}  +${item.node.hidden}` : name;
  }

  #paintLabel(item) {
    const {context, scene} = this;
    const text = this.#textOf(item);
    const strong = item.id === PROXY || item.id === scene.selected || item.node.hidden > 0;
    context.font = `${strong ? 600 : 450} 11.5px ${this.colours.font}`;
    const width = this.#width(text, strong);
    const leaf = item.node.shown.length === 0 && item.id !== PROXY;
    const outward = leaf && scene.layout.shape === 'rings';
    const gap = item.radius + 6;
    let box;
    if (outward) {
      const dx = Math.sin(item.nowU);
      const dy = -Math.cos(item.nowU);
      box = {x: item.x + dx * gap + (dx < 0 ? -width : 0), y: item.y + dy * gap - 6, w: width, h: 12};
    } else if (leaf) {
      box = {x: item.x + gap, y: item.y - 6, w: width, h: 12};
    } else {
      box = {x: item.x - width / 2, y: item.y - gap - 9, w: width, h: 12};
    }
    if (!this.#take(box) && item.id !== scene.hovered && item.id !== scene.selected) return;
    context.globalAlpha = this.#faded(item) ? 0.35 : 1;
    context.save();
    context.translate(item.x, item.y);
    if (outward) {
      const flipped = Math.sin(item.nowU) < 0;
      context.rotate(item.nowU - Math.PI / 2 + (flipped ? Math.PI : 0));
      this.#write(text, flipped ? -gap : gap, 0.5, flipped ? 'right' : 'left');
    } else if (leaf) {
      this.#write(text, gap, 0.5, 'left');
    } else {
      this.#write(text, 0, -gap - 3, 'center');
    }
    context.restore();
    context.globalAlpha = 1;
  }

  #write(text, x, y, align) {
    const {context} = this;
    context.textAlign = align;
    context.textBaseline = 'middle';
    context.lineJoin = 'round';
    context.lineWidth = 3.5;
    context.strokeStyle = this.colours.surface;
    context.strokeText(text, x, y);
    context.fillStyle = this.colours.ink;
    context.fillText(text, x, y);
  }

  #width(text, strong) {
    const key = strong ? `*${text}` : text;
    let width = this.widths.get(key);
    if (width === undefined) {
      if (this.widths.size > 20000) this.widths.clear();
      width = this.context.measureText(text).width;
      this.widths.set(key, width);
    }
    return width;
  }

  // False when another label is there. Squares of 6 pixels are near enough.
  #take({x, y, w, h}) {
    const cells = [];
    for (let column = Math.floor(x / 6); column <= Math.floor((x + w) / 6); ++column) {
      for (let row = Math.floor(y / 6); row <= Math.floor((y + h - 1) / 6); ++row) cells.push(column * 100003 + row);
    }
    if (cells.some((cell) => this.taken.has(cell))) return false;
    for (const cell of cells) this.taken.add(cell);
    return true;
  }
}

/** "12 MB/s: 10 MB/s demand, 2 MB/s fill" */
export function loadText(load) {
  if (load.total === 0) return 'no bytes now';
  const parts = ['demand', 'prefetch', 'fill'].filter((name) => load[name] > 0).map((name) => `${rate(load[name])} ${name}`);
  return parts.length === 1 ? parts[0] : `${rate(load.total)}: ${parts.join(', ')}`;
}
