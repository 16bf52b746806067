// Elements, numbers, requests; what every view uses.

const SVG = 'http://www.w3.org/2000/svg';
const find = id => document.getElementById(id);

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) node.setAttribute(name, '');
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(3).filter(child => child != null && child !== false));
  return node;
}
/** An element. Nothing listens on it: clicks are found by `data-act`, so that it can be changed in place. */
const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

/** Make `old` what `next` is, keeping what stays: focus, scrolling and open details survive. */
function morph(old, next) {
  for (const { name } of [...old.attributes]) {
    if (!next.hasAttribute(name) && !(name === 'open' && old.tagName === 'DETAILS')) old.removeAttribute(name);
  }
  for (const { name, value } of [...next.attributes]) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const wanted = [...next.childNodes];
  wanted.forEach((node, i) => {
    const there = old.childNodes[i];
    const key = n => (n.nodeType === 1 ? n.getAttribute('data-key') : null);
    if (!there) old.append(node);
    else if (there.nodeType !== node.nodeType || there.nodeName !== node.nodeName || key(there) !== key(node)) there.replaceWith(node);
    else if (node.nodeType === 3) { if (there.data !== node.data) there.data = node.data; }
    else morph(there, node);
  });
  while (old.childNodes.length > wanted.length) old.lastChild.remove();
}

// --- numbers ---

function si(x, digits = 3) {
  if (x == null || !Number.isFinite(x)) return '–';
  const size = Math.abs(x);
  for (const [unit, letter] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']]) {
    if (size >= unit * 0.9995) return trim((x / unit).toPrecision(digits)) + letter;
  }
  if (size >= 1) return trim(size < 1000 && Number.isInteger(x) ? String(x) : x.toPrecision(digits));
  return fixed(x, digits);
}
const trim = text => (text.includes('.') && !text.includes('e') ? text.replace(/\.?0+$/, '') : text);
function fixed(x, digits = 4) {
  if (x == null || !Number.isFinite(x)) return '–';
  if (x === 0) return '0';
  const size = Math.abs(x);
  if (size >= 1000 && size < 1e6) return String(Math.round(x));
  if (size < 1e-4 || size >= 1e6) return x.toExponential(digits - 2).replace('e+', 'e');
  return trim(x.toPrecision(digits));
}
function bytes(n) {
  if (n == null) return '–';
  for (const [unit, name] of [[2 ** 40, 'TiB'], [2 ** 30, 'GiB'], [2 ** 20, 'MiB'], [2 ** 10, 'KiB']]) {
    if (n >= unit) return `${trim((n / unit).toPrecision(3))} ${name}`;
  }
  return `${Math.round(n)} B`;
}
function percent(share) {
  if (share == null || !Number.isFinite(share)) return '–';
  const p = 100 * share;
  return `${p === 0 ? '0' : p >= 99.95 ? '100' : p < 0.001 ? p.toExponential(1) : trim(p.toPrecision(p >= 10 ? 3 : 2))}\u202f%`;
}
function span(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return '–';
  const t = Math.round(seconds);
  if (t < 60) return `${t} s`;
  if (t < 3600) return `${Math.floor(t / 60)} min ${t % 60 ? `${t % 60} s` : ''}`.trim();
  if (t < 86400) return `${Math.floor(t / 3600)} h ${Math.floor((t % 3600) / 60)} min`;
  return `${Math.floor(t / 86400)} d ${Math.floor((t % 86400) / 3600)} h`;
}
const clock = at => new Date(at * 1000).toLocaleTimeString([], { hour12: false });
const whole = n => (n == null ? '–' : Math.round(n).toLocaleString('en').replace(/,/g, '\u202f'));
const seen = token => token.replace(/\n/g, '↵').replace(/\t/g, '⇥').replace(/[\u0000-\u001f]/g, '·');

// --- small parts ---

const SHAPES = {
  running: 'M2 1l8 5-8 5z', pending: 'M6 1a5 5 0 1 0 0 10A5 5 0 0 0 6 1zm0 2a3 3 0 1 1 0 6 3 3 0 0 1 0-6z', draining: 'M5 1h2v5h3l-4 5-4-5h3z',
  done: 'M1 6l2-2 2 2 5-5 1.6 1.6L5 9.6z', failed: 'M2.5 1L6 4.5 9.5 1 11 2.5 7.5 6 11 9.5 9.5 11 6 7.5 2.5 11 1 9.5 4.5 6 1 2.5z',
  paused: 'M2 1h3v10H2zM7 1h3v10H7z', stopped: 'M2 2h8v8H2z',
};
const badge = state => h('span', { class: `badge ${state}` },
  s('svg', { viewBox: '0 0 12 12', 'aria-hidden': 'true' }, s('path', { d: SHAPES[state] || SHAPES.pending })), state);

/** A bar of which a share is full. */
function bar(share, label, kind = '') {
  const full = Math.max(0, Math.min(1, share || 0));
  return s('svg', { class: `bar ${kind}`, viewBox: '0 0 100 7', preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    s('rect', { width: (100 * full).toFixed(2), height: 7 }));
}

function sparkline(values, label) {
  const shown = values.slice(-120), most = Math.max(...shown, 1e-9);
  const points = shown.map((v, i) => `${((100 * i) / Math.max(1, shown.length - 1)).toFixed(2)} ${(33 - 31 * (v / most)).toFixed(2)}`);
  return s('svg', { class: 'spark', viewBox: '0 0 100 34', preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    points.length > 1 && s('path', { class: 'under', d: `M0 34L${points.join('L')}L100 34z` }),
    points.length > 1 && s('path', { d: `M${points.join('L')}` }));
}

/** A context: tokens coloured by activation over the latent's largest. */
function context(view, largest) {
  const parts = view.tokens.map((token, i) => {
    const value = view.activations[i];
    if (!value) return seen(token);
    const shade = Math.max(1, Math.min(9, Math.ceil((9 * Math.abs(value)) / Math.max(largest, 1e-30))));
    return h('b', { class: `a${shade}${i === view.peak ? ' p' : ''}`, title: fixed(value) }, seen(token));
  });
  return h('span', { class: 'context' }, parts);
}

const path = (...parts) => `#/${parts.map(encodeURIComponent).join('/')}`;

// --- requests ---

const state = { overview: null, at: 0, failed: null, token: sessionStorage.getItem('harvestd-token') || '', curves: new Map(), list: null, feature: null };

async function ask(url, options = {}) {
  const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
  const answer = await fetch(url, { ...options, headers, cache: 'no-store', signal: AbortSignal.timeout(15000) });
  const body = await answer.json().catch(() => null);
  if (!answer.ok) {
    const error = new Error((body && body.detail) || `${answer.status} ${answer.statusText}`);
    error.status = answer.status;
    throw error;
  }
  return body;
}

let silence;
function say(text) {
  find('said').textContent = text;
  clearTimeout(silence);
  silence = setTimeout(() => { find('said').textContent = ''; }, 7000);
}
