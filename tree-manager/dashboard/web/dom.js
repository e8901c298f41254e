// Elements, made without markup: text is text, whatever it contains.

const SVG = 'http://www.w3.org/2000/svg';

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) {
      element.addEventListener(name.slice(2), value);
    } else if (name === 'style') {
      for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
    } else {
      element.setAttribute(name, value === true ? '' : String(value));
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** el('button', {class: 'quiet', onclick: …}, 'Fit') */
export function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Changes a text node only when it differs, so that screen readers and selections are left alone. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Radio buttons that look like one control. `options`: [value, label]. Returns {element, set}. */
export function segmented(label, options, value, onChange) {
  const name = `segment-${Math.random().toString(36).slice(2)}`;
  const inputs = new Map();
  const element = el('fieldset', {class: 'segmented'}, el('legend', {class: 'hidden'}, label),
    options.map(([key, text]) => {
      const input = el('input', {type: 'radio', name, value: key, onchange: () => onChange(key)});
      inputs.set(key, input);
      return el('label', {}, input, el('span', {}, text));
    }));
  const set = (key) => { if (inputs.has(key)) inputs.get(key).checked = true; };
  set(value);
  return {element, set};
}

let speaker = null;
/** Says something to screen readers. */
export function announce(text) {
  speaker ??= document.body.appendChild(el('div', {class: 'hidden', 'aria-live': 'polite', id: 'announcements'}));
  setText(speaker, text);
}

/** Puts new children into an element that may hold the focus; whoever has the same data-key gets it again. */
export function replaceKeepingFocus(element, ...children) {
  const {activeElement} = document;
  const key = element.contains(activeElement) ? activeElement.dataset.key : null;
  element.replaceChildren(...children.flat(Infinity).filter(Boolean));
  if (key === null || key === undefined) return;
  for (const candidate of element.querySelectorAll('[data-key]')) {
    if (candidate.dataset.key === key) candidate.focus({preventScroll: true});
  }
}

/** A bar of 0…1 with its text. */
export function meter(part, text, kind = '') {
  return el('span', {class: `meter ${kind}`}, el('span', {class: 'track', 'aria-hidden': 'true'},
    el('span', {style: {width: `${Math.min(Math.max(part, 0), 1) * 100}%`}})), el('span', {class: 'figure'}, text));
}

export function chip(text, kind) { return el('span', {class: `chip ${kind}`}, text); }
