// All nodes of the cluster: how they are, what they send and store, which version they run.

import {el, meter, setText} from './dom.js';
import {bytes, count, rate, since} from './format.js';
import {LongTable} from './table.js';
import {stateChip} from './trees_page.js';

export class FleetPage {
  constructor(live) {
    this.live = live;
    this.tiles = el('div', {class: 'tiles'});
    this.filter = el('input', {type: 'search', id: 'search', placeholder: 'Filter by name, zone, state or version', maxlength: '255', autocomplete: 'off',
      'aria-label': 'Filter nodes', oninput: () => this.#show()});
    this.found = el('span', {class: 'found', role: 'status'});
    this.table = new LongTable({label: 'Nodes', keyOf: (node) => node.node, columns: columns()});
    this.element = el('div', {class: 'page fleet'}, el('div', {class: 'page-head'}, el('h1', {}, 'Fleet'), el('div', {class: 'spring'}),
      el('div', {class: 'searching'}, this.filter, this.found)), this.tiles, this.table.element);
  }

  open() {
    this.live.want({nodes: true});
    this.#show();
  }

  update(kind) {
    if (kind === 'nodes') this.#show();
  }

  #show() {
    const nodes = [...this.live.nodes.values()];
    this.tiles.replaceChildren(...tiles(nodes));
    const text = this.filter.value.trim().toLowerCase();
    const shown = text ? nodes.filter((node) => [node.node, node.zone, node.state, node.version, node.address]
      .some((value) => value.toLowerCase().includes(text))) : nodes;
    setText(this.found, text ? `${count(shown.length)} of ${count(nodes.length)}` : '');
    this.table.setRows(shown);
  }
}

function tiles(nodes) {
  const sum = (name) => nodes.reduce((total, node) => total + node[name], 0);
  const states = {};
  const versions = new Map();
  for (const node of nodes) {
    states[node.state] = (states[node.state] ?? 0) + 1;
    versions.set(node.version || 'unknown', (versions.get(node.version || 'unknown') ?? 0) + 1);
  }
  const budget = sum('storeBudgetBytes');
  const store = sum('storeBytes');
  const trouble = ['suspect', 'away', 'draining'].filter((state) => states[state]).map((state) => `${count(states[state])} ${state}`);
  const newest = [...versions.entries()].sort((a, b) => b[1] - a[1]);
  const zones = new Set(nodes.map((node) => node.zone)).size;
  const tile = (title, value, more) => el('div', {class: 'tile'}, el('h2', {}, title), el('p', {class: 'value'}, value), el('p', {class: 'more'}, more));
  return [
    tile('Nodes', count(nodes.length), trouble.length > 0 ? trouble.join(', ') : zones > 1 ? `all live, in ${zones} zones` : 'all live'),
    tile('Sent to peers', rate(sum('uplinkBytesPerSecond')), 'by all nodes together'),
    tile('Received', rate(sum('downlinkBytesPerSecond')), 'from peers, proxy and registry'),
    tile('Stores', bytes(store), budget > 0 ? meter(store / budget, `of ${bytes(budget)}`) : 'no budget told'),
    tile('Versions', newest.length === 0 ? '–' : newest[0][0], 
      newest.length > 1 ? newest.slice(0, 3).map(([name, size]) => `${name}: ${count(size)}`).join(', ') : 'everywhere'),
  ];
}

function columns() {
  return [
    {key: 'node', title: 'Node', value: (node) => node.node},
    {key: 'zone', title: 'Zone', value: (node) => node.zone, cell: (node) => node.zone || '–'},
    {key: 'state', title: 'State', value: (node) => node.state, cell: (node) => stateChip(node)},
    {key: 'address', title: 'Address', value: (node) => node.address, cell: (node) => address(node)},
    {key: 'version', title: 'Agent', value: (node) => node.version, cell: (node) => node.version || '–'},
    {key: 'functions', title: 'Functions', numeric: true, value: (node) => node.functions},
    {key: 'up', title: 'Sends', numeric: true, value: (node) => node.uplinkBytesPerSecond, cell: (node) => quiet(node.uplinkBytesPerSecond)},
    {key: 'down', title: 'Receives', numeric: true, value: (node) => node.downlinkBytesPerSecond, cell: (node) => quiet(node.downlinkBytesPerSecond)},
    {key: 'store', title: 'Store', numeric: true, value: (node) => node.storeBytes, cell: (node) => store(node)},
    {key: 'beat', title: 'Beat', hint: 'Since its last heartbeat', numeric: true, value: (node) => node.sinceBeatMillis,
      cell: (node) => since(node.sinceBeatMillis)},
    {key: 'reports', title: 'Reports', hint: 'Complaints of other nodes in the last ten minutes', numeric: true, value: (node) => node.reports},
  ];
}

function quiet(value) { return value > 0 ? rate(value) : '–'; }

function address(node) {
  if (!node.port) return '–';
  return node.address.includes(':') ? `[${node.address}]:${node.port}` : `${node.address}:${node.port}`;
}

function store(node) {
  if (!node.storeBytes) return '–';
  if (!node.storeBudgetBytes) return bytes(node.storeBytes);
  const part = node.storeBytes / node.storeBudgetBytes;
  return meter(part, bytes(node.storeBytes), part > 0.95 ? 'warn' : '');
}
