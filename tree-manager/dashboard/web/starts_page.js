// The latest cold starts: when and how long, and each one's waterfall.

import {el, replaceKeepingFocus, setText, svg} from './dom.js';
import {bytes, clock, count, imageName, micros} from './format.js';

const SHOWN = 60;        // waterfalls at once
const PLOT = {height: 168, left: 74, right: 22, top: 18, bottom: 30};

const endOf = (start) => Math.max(0, ...start.stages.map((stage) => stage.endMicros));
const keyOf = (start) => `${start.beganUnixMicros} ${start.node} ${start.function}`;

export class StartsPage {
  constructor(live) {
    this.live = live;
    this.filter = el('input', {type: 'search', id: 'search', placeholder: 'Filter by image or node', maxlength: '255',
      autocomplete: 'off', 'aria-label': 'Filter starts', oninput: () => this.#show()});
    this.found = el('span', {class: 'found', role: 'status'});
    this.plot = svg('svg', {class: 'plot', height: PLOT.height, role: 'img', 'aria-label': 'Starts by when they began and how long they took; the list below has the same'});
    this.list = el('ol', {class: 'starts-list', 'aria-label': 'Starts, the newest first'});
    this.empty = el('div', {class: 'empty'}, el('h2', {}, 'No cold start was reported yet'),
      el('p', {}, 'Agents report the stages of each start as they happen; a manager that begins anew knows of none before.'));
    this.legend = el('ul', {class: 'stages-legend', 'aria-label': 'Stages'});
    this.element = el('div', {class: 'page starts'}, el('div', {class: 'page-head'}, el('h1', {}, 'Starts'), this.legend, el('div', {class: 'spring'}),
      el('div', {class: 'searching'}, this.filter, this.found)), this.plot, this.list, this.empty);
    this.stages = [];
    new ResizeObserver(() => this.#show()).observe(this.plot);
  }

  open() {
    this.live.want({starts: true});
    this.#show();
  }

  update(kind) {
    if (kind === 'starts' || kind === 'functions') this.#show();
  }

  #show() {
    const text = this.filter.value.trim().toLowerCase();
    const all = [...this.live.starts.values()].sort((a, b) => b.beganUnixMicros - a.beganUnixMicros);
    const starts = text ? all.filter((start) => start.node.toLowerCase().includes(text) || imageName(start).toLowerCase().includes(text)) : all;
    this.empty.hidden = all.length > 0;
    this.plot.toggleAttribute('hidden', all.length === 0);
    setText(this.found, text ? `${count(starts.length)} of ${count(all.length)}` : all.length > 0 ? `${count(all.length)} starts` : '');
    this.#showLegend(all);
    this.#showPlot(starts);
    const longest = Math.max(1, ...starts.slice(0, SHOWN).map(endOf));
    replaceKeepingFocus(this.list, starts.slice(0, SHOWN).map((start) => this.#waterfall(start, longest)),
      starts.length > SHOWN && el('li', {class: 'quiet more'}, `${count(starts.length - SHOWN)} earlier ones are in the picture above; filter to see them here.`));
  }

  #showLegend(starts) {
    const names = [];
    for (const start of starts) for (const stage of start.stages) if (!names.includes(stage.stage) && names.length < 10) names.push(stage.stage);
    if (names.join() === this.stages.join()) return;
    this.stages = names;
    this.legend.replaceChildren(...names.map((name, index) => el('li', {}, el('span', {class: `mark stage-${index % 8}`, 'aria-hidden': 'true'}), name)));
  }

  #showPlot(starts) {
    if (starts.length === 0) return this.plot.replaceChildren();
    const width = this.plot.clientWidth || 1000;
    const newest = starts[0].beganUnixMicros;
    const oldest = starts[starts.length - 1].beganUnixMicros;
    const span = Math.max(newest - oldest, 60_000_000);
    const longest = Math.max(...starts.map(endOf), 100_000);
    const x = (start) => PLOT.left + ((start.beganUnixMicros - (newest - span)) / span) * (width - PLOT.left - PLOT.right);
    const y = (value) => PLOT.height - PLOT.bottom - (value / longest) * (PLOT.height - PLOT.top - PLOT.bottom);
    const line = (part) => [svg('line', {class: 'grid', x1: PLOT.left, x2: width - PLOT.right, y1: y(longest * part), y2: y(longest * part)}),
      svg('text', {class: 'tick', x: PLOT.left - 8, y: y(longest * part) + 4, 'text-anchor': 'end'}, part === 0 ? '0' : micros(longest * part))];
    const when = (part, anchor) => svg('text', {class: 'tick', x: PLOT.left + part * (width - PLOT.left - PLOT.right), y: PLOT.height - 6,
      'text-anchor': anchor}, clock(newest - span + span * part));
    return this.plot.replaceChildren(...[0, 0.5, 1].flatMap(line), when(0, 'start'), when(0.5, 'middle'), when(1, 'end'),
      ...starts.map((start) => svg('circle', {class: start.quiet ? 'dot' : 'dot running', cx: x(start).toFixed(1), cy: y(endOf(start)).toFixed(1), r: 4},
        svg('title', {}, `${imageName(start)} on ${start.node}: ${micros(endOf(start))}`))));
  }

  #waterfall(start, longest) {
    const total = endOf(start);
    const bars = start.stages.map((stage) => {
      const index = this.stages.indexOf(stage.stage);
      const text = `${stage.stage}: ${micros(stage.endMicros - stage.beginMicros)}, from ${micros(stage.beginMicros)} on`;
      return el('span', {class: `bar stage-${Math.max(index, 0) % 8}`, title: text,
        style: {left: `${(stage.beginMicros / longest) * 100}%`, width: `max(3px, ${((stage.endMicros - stage.beginMicros) / longest) * 100}%)`}});
    });
    const sources = start.sources.filter((source) => source.chunks > 0)
      .map((source) => `${source.source} ${bytes(source.compressedBytes)}`).join(' · ');
    const open = this.opened === keyOf(start);
    return el('li', {class: 'start'},
      el('button', {type: 'button', class: 'start-head', 'data-key': keyOf(start), 'aria-expanded': String(open),
        onclick: () => { this.opened = open ? null : keyOf(start); this.#show(); }},
      el('span', {class: 'when'}, clock(start.beganUnixMicros)), el('span', {class: 'what'}, imageName(start)), el('span', {class: 'where'}, start.node),
      el('span', {class: 'waterfall', 'aria-hidden': 'true'}, bars),
      el('span', {class: 'total'}, micros(total), !start.quiet && el('span', {class: 'running'}, ' …'))),
      open && el('div', {class: 'start-more'},
        el('table', {class: 'plain-table'}, el('caption', {class: 'hidden'}, 'Stages'),
          el('thead', {}, el('tr', {}, ['Stage', 'From', 'To', 'Took'].map((title) => el('th', {scope: 'col'}, title)))),
          el('tbody', {}, start.stages.map((stage) => el('tr', {}, el('th', {scope: 'row'}, stage.stage), el('td', {}, micros(stage.beginMicros)),
            el('td', {}, micros(stage.endMicros)), el('td', {}, micros(stage.endMicros - stage.beginMicros)))))),
        el('p', {class: 'quiet'}, sources ? `Bytes: ${sources}` : 'Nothing was read', start.quiet ? '' : ' · still reading for the first time')));
  }
}
