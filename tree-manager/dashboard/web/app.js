// The frame around the pages: which page is shown (the address's hash says), how the stream is, light or dark.

import {el, segmented, setText} from './dom.js';
import {Live, ask} from './live.js';
import {paletteChanged} from './palette.js';
import {ConversionsPage} from './conversions_page.js';
import {FleetPage} from './fleet_page.js';
import {ImagesPage} from './images_page.js';
import {PreheatDialog} from './preheat_dialog.js';
import {StartsPage} from './starts_page.js';
import {TreesPage} from './trees_page.js';

const PAGES = {trees: TreesPage, images: ImagesPage, conversions: ConversionsPage, fleet: FleetPage, starts: StartsPage};
const TITLES = {trees: 'Trees', images: 'Images', conversions: 'Conversions', fleet: 'Fleet', starts: 'Starts'};
const STATUS = {
  connecting: ['Connecting', ''],
  live: ['Live', 'good'],
  broken: ['Reconnecting', 'bad'],
};

const live = new Live();
const preheat = new PreheatDialog();
const main = document.getElementById('main');
let page = null;
let pageName = '';

function route() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, '').split('/');
  const known = Object.hasOwn(PAGES, name) ? name : 'trees';
  let argument = '';
  try {
    argument = decodeURIComponent(rest.join('/'));
  } catch {
    // A hash that somebody typed: no argument.
  }
  if (known !== pageName) {
    page?.destroy?.();
    page = new PAGES[known](live, preheat);
    pageName = known;
    main.replaceChildren(page.element);
    document.title = `${TITLES[known]} · Banyan`;
    for (const link of document.querySelectorAll('nav a')) {
      if (link.dataset.page === known) link.setAttribute('aria-current', 'page');
      else link.removeAttribute('aria-current');
    }
  }
  page.open(argument);
}

function showStatus() {
  const [text, kind] = STATUS[live.status];
  const status = document.getElementById('status');
  status.className = kind;
  setText(status.querySelector('.text'), text);
}

// ---- Light and dark ----

function setTheme(theme) {
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem('banyan-theme', theme);
  } catch {
    // Private windows may keep nothing.
  }
  paletteChanged();
}

function themeControl() {
  let theme = 'auto';
  try {
    theme = localStorage.getItem('banyan-theme') ?? 'auto';
  } catch {
    // Likewise.
  }
  if (!['auto', 'light', 'dark'].includes(theme)) theme = 'auto';
  setTheme(theme);
  return segmented('Colours', [['auto', 'Auto'], ['light', 'Light'], ['dark', 'Dark']], theme, setTheme).element;
}

async function showVersion() {
  try {
    const status = await ask('status');
    document.getElementById('version').textContent = `v${status.version}`;
    document.getElementById('switch-off').hidden = status.peerToPeer;
    document.getElementById('doubting').hidden = !status.doubting;
    preheat.allow(status.preheats);
  } catch {
    // The stream's status tells of a manager that is away.
  }
}

document.getElementById('theme').append(themeControl());
document.getElementById('preheat').append(preheat.button);
document.body.append(preheat.element);
document.getElementById('skip').addEventListener('click', () => main.focus());
for (const kind of ['functions', 'nodes', 'tree', 'starts', 'conversions']) {
  live.addEventListener(kind, () => page?.update?.(kind));
}
live.addEventListener('status', () => {
  showStatus();
  if (live.status === 'live') showVersion();
});
addEventListener('hashchange', route);
setInterval(() => { if (live.status === 'live' && !document.hidden) showVersion(); }, 10_000);
showStatus();
route();
// For tests, and for people with a console.
window.banyan = {live, page: () => page, el};
