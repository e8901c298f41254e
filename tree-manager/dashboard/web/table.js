// A sortable table of any length: only the rows in sight are in the page. Screen readers are told how many there are and
// which ones these are.

import {el, replaceKeepingFocus} from './dom.js';

const ROW_HEIGHT = 36;  // as in app.css
const MARGIN = 10;      // rows beyond those in sight

export class LongTable {
  /**
   * `columns`: {key, title, value(row) (what is sorted by), cell(row) (text or element; the value if missing), numeric}.
   * `keyOf(row)`: unique. `onRow(row)`: may be missing.
   */
  constructor({label, columns, keyOf, sort, descending = false, onRow}) {
    Object.assign(this, {columns, keyOf, onRow, sort: sort ?? columns[0].key, descending, rows: [], selected: null});
    this.heads = new Map(columns.map((column) => [column.key, this.#head(column)]));
    this.body = el('tbody');
    this.table = el('table', {}, el('caption', {class: 'hidden'}, label),
      el('thead', {}, el('tr', {'aria-rowindex': '1'}, [...this.heads.values()])), this.body);
    this.element = el('div', {class: 'long-table', tabindex: '0', role: 'region', 'aria-label': label}, this.table);
    this.element.addEventListener('scroll', () => this.#render(), {passive: true});
    new ResizeObserver(() => this.#render()).observe(this.element);
  }

  setRows(rows) {
    this.rows = [...rows];
    this.#order();
  }

  select(key) {
    this.selected = key;
    this.#render();
  }

  #head(column) {
    return el('th', {scope: 'col', class: column.numeric ? 'numeric' : ''},
      el('button', {type: 'button', title: column.hint, onclick: () => this.#sortBy(column)}, column.title));
  }

  #sortBy(column) {
    this.descending = this.sort === column.key ? !this.descending : Boolean(column.numeric);
    this.sort = column.key;
    this.#order();
  }

  #order() {
    const column = this.columns.find(({key}) => key === this.sort);
    const sign = this.descending ? -1 : 1;
    const collator = new Intl.Collator('en', {numeric: true});
    const compare = column.numeric ? (a, b) => a - b : (a, b) => collator.compare(a, b);
    const keyed = this.rows.map((row) => [column.value(row), row]);
    keyed.sort((a, b) => sign * compare(a[0], b[0]) || collator.compare(this.keyOf(a[1]), this.keyOf(b[1])));
    this.rows = keyed.map(([, row]) => row);
    for (const [key, head] of this.heads) {
      head.setAttribute('aria-sort', key !== this.sort ? 'none' : this.descending ? 'descending' : 'ascending');
    }
    this.#render();
  }

  #render() {
    const height = this.element.clientHeight || 600;
    const first = Math.max(0, Math.floor(this.element.scrollTop / ROW_HEIGHT) - MARGIN);
    const last = Math.min(this.rows.length, Math.ceil((this.element.scrollTop + height) / ROW_HEIGHT) + MARGIN);
    this.table.setAttribute('aria-rowcount', String(this.rows.length + 1));
    const spacer = (rows) => rows > 0 && el('tr', {class: 'spacer', 'aria-hidden': 'true'},
      el('td', {colspan: this.columns.length, style: {height: `${rows * ROW_HEIGHT}px`}}));
    replaceKeepingFocus(this.body, spacer(first),
      this.rows.slice(first, last).map((row, index) => this.#row(row, first + index)), spacer(this.rows.length - last));
  }

  #row(row, index) {
    const key = this.keyOf(row);
    return el('tr', {'aria-rowindex': index + 2, class: key === this.selected ? 'selected' : '', 'data-row': key},
      this.columns.map((column, at) => {
        const content = column.cell ? column.cell(row) : column.value(row);
        const shown = at === 0 && this.onRow
          ? el('button', {type: 'button', class: 'link', 'data-key': key, onclick: () => this.onRow(row)}, content) : content;
        return at === 0 ? el('th', {scope: 'row'}, shown) : el('td', {class: column.numeric ? 'numeric' : ''}, shown);
      }));
  }
}
