// Numbers for people.

const SMALL = new Intl.NumberFormat('en', {maximumFractionDigits: 1});
const WHOLE = new Intl.NumberFormat('en', {maximumFractionDigits: 0});

export function count(value) { return WHOLE.format(value); }

export function bytes(value) {
  if (!value) return '0 B';
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  const power = Math.min(Math.floor(Math.log10(value) / 3), units.length - 1);
  const scaled = value / 1000 ** power;
  return `${(scaled < 100 && power > 0 ? SMALL : WHOLE).format(scaled)} ${units[power]}`;
}

export function rate(value) { return `${bytes(value)}/s`; }

export function percent(permille) {
  // 100 % is said only of what is complete.
  return permille >= 1000 ? '100 %' : `${Math.floor(permille / 10)} %`;
}

export function micros(value) {
  if (value < 1000) return `${WHOLE.format(value)} µs`;
  if (value < 1_000_000) return `${SMALL.format(value / 1000)} ms`;
  if (value < 60_000_000) return `${(value / 1_000_000).toFixed(2)} s`;
  return `${SMALL.format(value / 60_000_000)} min`;
}

export function since(millis) {
  if (millis < 1000) return `${WHOLE.format(millis)} ms`;
  if (millis < 60_000) return `${SMALL.format(millis / 1000)} s`;
  if (millis < 3_600_000) return `${WHOLE.format(millis / 60_000)} min`;
  return `${SMALL.format(millis / 3_600_000)} h`;
}

const CLOCK = new Intl.DateTimeFormat('en-GB', {hour: '2-digit', minute: '2-digit', second: '2-digit'});
export function clock(unixMicros) { return CLOCK.format(new Date(unixMicros / 1000)); }

/** The image of a conversion: "registry/app:1". */
export function conversionName(one) {
  const by = /^sha256:[0-9a-f]{64}$/.test(one.reference) || !one.reference ? `@${digest(one.digest)}` : `:${one.reference}`;
  return `${one.registry ? `${one.registry}/` : ''}${one.repository}${by}`;
}

/** The same as a registry takes it. */
export function conversionReference(one) {
  const by = !one.reference ? `@${one.digest}` : /^sha256:[0-9a-f]{64}$/.test(one.reference) ? `@${one.reference}` : `:${one.reference}`;
  return `${one.registry ? `${one.registry}/` : ''}${one.repository}${by}`;
}

/** "sha256:5f2a91c0…" */
export function digest(name) {
  return /^sha256:[0-9a-f]{64}$/.test(name) ? `${name.slice(7, 19)}…` : name;
}

/** As what nodes pull the image of a function; empty: none of them has said. */
export function pulledAs(info) { return (info.reference ?? '').replace(/^docker:\/\//, ''); }

/** What people call a function: the image's reference without its digest and scheme, or the digest. */
export function imageName(info) {
  const reference = (info.reference ?? '').replace(/^docker:\/\//, '').replace(/@sha256:[0-9a-f]{64}$/, '');
  return reference || digest(info.function);
}

