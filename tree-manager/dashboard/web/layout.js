// Where nodes stand. Two shapes: 'rows' (the proxy on the left, bytes flow to the right, each leaf has a row of its own for its
// name) and 'rings' (the proxy in the middle, a ring a level), which shows thousands at a glance.
//
// A node gets (u, v): row and column, or angle and radius; `place` makes x and y of them. Both are in pixels at zoom 1.

const {hierarchy, tree: tidyTree} = window.d3;

const LETTER = 6.7;      // pixels of a name's letter, about
const LEAF_ROOM = {min: 70, max: 190};   // for names, right of the last column
const ROW = {min: 17, max: 68};
const COLUMN = {min: 86, max: 210};
const RING_MIN = 46;
const ARC_MIN = 7;       // between neighbours of the fullest ring

/**
 * `size`: {width, height} that there is. Returns {shape, nodes: Map(id → {u, v}), zones: […], extent, height, room(depth):
 * pixels that a node of that level has}. */
export function layOut(root, shape, size) {
  const top = hierarchy(root, (node) => (node.shown.length ? node.shown : null));
  return shape === 'rings' ? rings(top, size) : rows(top, size);
}

export function place(shape, u, v) {
  return shape === 'rings' ? {x: v * Math.sin(u), y: -v * Math.cos(u)} : {x: v, y: u};
}

function separation(a, b) {
  if (a.data.member.zone !== b.data.member.zone) return 2;
  return a.parent === b.parent ? 1 : 1.25;
}

function rows(top, size) {
  let leaves = 0;
  let longest = 0;
  top.eachBefore((node) => {
    if (node.children) return;
    ++leaves;
    longest = Math.max(longest, node.data.id.length + (node.data.hidden > 0 ? 6 : 0));
  });
  const clamp = (value, {min, max}) => Math.min(Math.max(value, min), max);
  const row = clamp((size.height - 70) / Math.max(leaves, 2), ROW);
  const leafRoom = clamp(longest * LETTER + 30, LEAF_ROOM);
  const column = clamp((size.width - leafRoom - 60) / Math.max(top.height, 1), COLUMN);
  tidyTree().nodeSize([row, column]).separation(separation)(top);
  const nodes = new Map();
  let first = Infinity;
  let last = -Infinity;
  top.each((node) => {
    nodes.set(node.data.id, {u: node.x, v: node.y});
    first = Math.min(first, node.x);
    last = Math.max(last, node.x);
  });
  const right = top.height * column + leafRoom;
  const extent = {left: -34, right: right + 14, top: first - row * 0.85 - 8, bottom: last + row * 0.7 + 8};
  const zones = apart(zoneBands(top, (from, to) => ({from: from - row * 0.85, to: to + row * 0.7})));
  return {shape: 'rows', nodes, extent, column, right, height: top.height, room: () => row, zones};
}

function rings(top, size) {
  const levels = [];
  top.each((node) => { levels[node.depth] = (levels[node.depth] ?? 0) + 1; });
  let ring = Math.max(RING_MIN, (Math.min(size.width, size.height) / 2 - 40) / Math.max(top.height, 1));
  ring = Math.min(ring, 150);
  levels.forEach((count, depth) => {
    if (depth > 0) ring = Math.max(ring, (count * ARC_MIN) / (2 * Math.PI * depth));
  });
  const radius = ring * Math.max(top.height, 1);
  const zoned = (a, b) => separation(a, b) / Math.max(a.depth, 1);
  tidyTree().size([2 * Math.PI, radius]).separation(zoned)(top);
  const nodes = new Map();
  top.each((node) => nodes.set(node.data.id, {u: node.x, v: node.y}));
  const edge = radius + 36;
  const extent = {left: -edge, right: edge, top: -edge, bottom: edge};
  const room = arcs(top).map((arc, depth) => Math.min(ring * 0.55, arc * depth * ring || Infinity));
  return {shape: 'rings', nodes, extent, ring, radius, height: top.height, room: (depth) => room[depth] ?? ring * 0.1, zones: zoneBands(top, (from, to) => ({from, to}))};
}

// The angle between neighbours of each level, of those that stand closer than most.
function arcs(top) {
  const angles = [];
  top.each((node) => { (angles[node.depth] ??= []).push(node.x); });
  return angles.map((list) => {
    list.sort((a, b) => a - b);
    const steps = list.map((angle, index) => (index === 0 ? angle + 2 * Math.PI - list[list.length - 1] : angle - list[index - 1]));
    steps.sort((a, b) => a - b);
    return steps[Math.floor(steps.length / 8)];
  });
}

// Bands that would touch end a little earlier.
function apart(zones) {
  const gap = 4;
  zones.sort((a, b) => a.from - b.from);
  for (let i = 1; i < zones.length; ++i) {
    const excess = zones[i - 1].to + gap - zones[i].from;
    if (excess <= 0) continue;
    zones[i - 1].to -= excess / 2;
    zones[i].from += excess / 2;
  }
  return zones;
}

// The rows or angles of each zone's subtrees; nothing for a cluster of one zone.
function zoneBands(top, widen) {
  const bands = new Map();
  for (const child of top.children ?? []) {
    const band = bands.get(child.data.member.zone) ?? {from: Infinity, to: -Infinity};
    child.each((node) => {
      band.from = Math.min(band.from, node.x);
      band.to = Math.max(band.to, node.x);
    });
    bands.set(child.data.member.zone, band);
  }
  if (bands.size < 2) return [];
  return [...bands.entries()].map(([name, {from, to}]) => ({name, ...widen(from, to)}));
}
