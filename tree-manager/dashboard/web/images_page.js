// The images that nodes run: their size, what they share with others, who holds how much of them, their profile.

import {conversionProgress, conversionState, sharedPart} from './conversions_page.js';
import {el, meter, setText} from './dom.js';
import {bytes, count, digest, imageName, percent, pulledAs} from './format.js';
import {LongTable} from './table.js';
import {stateChip} from './trees_page.js';

const STEPS = 10;

export class ImagesPage {
  constructor(live, preheat) {
    this.live = live;
    this.selected = '';
    this.table = new LongTable({label: 'Images', keyOf: (info) => info.function, columns: columns((info) => this.#conversionOf(info)), sort: 'nodes', descending: true,
      onRow: (info) => { location.hash = `#/images/${encodeURIComponent(info.function)}`; }});
    this.holders = new LongTable({label: 'Nodes that run the image', keyOf: (node) => node.node, sort: 'held', descending: true, columns: [
      {key: 'node', title: 'Node', value: (node) => node.node},
      {key: 'zone', title: 'Zone', value: (node) => node.zone, cell: (node) => node.zone || '–'},
      {key: 'state', title: 'State', value: (node) => node.state, cell: (node) => stateChip(node)},
      {key: 'start', title: 'Start', value: (node) => String(node.ready), cell: (node) => (node.ready ? 'over' : 'in progress')},
      {key: 'held', title: 'Holds', numeric: true, value: (node) => node.presentPermille,
        cell: (node) => meter(node.presentPermille / 1000, percent(node.presentPermille))},
    ]});
    this.title = el('h2');
    this.link = el('a', {class: 'button'}, 'Its trees');
    this.preheat = el('button', {type: 'button', onclick: () => preheat.open(pulledAs(this.live.functions.get(this.selected)))}, 'Preheat…');
    this.facts = el('dl', {class: 'facts'});
    this.spread = el('ol', {class: 'spread', 'aria-label': 'Nodes by how much they hold'});
    this.one = el('section', {class: 'one', hidden: true}, el('div', {class: 'page-head'}, this.title, el('div', {class: 'spring'}), this.preheat, this.link),
      this.facts, el('h3', {}, 'Nodes by how much of it they hold'), this.spread, el('h3', {}, 'Where it is'), this.holders.element);
    this.element = el('div', {class: 'page images'}, el('div', {class: 'page-head'}, el('h1', {}, 'Images'), el('div', {class: 'spring'}),
      el('button', {type: 'button', onclick: () => preheat.open('')}, 'Preheat another…')),
      el('div', {class: 'two'}, this.table.element, this.one));
  }

  open(name) {
    this.selected = name;
    this.live.want({function: name, conversions: true});
    this.#show();
  }

  update(kind) {
    if (kind === 'functions' || kind === 'tree' || kind === 'conversions') this.#show();
  }

  // What a proxy says of the image; of several the one that got farthest.
  #conversionOf(info) {
    const order = ['failed', 'queued', 'running', 'present', 'done'];
    let best;
    for (const one of this.live.conversions.values()) {
      if (one.digest === info.function && (!best || order.indexOf(one.state) > order.indexOf(best.state))) best = one;
    }
    return best;
  }

  #show() {
    this.table.setRows(this.live.functions.values());
    this.table.select(this.selected);
    const info = this.live.functions.get(this.selected);
    const {tree} = this.live;
    const here = info && tree && tree.name === this.selected;
    this.one.hidden = !here;
    if (!here) return;
    const members = [...tree.members.values()];
    setText(this.title, imageName(info));
    this.link.href = `#/trees/${encodeURIComponent(info.function)}`;
    const fact = (name, value, title) => el('div', {title}, el('dt', {}, name), el('dd', {}, value));
    const conversion = this.#conversionOf(info);
    this.facts.replaceChildren(fact('Size', info.blobBytes ? bytes(info.blobBytes) : '–', 'In chunks, as nodes fetch it'),
      ...conversionFacts(conversion, fact),
      fact('Profile', info.profileChunks ? `${count(info.profileChunks)} chunks` : 'none yet', 'What starts of it touch first'),
      fact('Height', count(info.height)), fact('Function', digest(info.function), info.function));
    this.#showSpread(members);
    this.holders.setRows(members);
  }

  #showSpread(members) {
    const bins = new Array(STEPS + 1).fill(0);
    for (const member of members) ++bins[Math.min(Math.floor(member.presentPermille / (1000 / STEPS)), STEPS)];
    const most = Math.max(...bins, 1);
    this.spread.replaceChildren(...bins.map((size, step) => {
      const from = step * (100 / STEPS);
      const name = step === STEPS ? 'all' : `${from} %`;
      return el('li', {title: `${name}: ${count(size)} nodes`}, el('span', {class: 'figure'}, size > 0 ? count(size) : ''),
        el('span', {class: 'column', 'aria-hidden': 'true', style: {height: `${(size / most) * 64}px`}}), el('span', {class: 'name'}, name));
    }));
  }
}

// None of an image that no proxy has been asked for since it began: it may have been converted before, or elsewhere.
function conversionFacts(one, fact) {
  if (!one) return [fact('Conversion', 'no proxy tells', 'Not asked for since the proxy began, or converted elsewhere')];
  return [fact('Conversion', one.state === 'running' ? conversionProgress(one) : conversionState(one), one.message || null),
    one.bytes > 0 && fact('Before', bytes(one.bytes), 'Compressed layers of the image'),
    one.layers > 0 && fact('Layers', count(one.layers)),
    one.chunks > 0 && fact('Chunks', count(one.chunks)),
    one.chunks > 0 && fact('Shared', `${bytes(one.sharedBytes)}, ${percent(sharedPart(one) * 1000)}`, 'In an earlier layer, or in an image converted before')].filter(Boolean);
}

function columns(conversionOf) {
  return [
    {key: 'image', title: 'Image', value: (info) => imageName(info)},
    {key: 'size', title: 'Size', hint: 'In chunks, as nodes fetch it', numeric: true, value: (info) => info.blobBytes,
      cell: (info) => (info.blobBytes ? bytes(info.blobBytes) : '–')},
    {key: 'shared', title: 'Shared', hint: 'Of it, in an image converted before', numeric: true, value: (info) => sharedPart(conversionOf(info) ?? {}),
      cell: (info) => { const one = conversionOf(info); return one?.chunks > 0 ? percent(sharedPart(one) * 1000) : '–'; }},
    {key: 'nodes', title: 'Nodes', numeric: true, value: (info) => info.nodes, cell: (info) => count(info.nodes)},
    {key: 'complete', title: 'Complete', hint: 'Nodes that hold all of it', numeric: true, value: (info) => info.completeNodes / Math.max(info.nodes, 1),
      cell: (info) => meter(info.completeNodes / Math.max(info.nodes, 1), count(info.completeNodes))},
    {key: 'starting', title: 'Starting', numeric: true, value: (info) => info.startingNodes, cell: (info) => count(info.startingNodes)},
    {key: 'profile', title: 'Profile', hint: 'Chunks that starts touch first', numeric: true, value: (info) => info.profileChunks,
      cell: (info) => count(info.profileChunks)},
    {key: 'moves', title: 'Moves', hint: 'Nodes that were given another parent', numeric: true, value: (info) => info.reparentings,
      cell: (info) => count(info.reparentings)},
  ];
}
