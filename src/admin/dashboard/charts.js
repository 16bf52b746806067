// Charts over a linear or logarithmic axis. The points are kept beside the picture, for whoever points at it.

const charts = new Map();
const W = 440, H = 210, L = 50, R = 10, T = 10, B = 28;

function ticks(from, to, log) {
  if (log) {
    const found = [];
    for (let p = Math.floor(from); p <= Math.ceil(to); p++) {
      for (const m of to - from > 2.5 ? [1] : [1, 2, 5]) {
        const x = Math.log10(m) + p;
        if (x >= from && x <= to) found.push(x);
      }
    }
    if (found.length > 1) return found;
    return ticks(10 ** from, 10 ** to, false).map(Math.log10);
  }
  const rough = (to - from) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * power).find(x => x >= rough) || rough;
  const found = [];
  for (let x = Math.ceil(from / step) * step; x <= to + 1e-9 * step; x += step) found.push(x);
  return found;
}

function range(values, log, zero) {
  let from = Infinity, to = -Infinity;
  for (const v of values) { if (Number.isFinite(v)) { from = Math.min(from, v); to = Math.max(to, v); } }
  if (from > to) return null;
  if (zero) from = Math.min(0, from);
  const room = to > from ? 0.05 * (to - from) : log ? 0.2 : Math.abs(to) * 0.3 || 1;
  return [zero && from === 0 ? 0 : from - room, to + room];
}

/**
 * A chart. `series`: [{name, colour, points: [[x, y]], dash, under}]; `x`, `y`: {show, log, zero, ticks}.
 */
function chart(id, title, note, series, x, y) {
  const scaled = v => (y.log ? Math.log10(v) : v);
  const drawn = series.map(one => ({ ...one, points: one.points.filter(p => Number.isFinite(p[0]) && Number.isFinite(scaled(p[1]))) }))
    .filter(one => one.points.length);
  const caption = h('figcaption', {}, title, note && h('span', {}, note));
  const across = range(drawn.flatMap(one => one.points.map(p => p[0])), false, x.zero);
  const up = range(drawn.flatMap(one => one.points.map(p => scaled(p[1]))), y.log, y.zero);
  if (!across || !up) return h('figure', { class: 'chart', 'data-key': id }, caption, h('p', { class: 'empty' }, 'nothing yet'));
  if (x.exact) [across[0], across[1]] = x.exact;
  const atX = v => L + ((v - across[0]) / (across[1] - across[0])) * (W - L - R);
  const atY = v => H - B - ((scaled(v) - up[0]) / (up[1] - up[0])) * (H - B - T);
  const lines = [];
  for (const t of ticks(up[0], up[1], y.log)) {
    const value = y.log ? 10 ** t : t, at = atY(value).toFixed(1);
    lines.push(s('line', { class: 'g', x1: L, x2: W - R, y1: at, y2: at }), s('text', { class: 'tick', x: L - 6, y: +at + 4, 'text-anchor': 'end' }, y.show(value)));
  }
  for (const t of ticks(across[0], across[1], false)) {
    const at = atX(t);
    if (at < L - 1 || at > W - R + 1) continue;
    lines.push(s('line', { class: 'g', x1: at.toFixed(1), x2: at.toFixed(1), y1: T, y2: H - B }),
      s('text', { class: 'tick', x: at.toFixed(1), y: H - B + 17, 'text-anchor': 'middle' }, (x.tick || x.show)(t)));
  }
  for (const one of drawn) {
    const d = one.points.map((p, i) => `${i ? 'L' : 'M'}${atX(p[0]).toFixed(1)} ${atY(p[1]).toFixed(1)}`).join('');
    if (one.under) {
      const [first, last] = [one.points[0], one.points[one.points.length - 1]];
      lines.push(s('path', { class: `under f${one.colour % 8}`, d: `${d}L${atX(last[0]).toFixed(1)} ${H - B}L${atX(first[0]).toFixed(1)} ${H - B}z` }));
    }
    if (one.points.length === 1) lines.push(s('circle', { class: `f${one.colour % 8}`, cx: atX(one.points[0][0]), cy: atY(one.points[0][1]), r: 3 }));
    else lines.push(s('path', { class: `line s${one.colour % 8}${one.dash ? ' dash' : ''}`, d }));
  }
  const last = drawn.map(one => `${one.name} ${y.show(one.points[one.points.length - 1][1])}`).join(', ');
  charts.set(id, { series: drawn, x, y, atX });
  return h('figure', { class: 'chart', 'data-key': id }, caption,
    s('svg', { viewBox: `0 0 ${W} ${H}`, 'data-chart': id, tabindex: 0, role: 'img', 'aria-label': `${title}. Last: ${last}. Left and right arrows move along it.` },
      lines, s('line', { class: 'cursor', y1: T, y2: H - B, x1: 0, x2: 0 })));
}

/** Counts in bins as bars; `labels`: what stands below some of them. */
function bars(id, title, note, counts, labels, said) {
  const most = Math.max(...counts, 1), width = (W - L - R) / counts.length;
  const parts = [];
  for (const t of ticks(0, most, false)) {
    const at = H - B - (t / most) * (H - B - T);
    parts.push(s('line', { class: 'g', x1: L, x2: W - R, y1: at.toFixed(1), y2: at.toFixed(1) }),
      s('text', { class: 'tick', x: L - 6, y: (at + 4).toFixed(1), 'text-anchor': 'end' }, si(t)));
  }
  counts.forEach((count, i) => {
    const height = (count / most) * (H - B - T);
    parts.push(s('rect', { class: 'f0', x: (L + i * width + 0.6).toFixed(1), width: Math.max(0.5, width - 1.2).toFixed(1), y: (H - B - height).toFixed(1), height: height.toFixed(1), rx: 1.5 },
      s('title', {}, said(i))));
  });
  labels.forEach(([at, text]) => parts.push(s('text', { class: 'tick', x: (L + at * width).toFixed(1), y: H - B + 17, 'text-anchor': 'middle' }, text)));
  return h('figure', { class: 'chart', 'data-key': id }, h('figcaption', {}, title, note && h('span', {}, note)),
    s('svg', { viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': `${title}: ${note || ''}` }, parts));
}

// --- pointing ---

let pointed = null;

function nearest(points, x) {
  let best = points[0];
  for (const p of points) if (Math.abs(p[0] - x) < Math.abs(best[0] - x)) best = p;
  return best;
}

function point(id, x, left, top) {
  const shown = charts.get(id), svg = document.querySelector(`[data-chart="${CSS.escape(id)}"]`);
  if (!shown || !svg) return unpoint();
  pointed = { id, x, left, top };
  const at = nearest(shown.series[0].points, x)[0];
  const cursor = svg.querySelector('.cursor'), tip = find('tip');
  cursor.setAttribute('x1', shown.atX(at));
  cursor.setAttribute('x2', shown.atX(at));
  cursor.style.visibility = 'visible';
  tip.replaceChildren(h('div', {}, h('b', {}, shown.x.show(at))), ...shown.series.map(one =>
    h('div', {}, h('span', {}, h('i', { class: `k k${one.colour % 8}` }), one.name), h('span', {}, shown.y.show(nearest(one.points, x)[1])))));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(6, Math.min(left + 14, innerWidth - box.width - 6))}px`;
  tip.style.top = `${Math.max(6, top - box.height - 12)}px`;
}

function unpoint() {
  pointed = null;
  find('tip').hidden = true;
  document.querySelectorAll('.cursor').forEach(line => { line.style.visibility = ''; });
}

/** The x under the pointer. */
function under(svg, clientX) {
  const shown = charts.get(svg.dataset.chart), box = svg.getBoundingClientRect();
  const wanted = ((clientX - box.left) / box.width) * W;
  const all = shown.series[0].points;
  return all.reduce((best, p) => (Math.abs(shown.atX(p[0]) - wanted) < Math.abs(shown.atX(best[0]) - wanted) ? p : best), all[0])[0];
}

document.addEventListener('pointermove', event => {
  const svg = event.target.closest && event.target.closest('[data-chart]');
  if (svg && charts.has(svg.dataset.chart)) {
    document.querySelectorAll('.cursor').forEach(line => { line.style.visibility = ''; });
    point(svg.dataset.chart, under(svg, event.clientX), event.clientX, event.clientY);
  } else if (pointed) unpoint();
});
document.addEventListener('focusout', event => { if (event.target.dataset && event.target.dataset.chart) unpoint(); });
document.addEventListener('keydown', event => {
  const svg = event.target.closest && event.target.closest('[data-chart]');
  if (!svg || !['ArrowLeft', 'ArrowRight', 'Escape'].includes(event.key)) return;
  if (event.key === 'Escape') return unpoint();
  event.preventDefault();
  const { series, x, y, atX } = charts.get(svg.dataset.chart), all = series[0].points;
  const now = pointed && pointed.id === svg.dataset.chart ? all.findIndex(p => p[0] >= pointed.x) : all.length;
  const next = Math.max(0, Math.min(all.length - 1, (now < 0 ? all.length : now) + (event.key === 'ArrowLeft' ? -1 : 1)));
  const box = svg.getBoundingClientRect();
  point(svg.dataset.chart, all[next][0], box.left + (atX(all[next][0]) / W) * box.width, box.top + 30);
  find('heard').textContent = `${x.show(all[next][0])}: ${series.map(one => `${one.name} ${y.show(nearest(one.points, all[next][0])[1])}`).join(', ')}`;
});
