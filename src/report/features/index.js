'use strict';
(() => {
  const find = id => document.getElementById(id);
  const data = JSON.parse(find('data').textContent);
  const [DENSITY, LARGEST, ACTIVE, PROMOTED] = [0, 1, 2, 3];
  const ROWS = 100, WORDS = 6;
  const lower = data.tokens.map(token => token.toLowerCase());
  const state = {sort: 'density', falling: true, page: 0};
  const values = {latent: i => i, density: i => data.latents[i][DENSITY], max: i => data.latents[i][LARGEST]};

  function chosen() {
    const query = find('query').value.toLowerCase(), where = find('where').value, silent = find('silent').checked;
    const hits = new Set();
    if (query) lower.forEach((token, i) => { if (token.includes(query)) hits.add(i); });
    const has = list => list.some(i => hits.has(i));
    const keeps = ([density, , active, promoted]) =>
      (silent || density > 0) &&
      (!query || (where !== 'promoted' && has(active)) || (where !== 'contexts' && has(promoted)));
    const value = values[state.sort], sign = state.falling ? -1 : 1;
    const latents = data.latents.map((_, i) => i).filter(i => keeps(data.latents[i]));
    latents.sort((a, b) => sign * (value(a) - value(b)) || a - b);
    return [latents, hits];
  }

  const seen = token => token.replace(/\n/g, '↵').replace(/\t/g, '⇥');
  function words(list, hits) {
    const cell = document.createElement('td');
    cell.className = 'words';
    const first = list.filter(i => hits.has(i)).concat(list.filter(i => !hits.has(i))).slice(0, WORDS);
    for (const i of first) {
      const token = document.createElement(hits.has(i) ? 'mark' : 'code');
      token.textContent = seen(data.tokens[i]);
      cell.append(token, ' ');
    }
    return cell;
  }
  function number(text) {
    const cell = document.createElement('td');
    cell.textContent = text;
    return cell;
  }
  function row(i, hits) {
    const [density, largest, active, promoted] = data.latents[i];
    const tr = document.createElement('tr'), head = document.createElement('th'), link = document.createElement('a');
    head.scope = 'row';
    link.href = `pages/${String(Math.floor(i / data.perPage)).padStart(5, '0')}.html#f${i}`;
    link.textContent = i;
    head.append(link);
    tr.append(head, number(density ? (100 * density).toPrecision(3) + '%' : '0'), number(largest.toPrecision(4)),
      words(active, hits), words(promoted, hits));
    return tr;
  }

  function show() {
    const [latents, hits] = chosen();
    const pages = Math.max(1, Math.ceil(latents.length / ROWS));
    state.page = Math.min(state.page, pages - 1);
    const first = state.page * ROWS, shown = latents.slice(first, first + ROWS);
    find('table').tBodies[0].replaceChildren(...shown.map(i => row(i, hits)));
    find('said').textContent = latents.length
      ? `${first + 1} to ${first + shown.length} of ${latents.length} latents` : 'no such latents';
    find('before').disabled = state.page === 0;
    find('after').disabled = state.page === pages - 1;
    for (const button of document.querySelectorAll('[data-sort]')) {
      const by = button.dataset.sort === state.sort;
      button.parentElement.setAttribute('aria-sort', by ? (state.falling ? 'descending' : 'ascending') : 'none');
    }
  }

  const again = () => { state.page = 0; show(); };
  find('find').addEventListener('submit', event => event.preventDefault());
  find('query').addEventListener('input', again);
  find('where').addEventListener('change', again);
  find('silent').addEventListener('change', again);
  find('before').addEventListener('click', () => { state.page -= 1; show(); });
  find('after').addEventListener('click', () => { state.page += 1; show(); });
  for (const button of document.querySelectorAll('[data-sort]')) {
    button.addEventListener('click', () => {
      const same = state.sort === button.dataset.sort;
      state.falling = same ? !state.falling : button.dataset.sort !== 'latent';
      state.sort = button.dataset.sort;
      again();
    });
  }
  show();
})();
