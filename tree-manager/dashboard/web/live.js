// The cluster's state as the manager tells it: one server-sent event stream, made anew when it breaks or when a page wants
// other parts of the state. Fires 'functions', 'nodes', 'tree', 'starts',
// 'conversions' and 'status'.

const RETRY_MIN = 1000;
const RETRY_MAX = 15000;

export class Live extends EventTarget {
  functions = new Map();  // name → info
  nodes = new Map();      // name → info; only while somebody wants them
  starts = new Map();     // key → start; likewise
  conversions = new Map();  // proxy, registry, repository and digest → conversion; likewise
  proxies = [];           // {proxy, state, error, leftOut}; likewise
  tree = null;            // {info, members: Map(name → node)}; of the wanted function
  status = 'connecting';  // 'live', 'broken'

  #source = null;
  #wanted = '';
  #retry = RETRY_MIN;
  #timer = null;

  /** `wanted`: {function, nodes, starts, conversions}. A change makes a new stream. */
  want(wanted) {
    const query = new URLSearchParams();
    if (wanted.function) query.set('function', wanted.function);
    if (wanted.nodes) query.set('nodes', '1');
    if (wanted.starts) query.set('starts', '1');
    if (wanted.conversions) query.set('conversions', '1');
    const text = query.toString();
    if (text === this.#wanted && this.#source) return;
    if (this.tree && this.tree.name !== wanted.function) this.tree = null;
    this.#wanted = text;
    this.#open();
  }

  #open() {
    clearTimeout(this.#timer);
    this.#source?.close();
    const source = new EventSource(new URL(`api/v1/events?${this.#wanted}`, document.baseURI));
    this.#source = source;
    source.onopen = () => {
      this.#retry = RETRY_MIN;
      this.#setStatus('live');
    };
    source.onerror = () => {
      if (source !== this.#source) return;
      this.#setStatus('broken');
      source.close();
      this.#timer = setTimeout(() => this.#open(), this.#retry * (0.75 + Math.random() / 2));
      this.#retry = Math.min(this.#retry * 2, RETRY_MAX);
    };
    for (const kind of ['functions', 'nodes', 'tree', 'starts', 'conversions']) {
      source.addEventListener(kind, (event) => {
        if (source !== this.#source) return;
        this[`_${kind}`](JSON.parse(event.data));
        this.dispatchEvent(new Event(kind));
      });
    }
  }

  #setStatus(status) {
    if (this.status === status) return;
    this.status = status;
    this.dispatchEvent(new Event('status'));
  }

  _functions(data) {
    if (data.reset) this.functions.clear();
    for (const info of data.functions) this.functions.set(info.function, info);
    for (const name of data.gone) this.functions.delete(name);
  }

  _nodes(data) {
    if (data.reset) this.nodes.clear();
    for (const node of data.nodes) this.nodes.set(node.node, node);
    for (const name of data.gone) this.nodes.delete(name);
  }

  _tree(data) {
    if (data.function === null) {
      this.tree = {name: new URLSearchParams(this.#wanted).get('function'), info: null, members: new Map()};
      return;
    }
    if (data.reset || !this.tree) this.tree = {name: data.function.function, info: null, members: new Map()};
    this.tree.info = data.function;
    for (const node of data.nodes) this.tree.members.set(node.node, node);
    for (const name of data.gone) this.tree.members.delete(name);
  }

  _conversions(data) {
    if (data.reset) this.conversions.clear();
    this.proxies = data.proxies;
    for (const one of data.conversions) this.conversions.set(`${one.proxy}\n${one.registry}\n${one.repository}\n${one.digest}`, one);
    for (const key of data.gone) this.conversions.delete(key);
  }

  _starts(data) {
    for (const start of data.starts) {
      this.starts.set(`${start.beganUnixMicros} ${start.node} ${start.function}`, start);
    }
    const excess = this.starts.size - 1000;
    if (excess <= 0) return;
    const oldest = [...this.starts.entries()].sort((a, b) => a[1].beganUnixMicros - b[1].beganUnixMicros);
    for (const [key] of oldest.slice(0, excess)) this.starts.delete(key);
  }
}

export async function ask(path) {
  const answer = await fetch(new URL(`api/v1/${path}`, document.baseURI));
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}
