// The trees of one function, live: both stripes side by side, or as a table; search, folding, and what is known of one node.

import {announce, chip, el, meter, replaceKeepingFocus, segmented, setText} from './dom.js';
import {TreeDrawing} from './drawing.js';
import {NameOrder, buildTree, edgeLoad, foldToFit, incoming, pathOf, zonesOf} from './forest.js';
import {bytes, count, imageName, percent, rate, since} from './format.js';
import {ask} from './live.js';
import {loadText} from './painter.js';
import {ZONE_COLOURS} from './palette.js';
import {LongTable} from './table.js';

const RINGS_FROM = 72;      // nodes: more than a screen has rows for
const ROWS_MOST = 76;       // drawn as rows before subtrees are folded
const RINGS_MOST = 12_000;
const DETAILS_MILLIS = 2000;

export class TreesPage {
  constructor(live) {
    this.live = live;
    this.order = new NameOrder();
    this.wanted = '';
    this.stripes = 'both';
    this.view = null;       // chosen by the user
    this.trees = [];
    this.drawings = [];
    this.folded = [new Set(), new Set()];
    this.foldedFor = null;  // the function and view that `folded` was made for
    this.selected = null;
    this.hovered = null;
    this.query = '';
    this.matches = null;
    this.#build();
    this.timer = setInterval(() => this.#askDetails(), DETAILS_MILLIS);
    this.keys = (event) => this.#shortcut(event);
    addEventListener('keydown', this.keys);
  }

  destroy() {
    clearInterval(this.timer);
    removeEventListener('keydown', this.keys);
    for (const drawing of this.drawings) drawing.destroy();
  }

  /** `name`: of a function; empty: the one that most nodes run. */
  open(name) {
    this.asked = name;
    this.#follow();
  }

  update(kind) {
    if (kind === 'functions') this.#follow();
    if (kind === 'tree') this.#show();
  }

  // ---- The page ----

  #build() {
    this.picker = el('select', {id: 'function', onchange: () => { location.hash = `#/trees/${encodeURIComponent(this.picker.value)}`; }});
    this.facts = el('dl', {class: 'facts'});
    this.search = el('input', {type: 'search', id: 'search', placeholder: 'Search a node', maxlength: '255', autocomplete: 'off',
      'aria-label': 'Search a node by name or zone', oninput: () => this.#search(), onkeydown: (event) => this.#searchKey(event)});
    this.found = el('span', {class: 'found', role: 'status'});
    this.viewControl = segmented('View', [['rows', 'Rows'], ['rings', 'Rings'], ['table', 'Table']], 'rows', (view) => {
      this.view = view;
      this.#show();
    });
    this.stripeControl = segmented('Stripes', [['both', 'Both'], ['0', 'Stripe 1'], ['1', 'Stripe 2']], 'both', (which) => {
      this.stripes = which;
      this.#show();
    });
    const button = (text, label, act) => el('button', {type: 'button', title: label, 'aria-label': label, onclick: act}, text);
    this.viewButtons = el('div', {class: 'buttons', role: 'group', 'aria-label': 'Drawing'},
      button('−', 'Zoom out', () => this.#each((drawing) => drawing.zoomBy(1 / 1.35))),
      button('+', 'Zoom in', () => this.#each((drawing) => drawing.zoomBy(1.35))),
      button('Fit', 'Show the whole tree', () => this.#each((drawing) => drawing.fit(true))),
      button('Fold', 'Fold all but the first levels', () => this.#fold(24)),
      button('Unfold', 'Show every node', () => this.#fold(Infinity)));
    this.stage = el('div', {class: 'stage'});
    this.details = el('aside', {class: 'details', 'aria-label': 'Node', hidden: true});
    this.legend = el('div', {class: 'legend', 'aria-label': 'Legend'});
    this.empty = el('div', {class: 'empty', hidden: true}, el('h1', {}, 'No node runs a function yet'),
      el('p', {}, 'A tree grows here as soon as a node mounts an image:'), el('pre', {}, 'banyan run docker://registry.example/app:1 -- app'));
    this.tip = el('div', {class: 'tip', hidden: true, 'aria-hidden': 'true'});
    this.toolbar = el('div', {class: 'toolbar'},
      el('div', {class: 'what'}, el('label', {class: 'field', for: 'function'}, el('span', {class: 'hidden'}, 'Function'), this.picker), this.facts),
      el('div', {class: 'how'}, this.viewControl.element, this.stripeControl.element, el('div', {class: 'spring'}),
        el('div', {class: 'searching'}, this.search, this.found), this.viewButtons));
    this.element = el('div', {class: 'page trees'}, el('h1', {class: 'hidden'}, 'Trees'), this.toolbar,
      el('div', {class: 'work'}, this.stage, this.details), this.legend, this.empty, this.tip);
    this.table = new LongTable({label: 'Nodes of the function', keyOf: (row) => row.node, columns: this.#columns(),
      onRow: (row) => this.#select(row.node)});
  }

  #columns() {
    const childrenOf = (row, stripe) => this.trees[stripe]?.nodes.get(row.node)?.children.length ?? 0;
    const stripe = (index) => [
      {key: `parent${index}`, title: `Parent ${index + 1}`, hint: `Who feeds it in stripe ${index + 1}`,
        value: (row) => row.parents[index] ?? '', cell: (row) => row.parents[index] || 'proxy'},
      {key: `depth${index}`, title: `Depth ${index + 1}`, hint: `Steps from the proxy in stripe ${index + 1}`, numeric: true,
        value: (row) => row.depths[index] ?? 0},
      {key: `children${index}`, title: `Feeds ${index + 1}`, hint: `Nodes that it feeds in stripe ${index + 1}`, numeric: true,
        value: (row) => childrenOf(row, index)},
    ];
    const total = (row) => [...incoming(row).values()].reduce((sum, load) => sum + load.total, 0);
    return [
      {key: 'node', title: 'Node', value: (row) => row.node},
      {key: 'zone', title: 'Zone', value: (row) => row.zone, cell: (row) => row.zone || '–'},
      {key: 'state', title: 'State', value: (row) => row.state, cell: (row) => stateChip(row)},
      {key: 'held', title: 'Holds', numeric: true, value: (row) => row.presentPermille,
        cell: (row) => meter(row.presentPermille / 1000, percent(row.presentPermille))},
      ...stripe(0), ...stripe(1),
      {key: 'in', title: 'In', hint: 'Bytes per second that it receives', numeric: true, value: total,
        cell: (row) => (total(row) > 0 ? rate(total(row)) : '–')},
    ];
  }

  // ---- Which function ----

  #follow() {
    const {functions} = this.live;
    let name = this.asked;
    if (!name) {
      const usual = functions.get(this.wanted) ??
        [...functions.values()].sort((a, b) => b.nodes - a.nodes || (a.function < b.function ? -1 : 1))[0];
      name = usual?.function ?? '';
    }
    if (name !== this.wanted) {
      this.wanted = name;
      this.foldedFor = null;
      this.#select(null);
    }
    this.live.want({function: this.wanted});
    this.#fillPicker();
    this.#show();
  }

  #fillPicker() {
    const infos = [...this.live.functions.values()].sort((a, b) => imageName(a).localeCompare(imageName(b)));
    if (this.wanted && !this.live.functions.has(this.wanted)) infos.push({function: this.wanted, reference: '', nodes: 0});
    const texts = infos.map((info) => `${imageName(info)} — ${count(info.nodes)} ${info.nodes === 1 ? 'node' : 'nodes'}`);
    const signature = JSON.stringify([infos.map((info) => info.function), texts]);
    if (signature !== this.pickerSignature && document.activeElement !== this.picker) {
      this.pickerSignature = signature;
      this.picker.replaceChildren(...infos.map((info, index) => el('option', {value: info.function}, texts[index])));
    }
    this.picker.value = this.wanted;
    this.picker.disabled = infos.length === 0;
  }

  // ---- Showing ----

  #show() {
    const {tree} = this.live;
    const known = this.live.functions.size > 0 || this.wanted !== '';
    const here = tree !== null && tree.name === this.wanted && tree.members.size > 0;
    this.empty.hidden = here || this.live.status !== 'live' || (known && tree === null);
    this.element.classList.toggle('nothing', !here);
    if (!here) return;
    const {members, info} = tree;
    this.stripeCount = info.stripes;
    this.order.update(members);
    const view = this.view ?? (members.size > RINGS_FROM ? 'rings' : 'rows');
    this.viewControl.set(view);
    this.stripeControl.element.hidden = info.stripes < 2 || view === 'table';
    this.viewButtons.hidden = view === 'table';
    this.#chooseFolds(members, view);
    this.trees = [];
    for (let stripe = 0; stripe < info.stripes; ++stripe) {
      this.trees.push(buildTree(members, stripe, this.folded[stripe], this.order));
    }
    this.#showFacts(info, members);
    this.#showZones(members);
    if (view === 'table') this.#showTable(members);
    else this.#showDrawings(view);
    this.#showDetails();
    this.#refreshSearch();
    this.#mark();
  }

  #chooseFolds(members, view) {
    const purpose = `${this.wanted} ${view}`;
    if (this.foldedFor === purpose || view === 'table') return;
    this.foldedFor = purpose;
    for (let stripe = 0; stripe < 2; ++stripe) {
      const tree = buildTree(members, stripe, new Set(), this.order);
      this.folded[stripe] = foldToFit(tree, view === 'rows' ? ROWS_MOST : RINGS_MOST);
    }
  }

  #showTable(members) {
    this.#drop();
    if (!this.table.element.isConnected) this.stage.replaceChildren(this.table.element);
    this.table.setRows(members.values());
  }

  #drop() {
    for (const drawing of this.drawings) drawing.destroy();
    this.drawings = [];
    this.sections = [];
    this.drawn = '';
  }

  #showDrawings(view) {
    const which = this.stripes === 'both' ? this.trees.map((_, index) => index) : [Math.min(Number(this.stripes), this.trees.length - 1)];
    const purpose = which.join();
    if (this.drawn !== purpose) {
      this.#drop();
      this.drawn = purpose;
      for (const stripe of which) this.#addDrawing(stripe);
      this.stage.replaceChildren(...this.sections.map((section) => section.element));
    }
    const fresh = this.shownAs !== `${this.wanted} ${view} ${purpose}`;
    this.shownAs = `${this.wanted} ${view} ${purpose}`;
    this.drawings.forEach((drawing, index) => {
      const tree = this.trees[drawing.stripe];
      drawing.show(tree, view, (zone) => this.zoneColours.get(zone) ?? 0, fresh);
      setText(this.sections[index].facts, this.#stripeFacts(tree));
    });
  }

  #addDrawing(stripe) {
    const title = this.trees.length > 1 ? `Stripe ${stripe + 1}` : 'The tree';
    const drawing = new TreeDrawing(`${title}: the tree of nodes; arrow keys move, Enter shows a node, Space folds`, stripe, {
      select: (id) => this.#select(id),
      hover: (id, x, y) => this.#hover(id, stripe, x, y),
      fold: (id) => this.#toggleFold(stripe, id),
    });
    const facts = el('span', {class: 'stripe-facts'});
    const element = el('section', {class: 'stripe'}, el('h2', {}, title, facts), drawing.element);
    this.drawings.push(drawing);
    this.sections.push({element, facts});
  }

  #stripeFacts(tree) {
    let feeding = 0;
    let height = 0;
    for (const node of tree.nodes.values()) {
      if (node.member && node.children.length > 0) ++feeding;
      height = Math.max(height, node.depth);
    }
    const roots = tree.root.children.length;
    return `${count(roots)} fed by the proxy · ${count(feeding)} feed others · height ${height}`;
  }

  #showFacts(info, members) {
    let complete = 0;
    let starting = 0;
    let incomingTotal = 0;
    let fromProxy = 0;
    for (const member of members.values()) {
      complete += member.presentPermille >= 1000 ? 1 : 0;
      starting += member.ready ? 0 : 1;
      for (const [from, load] of incoming(member)) {
        incomingTotal += load.total;
        if (from === 'origin') fromProxy += load.total;
      }
    }
    const fact = (name, value, title) => el('div', {title}, el('dt', {}, name), el('dd', {}, value));
    this.facts.replaceChildren(
      fact('Nodes', count(members.size)),
      fact('Complete', count(complete), 'Nodes that hold all of it'),
      fact('Starting', count(starting), 'Nodes whose start is in progress'),
      fact('Received', rate(incomingTotal), 'By all nodes together'),
      fact('From proxy', rate(fromProxy), 'What the proxy and the registry send of it'),
      fact('Moves', count(info.reparentings), 'Nodes that were given another parent, since the manager began'));
  }

  #showZones(members) {
    const zones = zonesOf(members);
    const signature = JSON.stringify(zones.map((zone) => zone.name));
    this.zoneColours = new Map(zones.map((zone, index) => [zone.name, index % ZONE_COLOURS]));
    if (signature === this.zoneSignature) return;
    this.zoneSignature = signature;
    const item = (mark, text) => el('li', {}, mark, text);
    const dot = (kind) => el('span', {class: `mark ${kind}`, 'aria-hidden': 'true'});
    const group = (title, ...items) => el('div', {}, el('h3', {}, title), el('ul', {}, items));
    this.legend.replaceChildren(
      zones.length > 1 && group('Zone', zones.slice(0, 12).map((zone, index) => item(dot(`zone zone-${index % ZONE_COLOURS}`), zone.name || 'none')),
        zones.length > 12 && item(null, `and ${zones.length - 12} more`)),
      group('Holds', item(dot('held none'), 'nothing'), item(dot('held half'), 'a part'), item(dot('held all'), 'all')),
      group('Node', item(dot('starting'), 'starting'), item(dot('suspect'), 'suspect'), item(dot('draining'), 'draining'), item(dot('away'), 'away')),
      group('Bytes', item(dot('line demand'), 'demand'), item(dot('line prefetch'), 'prefetch'), item(dot('line fill'), 'fill'),
        item(dot('line thick'), 'wider: ×10'),
        item(dot('line moved'), 'new parent')));
    for (const child of [...this.legend.childNodes]) if (child.nodeType !== Node.ELEMENT_NODE) child.remove();
  }

  // ---- Folding ----

  #each(act) { for (const drawing of this.drawings) act(drawing); }

  #fold(most) {
    this.trees.forEach((tree, stripe) => {
      const whole = buildTree(this.live.tree.members, stripe, new Set(), this.order);
      this.folded[stripe] = most === Infinity ? new Set() : foldToFit(whole, most);
    });
    this.#each((drawing) => { drawing.userMoved = false; });
    this.#show();
  }

  #toggleFold(stripe, id) {
    const node = this.trees[stripe].nodes.get(id);
    if (!node || node.children.length === 0) return;
    const folded = this.folded[stripe];
    if (folded.has(id)) folded.delete(id);
    else folded.add(id);
    announce(folded.has(id) ? `${id}: ${node.size - 1} nodes folded` : `${id}: unfolded`);
    this.#show();
  }

  // Nothing above it is folded.
  #unfoldTo(id) {
    this.trees.forEach((tree, stripe) => {
      const node = tree.nodes.get(id);
      if (!node) return;
      for (const above of pathOf(node).slice(1)) this.folded[stripe].delete(above.id);
    });
  }

  // ---- One node ----

  #select(id) {
    if (this.selected === id) return;
    this.selected = id;
    this.info = null;
    this.detailsSignature = '';
    if (id) this.#askDetails();
    if (this.live.tree) this.#showDetails();
    this.#mark();
  }

  #goTo(id) {
    this.#unfoldTo(id);
    this.selected = null;
    this.#select(id);
    this.#show();
    this.#each((drawing) => drawing.goTo(id));
  }

  #hover(id, stripe, x, y) {
    const node = id ? this.trees[stripe]?.nodes.get(id) : null;
    this.tip.hidden = !node;
    if (node) {
      const {member} = node;
      this.tip.replaceChildren(
        el('strong', {}, member.node), el('span', {}, member.zone, member.zone && ' · ', member.state, ' · holds ', percent(member.presentPermille)),
        el('span', {}, node.children.length > 0 ? `feeds ${node.children.length}` : 'leaf', ' · depth ', String(node.depth)),
        el('span', {}, loadText(edgeLoad(member, stripe))));
      const {offsetWidth: width, offsetHeight: height} = this.tip;
      this.tip.style.left = `${Math.min(x + 14, innerWidth - width - 8)}px`;
      this.tip.style.top = `${Math.min(y + 14, innerHeight - height - 8)}px`;
    }
    if (this.hovered === id) return;
    this.hovered = id;
    this.#mark();
  }

  async #askDetails() {
    const id = this.selected;
    if (!id || document.hidden) return;
    try {
      const answer = await ask(`nodes?node=${encodeURIComponent(id)}`);
      if (this.selected !== id) return;
      this.info = answer.nodes[0] ?? null;
      this.#showDetails();
    } catch {
      // The stream's status tells of a manager that is away.
    }
  }

  #showDetails() {
    const member = this.selected ? this.live.tree?.members.get(this.selected) : null;
    this.details.hidden = !this.selected;
    if (!this.selected) return;
    const signature = JSON.stringify([member, this.info, this.trees.map((tree) => tree.nodes.get(this.selected)?.children.map((child) => child.id)),
      this.folded.map((folded) => folded.has(this.selected))]);
    if (signature === this.detailsSignature) return;
    this.detailsSignature = signature;
    const close = el('button', {type: 'button', class: 'quiet', 'data-key': 'close', 'aria-label': 'Close', onclick: () => this.#select(null)}, '×');
    if (!member) {
      replaceKeepingFocus(this.details, el('div', {class: 'details-head'}, el('h2', {}, this.selected), close),
        el('p', {class: 'quiet'}, 'It is not in the trees of this function any more.'));
      return;
    }
    replaceKeepingFocus(this.details, el('div', {class: 'details-head'}, el('h2', {}, member.node), close),
      el('p', {class: 'tags'}, stateChip(member),
        member.zone && el('span', {class: 'chip zone'}, el('span', {class: `mark zone-${this.zoneColours.get(member.zone)}`}), member.zone),
        !member.ready && chip('starting', 'accent')),
      el('h3', {}, 'Holds'), meter(member.presentPermille / 1000, percent(member.presentPermille)),
      el('h3', {}, 'Receives'), this.#receives(member),
      this.trees.map((tree, stripe) => this.#inStripe(tree, stripe)), this.#ofNode());
  }

  #receives(member) {
    const names = {parent: 'parents', spare: 'spare parents', origin: 'proxy'};
    const rows = [...incoming(member)].filter(([, load]) => load.total > 0);
    if (rows.length === 0) return el('p', {class: 'quiet'}, 'Nothing now');
    return el('ul', {class: 'loads'}, rows.map(([from, load]) => el('li', {}, el('span', {}, names[from] ?? from),
      el('span', {class: 'split', 'aria-hidden': 'true'}, ['demand', 'prefetch', 'fill'].map((name) => load[name] > 0 &&
        el('span', {class: name, style: {'flex-grow': String(load[name])}}))),
      el('span', {class: 'figure', title: loadText(load)}, rate(load.total)))));
  }

  #inStripe(tree, stripe) {
    const node = tree.nodes.get(this.selected);
    if (!node) return null;
    const link = (id, role) => el('button', {type: 'button', class: 'link', 'data-key': `${stripe} ${role} ${id}`, onclick: () => this.#goTo(id)}, id);
    const parent = node.parent.member ? link(node.parent.id, 'parent') : 'proxy';
    const children = node.children.slice(0, 12).map((child) => el('li', {}, link(child.id, 'child')));
    return [el('h3', {}, this.trees.length > 1 ? `Stripe ${stripe + 1}` : 'Tree'),
      el('dl', {class: 'pairs'},
        el('dt', {}, 'Role'), el('dd', {}, node.children.length > 0 ? `feeds ${node.children.length}, ${count(node.size - 1)} below it` : 'leaf'),
        el('dt', {}, 'Depth'), el('dd', {}, String(node.depth)),
        el('dt', {}, 'Parent'), el('dd', {}, parent),
        children.length > 0 && [el('dt', {}, 'Feeds'), el('dd', {}, el('ul', {class: 'plain'}, children,
          node.children.length > 12 && el('li', {}, `and ${node.children.length - 12} more`)))]),
      node.children.length > 0 && el('button', {type: 'button', class: 'wide', 'data-key': `fold ${stripe}`, onclick: () => this.#toggleFold(stripe, node.id)},
        node.collapsed ? `Unfold ${count(node.size - 1)} nodes` : 'Fold what is below it')];
  }

  #ofNode() {
    const {info} = this;
    if (!info) return null;
    const host = info.address.includes(':') ? `[${info.address}]` : info.address;
    const pair = (name, value) => [el('dt', {}, name), el('dd', {}, value)];
    return [el('h3', {}, 'Node'), el('dl', {class: 'pairs'},
      pair('Address', info.port ? `${host}:${info.port}` : 'serves nobody'), pair('Agent', info.version || '–'),
      pair('Sends', rate(info.uplinkBytesPerSecond)), pair('Receives', rate(info.downlinkBytesPerSecond)),
      info.storeBytes > 0 && pair('Store', info.storeBudgetBytes > 0 ? `${bytes(info.storeBytes)} of ${bytes(info.storeBudgetBytes)}` : bytes(info.storeBytes)),
      pair('Functions', count(info.functions)), pair('Last beat', `${since(info.sinceBeatMillis)} ago`),
      info.reports > 0 && pair('Complaints', `${info.reports} of other nodes${info.avoided ? ': a leaf for now' : ''}`))];
  }

  // ---- Search ----

  #search() {
    this.query = this.search.value.trim().toLowerCase();
    this.at = -1;
    this.#refreshSearch();
    this.#mark();
  }

  #refreshSearch() {
    if (!this.query) {
      this.matches = null;
      setText(this.found, '');
      return;
    }
    const members = this.live.tree?.members ?? new Map();
    this.matches = new Set([...members.values()].filter((member) => member.node.toLowerCase().includes(this.query) ||
      member.zone.toLowerCase() === this.query).map((member) => member.node));
    const exact = [...this.matches].filter((name) => name.toLowerCase() === this.query);
    if (exact.length > 0) this.matches = new Set([...exact, ...this.matches]);
    setText(this.found, this.matches.size === 0 ? 'none' : `${count(this.matches.size)} found`);
  }

  #searchKey(event) {
    if (event.key === 'Escape' && this.search.value === '') this.search.blur();
    if (event.key !== 'Enter' || !this.matches || this.matches.size === 0) return;
    event.preventDefault();
    this.at = ((this.at ?? -1) + 1) % this.matches.size;
    this.#goTo([...this.matches][this.at]);
    announce(`${this.selected}, ${this.at + 1} of ${this.matches.size}`);
  }

  #shortcut(event) {
    if (event.key !== '/' || event.ctrlKey || event.metaKey || event.target.matches?.('input, select, textarea')) return;
    event.preventDefault();
    this.search.focus();
    this.search.select();
  }

  #mark() {
    const focus = this.hovered ?? this.selected;
    this.drawings.forEach((drawing) => {
      const node = focus ? this.trees[drawing.stripe]?.nodes.get(focus) : null;
      const path = new Set(node ? pathOf(node).map((above) => above.id) : []);
      if (node && this.selected) for (const child of node.children) path.add(child.id);
      drawing.mark({selected: this.selected, hovered: this.hovered, path, dims: !this.hovered && Boolean(node), matches: this.matches});
    });
    this.table.select(this.selected);
  }
}

export function stateChip(row) {
  const kinds = {live: 'good', suspect: 'bad', draining: 'warn', away: 'away'};
  return el('span', {class: `state ${kinds[row.state] ?? ''}`}, row.state, row.avoided ? ', avoided' : '');
}
