// The form that has nodes bring an image before anyone starts it, and how far they are. It can be closed meanwhile: a
// button in the frame says how it goes.

import {announce, el, meter, setText} from './dom.js';
import {bytes, count} from './format.js';
import {ask} from './live.js';
import {Preheating, partOf} from './preheating.js';
import {LongTable} from './table.js';

const SPEAK_EVERY = 10_000;
const MOST_ERRORS = 5;
const KINDS = {running: 'running', done: 'good', failed: 'bad'};
const RANKS = {failed: '0', running: '1', waiting: '2', done: '3'};

export class PreheatDialog {
  #preheating = new Preheating();
  #sending = false;
  #seen = true;  // how it ended, if it has
  #spokenAt = 0;
  #here = [];    // the nodes that could be told

  constructor() {
    this.reference = el('input', {type: 'text', id: 'preheat-reference', required: true, maxlength: '4096', autocomplete: 'off', autocapitalize: 'none',
      spellcheck: 'false', placeholder: 'registry.example/app:1'});
    this.zone = el('select', {id: 'preheat-zone', onchange: () => this.#showReach()}, el('option', {value: ''}, 'All zones'));
    this.most = el('input', {type: 'number', id: 'preheat-most', min: '1', max: '4294967295', step: '1', placeholder: 'all', oninput: () => this.#showReach()});
    this.token = el('input', {type: 'password', id: 'preheat-token', required: true, autocomplete: 'off', spellcheck: 'false', 'aria-describedby': 'preheat-token-hint preheat-message',
      oninput: () => this.token.removeAttribute('aria-invalid')});
    this.plain = el('input', {type: 'checkbox', id: 'preheat-plain'});
    this.reach = el('span', {class: 'quiet', id: 'preheat-reach'});
    this.message = el('p', {class: 'message', id: 'preheat-message', role: 'status', 'aria-live': 'polite'});
    this.spoken = el('div', {class: 'hidden', 'aria-live': 'polite', id: 'preheat-spoken'});
    this.button = el('button', {type: 'button', class: 'chip accent', id: 'preheating', hidden: true, onclick: () => this.open()});
    this.element = el('dialog', {class: 'preheat', 'aria-labelledby': 'preheat-title', onclose: () => this.#closed()},
      el('div', {class: 'page-head'}, el('h2', {id: 'preheat-title'}, 'Preheat an image'), el('div', {class: 'spring'}),
        el('button', {type: 'button', class: 'quiet', 'aria-label': 'Close', onclick: () => this.element.close()}, '×')),
      el('p', {class: 'quiet'}, 'Nodes bring it now, before anyone starts it.'), this.#form(), this.message, this.spoken, this.#outcome());
    this.#preheating.addEventListener('change', () => this.#changed());
  }

  /** Whether the manager takes preheatings at all. */
  allow(allowed) {
    this.readOnly.hidden = allowed;
    this.submit.disabled = !allowed;
    if (allowed) this.element.removeAttribute('aria-describedby');
    else this.element.setAttribute('aria-describedby', 'preheat-read-only');
  }

  /** `reference`: what is to be in the field; missing: what is there. */
  open(reference) {
    if (reference !== undefined) this.reference.value = reference;
    if (!this.element.open) this.element.showModal();
    (this.reference.value ? this.token : this.reference).focus();
    this.#seen = true;
    this.#showButton();
    this.#look();
  }

  #form() {
    this.readOnly = el('p', {id: 'preheat-read-only', class: 'warn', hidden: true},
      'This page can only read: the manager has no token. It takes preheatings once token_file in its configuration names the file of the cluster’s token.');
    this.submit = el('button', {type: 'submit', class: 'primary', 'aria-describedby': 'preheat-reach'}, 'Preheat');
    const field = (input, name) => el('div', {class: 'field'}, el('label', {for: input.id}, name), input);
    return el('form', {autocomplete: 'off', onsubmit: (event) => { event.preventDefault(); this.#send(); }},
      field(this.reference, 'Image'), el('div', {class: 'fields'}, field(this.zone, 'Zone'), field(this.most, 'At most so many nodes'), field(this.token, 'Token of the cluster')),
      this.readOnly, el('p', {class: 'quiet', id: 'preheat-token-hint'}, 'The token is kept by this open page alone.',
        !isSecureContext && el('strong', {class: 'warn'}, ' This page came over plain HTTP: what it sends can be read on the way.')),
      el('div', {class: 'page-head'}, el('label', {class: 'check'}, this.plain, 'Its registry has no TLS'), el('div', {class: 'spring'}), this.reach, this.submit));
  }

  #outcome() {
    this.title = el('h3');
    this.trouble = el('p', {class: 'message', role: 'status', 'aria-live': 'polite'});
    this.summary = el('p');
    this.bar = el('div', {role: 'progressbar', 'aria-label': 'Of all nodes', 'aria-valuemin': '0', 'aria-valuemax': '100'});
    this.errors = el('ul', {class: 'errors', 'aria-label': 'Why nodes could not bring it'});
    this.table = new LongTable({label: 'Nodes that were told', keyOf: (node) => node.node, columns: columns(), sort: 'state'});
    this.outcome = el('section', {hidden: true, 'aria-label': 'How far it is'}, this.title, this.summary, this.bar, this.trouble, this.errors, this.table.element);
    return this.outcome;
  }

  // Zones, and how many nodes there are.
  async #look() {
    try {
      const {nodes} = await ask('nodes');
      this.#here = nodes.filter(({state}) => state === 'live' || state === 'draining');
    } catch {
      this.#here = [];
    }
    const zones = [...new Set(this.#here.map(({zone}) => zone).filter(Boolean))].sort(new Intl.Collator('en', {numeric: true}).compare);
    const chosen = this.zone.value;
    if (zones.join('\n') !== [...this.zone.options].slice(1).map(({value}) => value).join('\n')) {
      this.zone.replaceChildren(el('option', {value: ''}, 'All zones'), ...zones.map((zone) => el('option', {value: zone}, zone)));
      this.zone.value = zones.includes(chosen) ? chosen : '';
    }
    this.#showReach();
  }

  #showReach() {
    const fitting = this.#here.filter(({zone}) => !this.zone.value || zone === this.zone.value).length;
    const told = this.most.valueAsNumber >= 1 ? Math.min(this.most.valueAsNumber, fitting) : fitting;
    setText(this.reach, told > 0 ? `${nodesOf(told)} will be told` : '');
  }

  async #send() {
    if (this.#sending) return;
    const token = this.token.value.trim();
    if (/[^\x21-\x7e]/.test(token)) return this.#refuseToken('No token has such characters.');
    const request = {reference: this.reference.value.trim(), 'plain_http': this.plain.checked};
    if (this.zone.value) request.zone = this.zone.value;
    if (this.most.value) request.count = this.most.valueAsNumber;
    this.#sending = true;
    this.#say('');
    try {
      await this.#preheating.begin(request, token);
      this.token.removeAttribute('aria-invalid');
    } catch (refusal) {
      if (refusal.status === 401) this.#refuseToken(whyNotBegun(refusal));
      else this.#say(whyNotBegun(refusal));
    } finally {
      this.#sending = false;
    }
  }

  #refuseToken(why) {
    this.#say(why);
    this.token.setAttribute('aria-invalid', 'true');
    this.token.focus();
    this.token.select();
  }

  #say(problem) { setText(this.message, problem); }

  #changed() {
    const {progress, refusal, reference, told} = this.#preheating;
    const {done, failed, part} = this.#preheating.totals();
    this.#seen = this.element.open;
    setText(this.trouble, refusal ? whyUnknown(refusal) : '');
    this.outcome.hidden = false;
    setText(this.title, reference);
    const text = progress ? summaryOf(progress.nodes.length, done, failed) : `${nodesOf(told)} ${told === 1 ? 'is' : 'are'} told`;
    setText(this.summary, progress ? `${text}${progress.ended ? ', after' : ', for'} ${count(Math.ceil(progress.milliseconds / 1000))} s` : text);
    const value = Math.floor(part * 100);
    this.bar.setAttribute('aria-valuenow', String(value));
    this.bar.replaceChildren(meter(part, `${value} %`));
    this.#showErrors(progress?.nodes ?? []);
    this.table.setRows(progress?.nodes ?? []);
    this.#showButton();
    this.#speak(refusal && !this.element.open ? whyUnknown(refusal) : text, !progress || this.#preheating.over);
  }

  // Screen readers are told the beginning, the end, and now and then what is between.
  #speak(text, now) {
    if (!now && performance.now() - this.#spokenAt < SPEAK_EVERY) return;
    this.#spokenAt = performance.now();
    if (this.element.open) setText(this.spoken, text);
    else announce(`Preheating: ${text}`);
  }

  #showErrors(nodes) {
    const byError = Map.groupBy(nodes.filter(({state, error}) => state === 'failed' && error), ({error}) => error);
    const lines = [...byError].map(([error, those]) => `${those.length === 1 ? those[0].node : nodesOf(those.length)}: ${error}`);
    if (lines.length > MOST_ERRORS) lines.splice(MOST_ERRORS, lines.length, `${count(lines.length - MOST_ERRORS)} more errors are in the table`);
    if (lines.join('\n') === this.shownErrors) return;
    this.shownErrors = lines.join('\n');
    this.errors.replaceChildren(...lines.map((line) => el('li', {class: 'message'}, line)));
  }

  // While the form is closed: how it goes, until the end has been looked at.
  #showButton() {
    const {told, progress} = this.#preheating;
    const {done, failed} = this.#preheating.totals();
    this.button.hidden = told === 0 || this.element.open || (this.#seen && this.#preheating.over);
    setText(this.button, `Preheating: ${count(done)} of ${count(progress?.nodes.length ?? told)}${failed > 0 ? `, ${count(failed)} failed` : ''}`);
  }

  #closed() {
    this.#seen = true;
    this.#showButton();
  }
}

function nodesOf(number) { return `${count(number)} ${number === 1 ? 'node' : 'nodes'}`; }

function summaryOf(all, done, failed) {
  return `${count(done)} of ${nodesOf(all)} ${done === 1 ? 'has' : 'have'} the image${failed > 0 ? `, ${count(failed)} failed` : ''}`;
}

function whyNotBegun({status, said}) {
  const because = said ? `: ${said}` : ` (HTTP ${status})`;
  switch (status) {
    case 0: return 'The manager cannot be reached, or broke off: whether nodes were told is not known.';
    case 400: return `The manager does not take this${because}`;
    case 401: return `The manager refuses the token${because}`;
    case 403: return `The manager takes no preheating${because}`;
    case 404: case 405: return `Nothing takes preheatings at this address${because}`;
    case 409: return `No node was told${because}`;
    case 503: return `The manager takes no more for now${because}`;
    default: return status < 400 ? 'Something else than the manager has answered: log in again where you did, then reload this page.' : `Nodes were not told${because}`;
  }
}

function whyUnknown(refusal) {
  const {status, said} = refusal;
  if (status === 404) return 'The manager knows this preheating no more: it was restarted, or has had many since. The nodes go on.';
  if (!refusal.passes) return `The manager tells no more of this preheating${said ? `: ${said}` : ` (HTTP ${status})`}. The nodes go on.`;
  return 'No word from the manager. The nodes go on; it is asked again every second.';
}

function columns() {
  return [
    {key: 'node', title: 'Node', value: (node) => node.node},
    {key: 'state', title: 'State', value: (node) => RANKS[node.state] ?? '4',
      cell: (node) => el('span', {class: `state ${node.away ? 'away' : KINDS[node.state] ?? ''}`}, node.state, node.away ? ', away' : '')},
    {key: 'part', title: 'Has', hint: 'Of the image, compressed', numeric: true, value: partOf,
      cell: (node) => (node.total_bytes > 0 ? meter(partOf(node), `${bytes(node.present_bytes)} of ${bytes(node.total_bytes)}`) : '–')},
    {key: 'error', title: 'Error', value: (node) => node.error, cell: (node) => (node.error ? el('span', {title: node.error}, node.error) : '–')},
  ];
}
