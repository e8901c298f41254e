// A preheating: nodes are told to bring an image, then the manager is asked once a second how far they are, until all
// have ended. The only thing in these pages that changes what nodes do. The token goes from here into a header, and
// nowhere else.

const ASK_EVERY = 1000;
const PATIENCE = 10_000;

/** What the manager did not do. `status`: its answer's; 0: none came. `said`: its reason, or empty. */
export class Refusal extends Error {
  constructor(status, said = '') {
    super(said);
    Object.assign(this, {status, said});
  }

  /** Asking for the same once more may help. */
  get passes() { return this.status < 400 || this.status >= 500; }
}

async function call(path, token, body) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers['Content-Type'] = 'application/json';
  let answer;
  let text;
  try {
    // A redirect would take the token elsewhere.
    answer = await fetch(new URL(`api/v1/${path}`, document.baseURI), {method: body ? 'POST' : 'GET', headers, cache: 'no-store', redirect: 'error',
      body: body && JSON.stringify(body), signal: AbortSignal.timeout(PATIENCE)});
    text = await answer.text();
  } catch {
    throw new Refusal(0);
  }
  let said = null;
  try {
    said = JSON.parse(text);
  } catch {
    // Something before the manager has answered.
  }
  if (!answer.ok) throw new Refusal(answer.status, typeof said?.error === 'string' ? said.error : '');
  if (!Number.isInteger(said?.id) || !Array.isArray(said.nodes)) throw new Refusal(answer.status);
  return said;
}

/** Fires 'change' at every answer, and when one is missing. */
export class Preheating extends EventTarget {
  reference = '';
  told = 0;         // nodes; 0: none has been told yet
  progress = null;  // as the manager told it last
  refusal = null;   // of the latest ask; null: it was answered

  #run = null;

  /** Throws a Refusal; what went on before then goes on. `request`: as the API takes it. */
  async begin(request, token) {
    const begun = await call('preheats', token, request);
    Object.assign(this, {reference: request.reference, told: begun.nodes.length, progress: null, refusal: null});
    this.dispatchEvent(new Event('change'));
    this.#follow(begun.id, token);
  }

  /** Nothing more will be told. */
  get over() { return this.refusal ? !this.refusal.passes : Boolean(this.progress?.ended); }

  /** Nodes that have the image, that could not bring it, and how much all have of it, 0…1. */
  totals() {
    const nodes = this.progress?.nodes ?? [];
    const sum = nodes.reduce((part, node) => part + partOf(node), 0);
    return {done: nodes.filter((node) => node.state === 'done').length, failed: nodes.filter((node) => node.state === 'failed').length,
      part: sum / Math.max(nodes.length, 1)};
  }

  async #follow(id, token) {
    const run = {};
    this.#run = run;
    for (;;) {
      let progress = this.progress;
      let refusal = null;
      try {
        progress = await call(`preheats/${id}`, token);
      } catch (error) {
        refusal = error;
      }
      if (run !== this.#run) return;  // another one is looked at
      Object.assign(this, {progress, refusal});
      this.dispatchEvent(new Event('change'));
      if (this.over) return;
      await new Promise((go) => { setTimeout(go, ASK_EVERY); });
      if (run !== this.#run) return;
    }
  }
}

/** How much of the image a node has, 0…1. */
export function partOf(node) {
  if (node.state === 'done') return 1;
  return node.total_bytes > 0 ? Math.min(node.present_bytes / node.total_bytes, 1) : 0;
}
