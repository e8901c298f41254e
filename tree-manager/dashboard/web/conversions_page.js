// What the registry proxies convert: how far, how large, how much of it other images have already.

import {el, meter, setText} from './dom.js';
import {bytes, clock, conversionName, conversionReference, count, digest, micros, percent} from './format.js';
import {LongTable} from './table.js';

const STATES = {running: ['running', 'running'], queued: ['waiting', ''], done: ['done', 'good'], present: ['in the registry', 'good'],
  failed: ['failed', 'bad'], unknown: ['unknown', 'away']};
const RANKS = {running: 2e18, queued: 1e18};

export const keyOfConversion = (one) => `${one.proxy}\n${one.registry}\n${one.repository}\n${one.digest}`;

export function sharedPart(one) { return one.blobBytes > 0 ? one.sharedBytes / one.blobBytes : 0; }

export function conversionState(one) {
  const [text, kind] = STATES[one.state] ?? STATES.unknown;
  return el('span', {class: `state ${kind}`}, text, one.state === 'queued' && one.message ? ', again' : '');
}

/** How much of it is read, as a bar. */
export function conversionProgress(one) {
  const part = one.bytes > 0 ? Math.min(one.bytesDone / one.bytes, 1) : 0;
  const value = Math.floor(part * 100);
  return el('span', {role: 'progressbar', 'aria-valuemin': 0, 'aria-valuemax': 100, 'aria-valuenow': value, 'aria-label': `Conversion of ${conversionName(one)}`},
    meter(part, `${value} %`));
}

function took(one) {
  if (!one.beganUnixMicros) return 0;
  return Math.max((one.endedUnixMicros || Date.now() * 1000) - one.beganUnixMicros, 0);
}

function when(one) {
  if (one.state === 'running') return 'now';
  if (one.state === 'done' && !one.endedUnixMicros) return 'earlier';
  return one.state === 'queued' || !one.endedUnixMicros ? '–' : clock(one.endedUnixMicros);
}

export class ConversionsPage {
  constructor(live, preheat) {
    this.live = live;
    this.selected = '';
    this.summary = el('span', {class: 'summary quiet', role: 'status'});
    this.found = el('span', {class: 'found', role: 'status'});
    this.filter = el('input', {type: 'search', id: 'search', placeholder: 'Filter by image or state', maxlength: '255', autocomplete: 'off',
      'aria-label': 'Filter conversions', oninput: () => this.#show()});
    this.proxies = el('ul', {class: 'proxies', 'aria-label': 'Registry proxies'});
    this.table = new LongTable({label: 'Conversions', keyOf: keyOfConversion, columns: columns(), sort: 'ended', descending: true,
      onRow: (one) => { location.hash = `#/conversions/${encodeURIComponent(keyOfConversion(one))}`; }});
    this.title = el('h2');
    this.link = el('a', {class: 'button'}, 'Its nodes');
    this.preheat = el('button', {type: 'button', onclick: () => preheat.open(conversionReference(this.live.conversions.get(this.selected)))}, 'Preheat…');
    this.facts = el('dl', {class: 'facts'});
    this.message = el('p', {class: 'message'});
    this.one = el('section', {class: 'one', hidden: true, 'aria-label': 'One conversion'},
      el('div', {class: 'page-head'}, this.title, el('div', {class: 'spring'}), this.preheat, this.link), this.facts, this.message);
    this.empty = el('div', {class: 'empty'}, el('h2', {}), el('p', {}));
    this.two = el('div', {class: 'two'}, this.table.element, this.one);
    this.element = el('div', {class: 'page conversions'}, el('div', {class: 'page-head'}, el('h1', {}, 'Conversions'), this.summary, el('div', {class: 'spring'}), this.proxies,
      el('div', {class: 'searching'}, this.filter, this.found)), this.two, this.empty);
  }

  open(key) {
    this.selected = key;
    this.live.want({conversions: true});
    this.#show();
  }

  update(kind) {
    if (kind === 'conversions' || kind === 'functions') this.#show();
  }

  #show() {
    const all = [...this.live.conversions.values()];
    const text = this.filter.value.trim().toLowerCase();
    const rows = text ? all.filter((one) => conversionName(one).toLowerCase().includes(text) || one.state.includes(text)) : all;
    this.#showProxies();
    this.#showEmpty(all.length);
    setText(this.found, text ? `${count(rows.length)} of ${count(all.length)}` : '');
    setText(this.summary, summaryOf(all));
    this.table.setRows(rows);
    this.table.select(this.selected);
    this.#showOne(this.live.conversions.get(this.selected));
  }

  #showProxies() {
    const text = JSON.stringify(this.live.proxies);
    if (text === this.shownProxies) return;
    this.shownProxies = text;
    this.proxies.replaceChildren(...this.live.proxies.map((proxy) => el('li', {class: `chip ${proxy.state === 'down' ? 'warn' : ''}`, title: proxy.error || null},
      proxy.state === 'down' ? `${proxy.proxy} does not answer: ${proxy.error}` : `${proxy.proxy} ${proxy.state === 'up' ? 'answers' : 'is asked'}`,
      proxy.leftOut > 0 && `, ${count(proxy.leftOut)} more not shown`)));
  }

  #showEmpty(known) {
    const [head, body] = this.empty.children;
    this.two.hidden = known === 0;
    this.empty.hidden = known > 0;
    if (known > 0) return;
    if (this.live.proxies.length === 0) {
      setText(head, 'No registry proxy is named');
      setText(body, 'The manager’s configuration names the proxies whose conversions are shown: proxies = ["proxy.example:5051"], where status = "0.0.0.0:5051" is in theirs.');
    } else {
      const answering = this.live.proxies.some((proxy) => proxy.state === 'up');
      setText(head, answering ? 'Nothing has been converted since the proxy began' : 'No proxy has answered');
      setText(body, answering ? 'An image that is pulled through the proxy and has no lazy form yet appears here.' : 'They are asked once a second while this page is open.');
    }
  }

  #showOne(one) {
    this.one.hidden = !one;
    if (!one) return;
    setText(this.title, conversionName(one));
    this.link.hidden = !this.live.functions.has(one.digest);
    this.link.href = `#/images/${encodeURIComponent(one.digest)}`;
    const fact = (name, value, title) => el('div', {title}, el('dt', {}, name), el('dd', {}, value));
    const done = one.state === 'done' || one.state === 'running';
    this.facts.replaceChildren(fact('State', conversionState(one)),
      fact('Layers', one.layers > 0 ? `${count(one.layersDone)} of ${count(one.layers)}` : '–', 'Done, of all'),
      fact('Reused', count(one.layersReused), 'Layers that an earlier conversion has made'),
      fact('Before', one.bytes ? bytes(one.bytes) : '–', 'Compressed layers of the image'),
      fact('After', done ? bytes(one.blobBytes) : '–', 'The same in chunks, as nodes fetch it'),
      fact('Chunks', done ? count(one.chunks) : '–'),
      fact('Shared', done ? `${bytes(one.sharedBytes)}, ${count(one.sharedChunks)} chunks` : '–', 'In an earlier layer, or in an image converted before'),
      fact('Took', one.beganUnixMicros ? micros(took(one)) : '–'), fact('Asked for', count(one.asks), 'Times since the proxy knows it'),
      fact('Image', digest(one.digest), one.digest), one.artifact && fact('Artifact', digest(one.artifact), one.artifact), fact('Proxy', one.proxy));
    this.message.hidden = !one.message;
    setText(this.message, one.message);
  }
}

function summaryOf(all) {
  const of = (state) => all.filter((one) => one.state === state).length;
  return [[of('running'), 'running'], [of('queued'), 'waiting'], [of('failed'), 'failed']].filter(([number]) => number > 0)
    .map(([number, name]) => `${count(number)} ${name}`).join(', ');
}

function columns() {
  return [
    {key: 'image', title: 'Image', value: conversionName},
    {key: 'state', title: 'State', value: (one) => one.state, cell: conversionState},
    {key: 'progress', title: 'Progress', hint: 'Of its compressed layers, read', numeric: true, value: (one) => (one.bytes ? one.bytesDone / one.bytes : 0),
      cell: (one) => (one.state === 'running' ? conversionProgress(one) : one.state === 'done' ? '100 %' : '–')},
    {key: 'layers', title: 'Layers', hint: 'Done, of all', numeric: true, value: (one) => one.layers, cell: (one) => (one.layers ? `${count(one.layersDone)}/${count(one.layers)}` : '–')},
    {key: 'size', title: 'Before', hint: 'Compressed layers of the image', numeric: true, value: (one) => one.bytes, cell: (one) => (one.bytes ? bytes(one.bytes) : '–')},
    {key: 'stored', title: 'After', hint: 'The same in chunks, as nodes fetch it', numeric: true, value: (one) => one.blobBytes,
      cell: (one) => (one.chunks ? bytes(one.blobBytes) : '–')},
    {key: 'shared', title: 'Shared', hint: 'Of it, in an earlier layer or in an image converted before', numeric: true, value: sharedPart,
      cell: (one) => (one.chunks ? percent(sharedPart(one) * 1000) : '–')},
    {key: 'took', title: 'Took', numeric: true, value: took, cell: (one) => (one.beganUnixMicros ? micros(took(one)) : '–')},
    {key: 'asks', title: 'Asked', hint: 'Times since the proxy knows it', numeric: true, value: (one) => one.asks, cell: (one) => count(one.asks)},
    {key: 'ended', title: 'Ended', numeric: true, value: (one) => RANKS[one.state] ?? one.endedUnixMicros, cell: when},
  ];
}
