// A function's trees as the manager tells them, made into what is drawn: one rooted tree a stripe, the proxy on top.
//
// Pure: no page in sight. The manager's changes come in batches, and between two of them a node may name a parent that is
// gone, or two nodes each other: whatever cannot be reached from the proxy is hung below it, so that nobody is ever hidden.

export const PROXY = '';
export const CLASSES = ['demand', 'prefetch', 'fill'];

const COLLATOR = new Intl.Collator('en', {numeric: true});

/** What a node of the drawing is about. `member`: of the manager's answer, null for the proxy. */
export class TreeNode {
  constructor(id, member) {
    this.id = id;
    this.member = member;
    this.parent = null;
    this.children = [];   // all of them
    this.depth = 0;
    this.size = 1;        // nodes in its subtree, itself included
    this.collapsed = false;
  }
  get shown() { return this.collapsed ? [] : this.children; }
  get hidden() { return this.collapsed ? this.size - 1 : 0; }
}

/** The order in which siblings stand: by zone, then by name as people count. Ranks are kept, since names are many. */
export class NameOrder {
  #ranks = new Map();

  update(members) {
    let known = members.size === this.#ranks.size;
    if (known) for (const name of members.keys()) if (!this.#ranks.has(name)) { known = false; break; }
    if (known) return;
    const names = [...members.values()].sort((a, b) => COLLATOR.compare(a.zone, b.zone) || COLLATOR.compare(a.node, b.node));
    this.#ranks = new Map(names.map((member, index) => [member.node, index]));
  }
  compare(a, b) { return (this.#ranks.get(a.id) ?? 0) - (this.#ranks.get(b.id) ?? 0); }
}

/** The tree of one stripe. `collapsed`: names whose subtrees are folded. Returns {root, nodes: Map(name → TreeNode)}. */
export function buildTree(members, stripe, collapsed, order) {
  const root = new TreeNode(PROXY, null);
  const nodes = new Map([[PROXY, root]]);
  for (const [name, member] of members) nodes.set(name, new TreeNode(name, member));
  for (const [name, member] of members) {
    const node = nodes.get(name);
    const parent = nodes.get(member.parents[stripe] ?? PROXY) ?? root;
    node.parent = parent;
    parent.children.push(node);
  }
  // Down from the proxy; what is not met is part of a ring, or hangs on one.
  const walk = (start) => {
    const met = [start];
    for (let i = 0; i < met.length; ++i) {
      met[i].children = met[i].children.filter((child) => !reached.has(child.id));
      for (const child of met[i].children) {
        reached.add(child.id);
        child.depth = met[i].depth + 1;
        met.push(child);
      }
    }
    return met;
  };
  const reached = new Set([PROXY]);
  let inOrder = walk(root);
  for (const node of nodes.values()) {
    if (reached.has(node.id)) continue;
    node.parent.children = node.parent.children.filter((child) => child !== node);
    node.parent = root;
    node.depth = 1;
    root.children.push(node);
    reached.add(node.id);
    inOrder = inOrder.concat(walk(node));
  }
  for (let i = inOrder.length - 1; i > 0; --i) {
    const node = inOrder[i];
    node.parent.size += node.size;
    node.collapsed = node.children.length > 0 && collapsed.has(node.id);
    if (node.children.length > 1) node.children.sort((a, b) => order.compare(a, b));
  }
  root.children.sort((a, b) => order.compare(a, b));
  return {root, nodes};
}

/** Nodes that are drawn, parents first. */
export function shownNodes(root) {
  const nodes = [root];
  for (let i = 0; i < nodes.length; ++i) nodes.push(...nodes[i].shown);
  return nodes;
}

/** From the node up to the proxy. */
export function pathOf(node) {
  const path = [];
  for (let at = node; at; at = at.parent) path.push(at);
  return path;
}

/** Bytes per second by class that came over the drawn edge into a node: from its parent, or, below the proxy, from there. */
export function edgeLoad(member, stripe) {
  const load = {demand: 0, prefetch: 0, fill: 0, total: 0};
  const from = member.parents[stripe] ? 'parent' : 'origin';
  for (const feed of member.feeds ?? []) {
    if (feed.stripe !== stripe || feed.from !== from) continue;
    for (const name of CLASSES) {
      load[name] += feed[name];
      load.total += feed[name];
    }
  }
  return load;
}

export function mainClass(load) {
  if (load.total === 0) return null;
  return CLASSES.reduce((best, name) => (load[name] > load[best] ? name : best), CLASSES[0]);
}

/** All that came into a node, by where from and class. */
export function incoming(member) {
  const sums = new Map();
  for (const feed of member.feeds ?? []) {
    const sum = sums.get(feed.from) ?? {demand: 0, prefetch: 0, fill: 0, total: 0};
    for (const name of CLASSES) {
      sum[name] += feed[name];
      sum.total += feed[name];
    }
    sums.set(feed.from, sum);
  }
  return sums;
}

export function zonesOf(members) {
  const zones = new Map();
  for (const member of members.values()) zones.set(member.zone, (zones.get(member.zone) ?? 0) + 1);
  return [...zones.entries()].sort((a, b) => COLLATOR.compare(a[0], b[0])).map(([name, size]) => ({name, size}));
}

/** What to fold at first, so that about `most` nodes are drawn: everything below the deepest level that fits. */
export function foldToFit(tree, most) {
  const levels = [];
  for (const node of tree.nodes.values()) levels[node.depth] = (levels[node.depth] ?? 0) + 1;
  let shown = 0;
  let depth = 0;
  while (depth < levels.length && shown + levels[depth] <= most) shown += levels[depth++];
  const fold = new Set();
  if (depth >= levels.length) return fold;
  for (const node of tree.nodes.values()) {
    if (node.depth === Math.max(depth - 1, 1) && node.children.length > 0) fold.add(node.id);
  }
  return fold;
}
