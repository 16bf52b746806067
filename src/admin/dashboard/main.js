// Which view is shown, what is asked for and when, and what clicks do.

const EVERY = 2000, CURVES_EVERY = 4000, LIST_EVERY = 6000, FEATURE_EVERY = 2500, FEATURE_SLOWLY = 12000;
const last = { curves: 0, list: 0, feature: 0 };

function route() {
  const parts = location.hash.replace(/^#\/?/, '').split('/').filter(Boolean).map(decodeURIComponent);
  const [p, name, t, trainer, f, latent] = parts;
  if (p !== 'p' || name == null) return { view: 'overview' };
  if (t !== 't' || trainer == null) return { view: 'pipeline', name };
  return f === 'f' && latent != null ? { view: 'feature', name, trainer, latent } : { view: 'list', name, trainer };
}

/** The pipeline whose details are shown, if one is. */
function shown() {
  const at = route(), all = state.overview ? state.overview.pipelines : [];
  if (at.view === 'overview') return all.length === 1 ? all[0] : null;
  return all.find(p => p.name === at.name) || null;
}

function content() {
  const at = route();
  if (!state.overview) return h('p', { class: 'empty' }, state.failed === 401 ? 'Reading needs the token: sign in.' : state.failed ? `No answer: ${state.failed}` : 'Loading …');
  const pipeline = shown();
  if (at.view === 'overview') return pipeline ? pipelineView(pipeline) : overviewView();
  if (!pipeline) return h('p', { class: 'empty' }, `There is no pipeline ${at.name} any more. `, h('a', { href: '#/' }, 'All pipelines'));
  if (at.view === 'list') return listView(at.name, at.trainer);
  if (at.view === 'feature') return featureView(at.name, at.trainer, at.latent);
  return pipelineView(pipeline);
}

function draw() {
  const view = find('view'), next = h('main', { id: 'view', tabindex: -1 }, content());
  const typed = document.activeElement && document.activeElement.closest('#filter') ? document.activeElement : null;
  const value = typed && typed.type !== 'checkbox' ? typed.value : null;
  morph(view, next);
  if (value != null && typed.isConnected && typed.value !== value) typed.value = value;
  if (pointed) point(pointed.id, pointed.x, pointed.left, pointed.top);
  drawTop();
}

function drawTop() {
  const { overview } = state, live = find('live');
  const at = route();
  document.title = [at.latent != null && `latent ${at.latent}`, at.trainer, at.name, 'harvestd'].filter(Boolean).join(' · ');
  live.classList.toggle('lost', !!state.failed);
  const text = state.failed ? (state.failed === 401 ? 'not signed in' : 'no connection') : overview ? 'live' : 'connecting';
  if (live.textContent !== text) live.textContent = text;
  find('key').textContent = state.token ? 'Token' : 'Sign in';
  find('key').hidden = !(state.failed === 401 || state.token || (overview && overview.changes === 'with_token'));
  if (!overview) return;
  const cpu = state.before && overview.process.cpu_seconds != null && overview.now > state.before.now
    ? (overview.process.cpu_seconds - state.before.process.cpu_seconds) / (overview.now - state.before.now) : null;
  morph(find('process'), h('div', { id: 'process', class: 'process' }, h('span', {}, `version ${overview.version}`), h('span', {}, `up ${span(overview.uptime_seconds)}`),
    h('span', {}, `${bytes(overview.process.resident_bytes)} memory`), cpu != null && h('span', {}, `${cpu.toFixed(1)} cores`)));
}

async function refresh() {
  try {
    const overview = await ask('/v1/overview');
    if (state.overview && overview.now - state.overview.now > 1.5) state.before = state.overview;
    [state.overview, state.failed, state.at] = [overview, null, Date.now()];
    await details();
  } catch (error) {
    state.failed = error.status || error.message || 'no connection';
  }
  draw();
}

/** What the present view shows besides the overview, if it is old. */
async function details() {
  const at = route(), now = Date.now(), pipeline = shown();
  const base = at.name != null ? `/v1/pipelines/${encodeURIComponent(at.name)}/trainers/${encodeURIComponent(at.trainer || '')}` : '';
  const keep = (key, of, asked) => asked.then(body => { state[key] = { of, body }; }, error => { state[key] = { of, error: error.message }; });
  if (pipeline && (at.view === 'pipeline' || at.view === 'overview') && now - last.curves > CURVES_EVERY) {
    last.curves = now;
    await Promise.all(pipeline.run.trainers.slice(0, 64).map(t => ask(`/v1/pipelines/${encodeURIComponent(pipeline.name)}/trainers/${encodeURIComponent(t.name)}/curves`)
      .then(curves => state.curves.set(`${pipeline.name}/${t.name}`, curves), () => {})));
  } else if (at.view === 'list' && now - last.list > LIST_EVERY) {
    last.list = now;
    const query = new URLSearchParams({ sort: filter.sort, order: filter.order, silent: filter.silent, offset: filter.offset, limit: PER_PAGE });
    if (filter.token) query.set('token', filter.token);
    await keep('list', `${at.name}/${at.trainer}`, ask(`${base}/features?${query}`));
  } else if (at.view === 'feature') {
    const known = state.feature && state.feature.of === `${at.name}/${at.trainer}/${at.latent}` && state.feature.body && state.feature.body.promoted;
    if (now - last.feature > (known ? FEATURE_SLOWLY : FEATURE_EVERY)) {
      last.feature = now;
      await keep('feature', `${at.name}/${at.trainer}/${at.latent}`, ask(`${base}/features/${encodeURIComponent(at.latent)}`));
    }
  }
}

const again = () => details().then(draw, draw);

async function change(name, action) {
  if (state.overview.changes === 'with_token' && !state.token) {
    state.after = [name, action];
    return find('signin').showModal();
  }
  try {
    await ask(`/v1/pipelines/${encodeURIComponent(name)}/${action}`, { method: 'POST' });
    say({ pause: `${name} drains and pauses.`, resume: `${name} goes on.`, stop: `${name} stops.`, checkpoint: `${name} writes checkpoints.` }[action]);
  } catch (error) {
    say(error.status === 401 ? 'That is not the token.' : error.message);
    if (error.status === 401) { state.after = [name, action]; find('signin').showModal(); }
  }
  refresh();
}

const THEMES = [[null, '◐', 'as the system'], ['light', '☀', 'light'], ['dark', '☾', 'dark']];
function theme(next) {
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  const [, sign, name] = THEMES.find(t => t[0] === next) || THEMES[0];
  find('theme').textContent = sign;
  find('theme').setAttribute('aria-label', `Colours: ${name}`);
  try { next ? localStorage.setItem('harvestd-theme', next) : localStorage.removeItem('harvestd-theme'); } catch { /* without storage it lasts as long as the page */ }
}

const ACTS = {
  skip: (_, event) => { event.preventDefault(); find('view').focus(); },
  key: () => { find('token').value = state.token; find('signin').showModal(); },
  cancel: target => target.closest('dialog').close(),
  forget: target => { state.token = ''; sessionStorage.removeItem('harvestd-token'); target.closest('dialog').close(); refresh(); },
  theme: () => { const now = document.documentElement.dataset.theme || null; theme(THEMES[(THEMES.findIndex(t => t[0] === now) + 1) % THEMES.length][0]); },
  'events-all': () => { state.onlyBad = false; draw(); },
  'events-bad': () => { state.onlyBad = true; draw(); },
  page: target => { filter.offset = Math.max(0, +target.dataset.to); last.list = 0; again(); scrollTo({ top: 0 }); },
  do: target => {
    const { do: action, name } = target.dataset;
    if (action !== 'stop') return change(name, action);
    state.sure = [name, action];
    find('sure-title').textContent = `Stop ${name}?`;
    find('sure-text').textContent = 'It stops at once. What was not committed or saved is computed again when it is resumed. To save everything first, pause it instead.';
    find('sure-yes').textContent = 'Stop';
    find('sure').showModal();
  },
  'sure-yes': target => { target.closest('dialog').close(); change(...state.sure); },
};

document.addEventListener('click', event => {
  const target = event.target.closest('[data-act]');
  if (target && ACTS[target.dataset.act]) ACTS[target.dataset.act](target, event);
});
document.addEventListener('submit', event => {
  event.preventDefault();
  if (event.target.id !== 'signin-form') return;
  state.token = find('token').value.trim();
  sessionStorage.setItem('harvestd-token', state.token);
  find('signin').close();
  const after = state.after;
  state.after = null;
  if (after) change(...after);
  else refresh();
});
let typing;
document.addEventListener('input', event => {
  const { id, value, checked } = event.target;
  if (id === 'f-token') filter.token = value;
  else if (id === 'f-sort') [filter.sort, filter.order] = value.split(' ');
  else if (id === 'f-silent') filter.silent = checked;
  else return;
  filter.offset = 0;
  clearTimeout(typing);
  typing = setTimeout(() => { last.list = 0; again(); }, 250);
});
document.addEventListener('change', event => {
  const { id, value } = event.target, at = route();
  if (id === 'f-go' && value !== '') location.hash = path('p', at.name, 't', at.trainer, 'f', Math.trunc(+value));
});
addEventListener('hashchange', () => {
  last.curves = last.list = last.feature = 0;
  unpoint();
  draw();
  scrollTo({ top: 0 });
  find('view').focus({ preventScroll: true });
  again();
});
document.addEventListener('visibilitychange', () => { if (!document.hidden) refresh(); });

try { theme(localStorage.getItem('harvestd-theme')); } catch { theme(null); }
(async function forever() {
  for (;;) {
    if (!document.hidden || !state.overview) await refresh();
    await new Promise(done => setTimeout(done, EVERY));
  }
})();
