// The colours of app.css, for canvases.

const NAMES = ['bg', 'surface', 'line', 'ink', 'ink-2', 'ink-3', 'accent', 'edge', 'bad', 'warn', 'demand', 'prefetch', 'fill'];
export const ZONE_COLOURS = 8;

let colours = null;
const listeners = new Set();

export function palette() {
  if (colours) return colours;
  // A variable is text; what an element makes of it is a colour.
  const probe = document.body.appendChild(document.createElement('span'));
  probe.hidden = true;
  const style = getComputedStyle(probe);
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return style.color;
  };
  colours = {zones: []};
  for (const name of NAMES) colours[name] = colour(name);
  for (let i = 0; i < ZONE_COLOURS; ++i) colours.zones.push(colour(`zone-${i}`));
  colours.font = style.getPropertyValue('--font').trim();
  probe.remove();
  return colours;
}

export function onPaletteChange(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function paletteChanged() {
  colours = null;
  for (const listener of listeners) listener();
}

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', paletteChanged);

const reduced = matchMedia('(prefers-reduced-motion: reduce)');
export function calm() { return reduced.matches; }
