// The latents of a coder while it trains: a list, and one of them.

const PER_PAGE = 50;
const filter = { sort: 'density', order: 'desc', token: '', silent: false, offset: 0 };

const crumbs = (name, trainer, latent) => h('nav', { class: 'crumbs', 'aria-label': 'Where you are' },
  state.overview.pipelines.length > 1 && [h('a', { href: '#/' }, 'All pipelines'), h('span', {}, '/')], h('a', { href: path('p', name) }, name), h('span', {}, '/'),
  latent == null ? h('span', {}, trainer) : [h('a', { href: path('p', name, 't', trainer) }, trainer), h('span', {}, '/'), h('span', {}, `latent ${latent}`)]);

const shades = () => h('span', { class: 'scale', 'aria-hidden': 'true' }, [1, 3, 5, 7, 9].map(i => h('i', { class: `a${i}` })));

function densities(list) {
  const labels = [-6, -5, -4, -3, -2, -1, 0].map(p => [4 * (p + 6), p === 0 ? '1' : `1e${p}`]);
  const edge = i => percent(10 ** (i / 4 - 6));
  return bars('densities', 'How often latents fire', 'share of rows, logarithmic', list.densities, labels, i => `${list.densities[i]} latents: ${edge(i)} to ${edge(i + 1)}`);
}

function listView(name, trainer) {
  const found = state.list && state.list.of === `${name}/${trainer}` ? state.list : null;
  const head = [crumbs(name, trainer), h('div', { class: 'head' }, h('h1', {}, 'Features of ', trainer))];
  if (!found) return [...head, h('p', { class: 'empty' }, 'Loading …')];
  if (found.error) return [...head, h('p', { class: 'note' }, found.error)];
  const list = found.body;
  const option = (value, text) => h('option', { value, selected: `${filter.sort} ${filter.order}` === value }, text);
  const last = Math.min(filter.offset + PER_PAGE, list.matched);
  return [...head,
    h('p', { class: 'sub' }, list.rows ? `As the coder was between ${si(list.trained_rows_from)} and ${si(list.trained_rows_to)} rows of training, on ${si(list.rows)} rows of its stream: `
      + `${whole(list.latents - list.silent)} of ${whole(list.latents)} latents fired.` : 'No rows were looked at yet: this fills while the coder trains.'),
    h('div', { class: 'grid' }, h('section', { class: 'panel w6' }, densities(list)),
      h('section', { class: 'panel w6' }, h('h2', {}, 'Find'), h('form', { class: 'filter', id: 'filter', role: 'search' },
        h('label', {}, 'Fires most on a token with', h('input', { type: 'search', id: 'f-token', value: filter.token, placeholder: 'such as the, \u00a0ship, 19', autocomplete: 'off', spellcheck: 'false' })),
        h('label', {}, 'Order', h('select', { id: 'f-sort' }, option('density desc', 'most frequent first'), option('density asc', 'rarest first'), option('max desc', 'strongest first'), option('latent asc', 'by number'))),
        h('label', { class: 'check' }, h('input', { type: 'checkbox', id: 'f-silent', checked: filter.silent }), 'also those that never fired'),
        h('label', {}, 'Go to latent', h('input', { type: 'number', id: 'f-go', min: 0, max: list.latents - 1, placeholder: `0 to ${list.latents - 1}` }))),
      h('p', { class: 'sub' }, 'Tokens are shaded by activation ', shades(), ' up to the largest of the latent; the outlined one is the peak.'))),
    h('p', { class: 'sub', id: 'count', role: 'status' }, list.matched ? `${whole(filter.offset + 1)} to ${whole(last)} of ${whole(list.matched)} latents` : 'No latent fits.'),
    h('ol', { class: 'latents', start: filter.offset + 1 }, list.features.map(f => h('li', { 'data-key': f.latent },
      h('a', { class: 'id', href: path('p', name, 't', trainer, 'f', f.latent) }, f.latent),
      h('div', { class: 'barline' }, bar(1 + Math.log10(Math.max(f.density, 1e-6)) / 6, `fires on ${percent(f.density)} of the rows`), h('span', { class: 'sub' }, `${percent(f.density)}, up to ${fixed(f.max, 3)}`)),
      h('div', { class: 'chips' }, f.tokens.map(token => h('span', { class: 'chip' }, seen(token)))),
      f.context ? context(f.context, f.max) : h('span', { class: 'sub' }, 'never fired on these rows')))),
    h('div', { class: 'pager' }, h('button', { type: 'button', 'data-act': 'page', 'data-to': filter.offset - PER_PAGE, disabled: filter.offset === 0 }, 'Before'),
      h('button', { type: 'button', 'data-act': 'page', 'data-to': filter.offset + PER_PAGE, disabled: last >= list.matched }, 'After')),
  ];
}

function tokenList(title, list, without) {
  return h('section', { class: 'panel w4' }, h('h2', {}, title),
    list ? h('ol', { class: 'tokens' }, list.map(t => h('li', {}, h('span', { class: 'chip' }, seen(t.token)), h('span', { class: 'sub' }, fixed(t.logit, 3)))))
      : h('p', { class: 'sub' }, without ? `Not known: ${without}.` : 'Being computed with the next batches …'));
}

function featureView(name, trainer, latent) {
  const found = state.feature && state.feature.of === `${name}/${trainer}/${latent}` ? state.feature : null;
  const go = (to, text) => (to == null ? h('button', { type: 'button', disabled: true }, text) : h('a', { href: path('p', name, 't', trainer, 'f', to) }, text));
  const head = more => [crumbs(name, trainer, latent), h('div', { class: 'head' }, h('h1', {}, `Latent ${latent}`), more)];
  if (!found) return [...head(), h('p', { class: 'empty' }, 'Loading …')];
  if (found.error) return [...head(), h('p', { class: 'note' }, found.error)];
  const f = found.body, n = +latent;
  const one = (title, value, note) => h('div', { class: 'figure' }, h('dt', {}, title), h('dd', {}, value, note && h('small', {}, note)));
  const { edges, counts } = f.sizes;
  const step = Math.max(1, Math.ceil(edges.length / 6));
  const labels = edges.map((edge, i) => [i, fixed(edge, 2)]).filter((_, i) => i % step === 0);
  const gone = state.overview.pipelines.find(p => p.name === name);
  const without = f.without_tokens || (gone && gone.state !== 'running' && !f.promoted ? 'the pipeline does not run' : null);
  return [...head(h('div', { class: 'acts' }, go(n > 0 ? n - 1 : null, '← before'), ' ', go(n + 1 < f.latents ? n + 1 : null, 'after →'))),
    h('p', { class: 'sub' }, `As the coder was at ${si(f.trained_rows_to)} rows of training.`),
    h('dl', { class: 'figures' }, one('Density', percent(f.density), `${whole(f.fired)} of ${whole(f.rows)} rows`), one('Largest activation', fixed(f.max, 3)), one('Mean where it fires', fixed(f.mean, 3)), one('Median', fixed(f.median, 3))),
    h('div', { class: 'grid' },
      h('section', { class: 'panel w4' }, counts.length ? bars('sizes', 'Activations where it fires', 'rows, logarithmic bins', counts, labels, i => `${counts[i]} rows: ${fixed(edges[i], 3)} to ${fixed(edges[i + 1], 3)}`) : h('p', { class: 'empty' }, 'It fired on none of the rows.')),
      tokenList('Promotes', f.promoted, without), tokenList('Suppresses', f.suppressed, without),
      h('section', { class: 'panel w12', 'aria-labelledby': 'contexts' }, h('div', { class: 'titled' }, h('h2', { id: 'contexts' }, 'Where it fires most'), h('span', { class: 'sub' }, shades(), 'weak to strong')),
        f.contexts.length ? h('ol', { class: 'contexts' }, f.contexts.map(c => h('li', {}, h('span', { class: 'value' }, fixed(c.activation, 3)), context(c, f.max)))) : h('p', { class: 'empty' }, 'Nowhere yet.'))),
  ];
}
