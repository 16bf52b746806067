// All pipelines, and one of them.

const STAGES = { tokenize: 'tokenise', forward: 'forward pass', replay: 'read rows', fan_out: 'distribute', deliver: 'store' };
const stageName = stage => STAGES[stage] || stage;
const ORDER = [['tokenize'], ['replay'], ['forward'], ['fan_out']];

/** What a pipeline is waiting for, in words. */
function bottleneckLine(pipeline) {
  if (pipeline.state !== 'running' || !pipeline.bottleneck) return null;
  const { stage, busy } = pipeline.bottleneck;
  if (!stage) return h('p', { class: 'bottleneck' }, 'No stage is busy: the busiest works ', percent(busy), ' of the time. Input or stores are slower than the machine.');
  return h('p', { class: 'bottleneck' }, 'Bottleneck: ', h('b', {}, stageName(stage)), ` works ${percent(busy)} of the time.`);
}

const isReplay = pipeline => pipeline.run.rows_from === 'dataset';
const rateOf = pipeline => (isReplay(pipeline) ? pipeline.rates.rows : pipeline.rates.tokens);
const rateUnit = pipeline => (isReplay(pipeline) ? 'rows/s' : 'tokens/s');
const mean = values => (values.length ? values.reduce((sum, v) => sum + v, 0) / values.length : null);
const speed = pipeline => (pipeline.state === 'running' || pipeline.state === 'draining' ? mean(rateOf(pipeline).slice(-6)) : 0);

function progress(pipeline) {
  const { units, units_total: total, remaining_seconds: left, rows_from } = pipeline.run;
  if (!total) return null;
  const share = units / total;
  const noun = rows_from === 'dataset' ? 'shards' : 'units';
  return h('div', { class: 'barline' }, bar(share, `${units} of ${total} ${noun} are done`, pipeline.state === 'done' ? 'good' : ''),
    h('div', { class: 'row' }, h('span', {}, `${whole(units)} of ${whole(total)} ${noun}`), h('span', {}, left != null && pipeline.state === 'running' ? `about ${span(left)} left` : percent(share))));
}

function reasonOf(pipeline) {
  const reason = (pipeline.control && pipeline.control.reason) || pipeline.run.stopped;
  return reason ? h('div', { class: `note ${pipeline.state}` }, reason) : null;
}

/** What can be done to a pipeline in its state. */
function actions(pipeline) {
  if (!pipeline.control || state.overview.changes === 'never') return null;
  const act = (action, label) => h('button', { type: 'button', 'data-act': 'do', 'data-do': action, 'data-name': pipeline.name, 'aria-label': `${label}: ${pipeline.name}` }, label);
  const runs = ['running', 'pending'].includes(pipeline.state);
  return h('div', { class: 'acts' },
    runs && pipeline.state === 'running' && pipeline.run.trainers.length > 0 && act('checkpoint', 'Checkpoint now'),
    runs && act('pause', 'Pause'), runs && act('stop', 'Stop'),
    ['paused', 'stopped', 'failed'].includes(pipeline.state) && act('resume', pipeline.state === 'failed' ? 'Try again' : 'Resume'));
}

function trainerTable(pipeline) {
  const cell = (name, ...content) => h('td', { 'data-name': name }, ...content);
  return h('table', { class: 'stack' },
    h('thead', {}, h('tr', {}, ['Trainer', 'Rows', 'Loss', 'FVU', 'Held-out FVU', 'L0', 'Dead', 'Mixing buffer', ''].map(name => h('th', { scope: 'col' }, name)))),
    h('tbody', {}, pipeline.run.trainers.map((t, i) => h('tr', { 'data-key': t.name },
      h('th', { scope: 'row' }, h('i', { class: `k k${i % 8}` }), t.name, t.error && h('div', { class: 'note failed wrap' }, t.error)),
      h('td', { class: 'wide', 'data-name': 'Rows' }, h('div', { class: 'barline' }, bar(t.rows / t.rows_total, `${percent(t.rows / t.rows_total)} of its rows`, t.rows >= t.rows_total ? 'good' : ''),
        h('span', { class: 'sub' }, `${si(t.rows)} of ${si(t.rows_total)}`))),
      cell('Loss', fixed(t.loss)), cell('FVU', fixed(t.fvu)), cell('Held-out FVU', fixed(t.held_out_fvu)), cell('L0', fixed(t.l0, 3)), cell('Dead', percent(t.dead_fraction)),
      h('td', { class: 'wide', 'data-name': 'Mixing buffer' }, h('div', { class: 'barline' }, bar(t.buffered / t.buffer_rows, `${percent(t.buffered / t.buffer_rows)} full`, 'calm'),
        h('span', { class: 'sub' }, `${si(t.buffered)} of ${si(t.buffer_rows)}`))),
      h('td', {}, h('a', { href: path('p', pipeline.name, 't', t.name), 'aria-label': `Features of ${t.name}` }, 'Features'))))));
}

function card(pipeline) {
  const rates = rateOf(pipeline);
  return h('article', { class: 'card', 'data-key': pipeline.name },
    h('div', { class: 'head' }, h('h2', {}, h('a', { href: path('p', pipeline.name) }, pipeline.name)), badge(pipeline.state)),
    reasonOf(pipeline), progress(pipeline),
    h('div', { class: 'two' },
      h('div', {}, h('div', { class: 'name' }, rateUnit(pipeline)), h('div', { class: 'big' }, si(speed(pipeline)))),
      sparkline(rates, `${rateUnit(pipeline)} in the last ten minutes`)),
    bottleneckLine(pipeline),
    pipeline.run.trainers.length > 0 && h('div', { class: 'scroll' }, h('table', {},
      h('thead', {}, h('tr', {}, ['Trainer', 'Rows', 'FVU', 'L0', 'Dead'].map(name => h('th', { scope: 'col' }, name)))),
      h('tbody', {}, pipeline.run.trainers.slice(0, 6).map((t, i) => h('tr', { 'data-key': t.name },
        h('th', { scope: 'row', class: 'wrap' }, h('i', { class: `k k${i % 8}` }), t.name, t.error && ' (failed)'), h('td', {}, percent(t.rows / t.rows_total)), h('td', {}, fixed(t.fvu, 3)), h('td', {}, fixed(t.l0, 3)), h('td', {}, percent(t.dead_fraction))))))),
    pipeline.run.trainers.length > 6 && h('p', { class: 'sub' }, `and ${pipeline.run.trainers.length - 6} more`),
    actions(pipeline));
}

function eventList(events, withPipeline) {
  if (!events.length) return h('p', { class: 'empty' }, 'Nothing was logged.');
  return h('ul', { class: 'events', tabindex: 0, 'aria-label': 'Events, the newest first' }, events.map(e => h('li', { class: e.level, 'data-key': e.number },
    h('time', { datetime: new Date(e.at * 1000).toISOString() }, clock(e.at)),
    h('div', { class: 'text' }, e.level !== 'info' && h('span', { class: 'level' }, e.level === 'warn' ? 'Warning' : 'Error'),
      withPipeline && e.pipeline && [h('a', { href: path('p', e.pipeline) }, e.pipeline), ' '], e.message, ' ',
      h('span', { class: 'fields' }, Object.entries(e.fields).map(([key, value]) => `${key}=${value}`).join('  '))))));
}

function eventPanel(events, withPipeline, width) {
  const bad = events.filter(e => e.level !== 'info');
  const shown = state.onlyBad ? bad : events;
  return h('section', { class: `panel ${width}`, 'aria-labelledby': 'events' }, h('div', { class: 'titled' }, h('h2', { id: 'events' }, 'Events'),
    h('div', { class: 'segments', role: 'group', 'aria-label': 'Which events' },
      h('button', { type: 'button', 'data-act': 'events-all', 'aria-pressed': String(!state.onlyBad) }, 'All'),
      h('button', { type: 'button', 'data-act': 'events-bad', 'aria-pressed': String(!!state.onlyBad) }, `Warnings and errors (${bad.length})`))),
  eventList(shown.slice(0, 120), withPipeline));
}

function overviewView() {
  const { pipelines, events } = state.overview;
  const counts = {};
  pipelines.forEach(p => { counts[p.state] = (counts[p.state] || 0) + 1; });
  return [
    h('div', { class: 'head' }, h('h1', {}, pipelines.length === 1 ? '1 pipeline' : `${pipelines.length} pipelines`),
      Object.entries(counts).map(([name, n]) => h('span', { class: 'sub' }, `${n} ${name}`))),
    pipelines.length ? h('div', { class: 'cards' }, pipelines.map(card)) : h('p', { class: 'empty' }, 'There are no pipelines yet: put a file into the folder and reload.'),
    h('div', { class: 'grid' }, eventPanel(events, true, 'w12')),
  ];
}

// --- one pipeline ---

function figures(pipeline) {
  const { run } = pipeline;
  const dropped = Object.values(run.dropped).reduce((sum, n) => sum + n, 0);
  const one = (name, value, note) => h('div', { class: 'figure' }, h('dt', {}, name), h('dd', {}, value, note && h('small', {}, note)));
  const requests = run.stores.write + run.stores.read + run.stores.list + run.stores.delete;
  return h('dl', { class: 'figures' },
    one(rateUnit(pipeline), si(speed(pipeline)), isReplay(pipeline) ? null : `${si(run.tokens)} tokens so far`),
    one('Rows kept', si(run.rows), `${si(run.documents)} documents`),
    run.shards > 0 && one('Stored', bytes(run.bytes), `${whole(run.shards)} shards`),
    one('Not kept', si(dropped), 'by reason below'),
    one('Store cost', run.stores.cost != null ? `${fixed(run.stores.cost, 3)} ${run.stores.currency}` : '–', requests ? `${si(requests)} requests, ${whole(run.stores.retries)} made again` : 'no remote store'),
    one('Time left', pipeline.state === 'running' ? span(run.remaining_seconds) : '–', `${whole(run.units)} of ${whole(run.units_total)} units`));
}

function stageBox(load, pipeline, queue) {
  const slow = pipeline.state === 'running' && pipeline.bottleneck && pipeline.bottleneck.stage === load.stage;
  const idle = Math.max(0, 1 - load.busy - load.blocked);
  return h('div', { class: `stage${slow ? ' slow' : ''}`, 'data-key': load.stage },
    slow && h('span', { class: 'flag' }, 'bottleneck'), h('h3', {}, stageName(load.stage)),
    bar(load.busy, `works ${percent(load.busy)} of the time`),
    h('p', { class: 'sub' }, load.stage === 'fan_out' ? 'hands rows on' : `works ${percent(load.busy)}, waits ${percent(load.blocked + (load.busy ? 0 : idle))}`),
    h('p', { class: 'sub' }, load.stage.startsWith('train') ? null : `${si(load.items_per_second)} batches/s, ${bytes(load.bytes_per_second)}/s`),
    queue && queue.budget > 0 && h('div', { class: 'queue', title: 'What waits in front of it' }, 'queue', bar(queue.weight / queue.budget, `queue ${percent(queue.weight / queue.budget)} full`, 'calm')));
}

function flow(pipeline) {
  const queues = new Map(pipeline.queues.map(q => [q.queue, q]));
  const loads = new Map(pipeline.stages.map(load => [load.stage, load]));
  const ends = pipeline.stages.filter(load => load.stage === 'deliver' || load.stage.startsWith('train'));
  const columns = ORDER.map(names => names.filter(name => loads.has(name)).map(name => loads.get(name))).filter(found => found.length);
  if (ends.length) columns.push(ends);
  if (!columns.length) return h('p', { class: 'empty' }, 'Stages appear when the pipeline works.');
  const arrow = () => h('div', { class: 'arrow', 'aria-hidden': 'true' }, s('svg', { viewBox: '0 0 20 14' }, s('path', { d: 'M1 7h17M12 1l6 6-6 6' })));
  return h('div', { class: 'flow' }, columns.flatMap((column, i) => [i > 0 && arrow(), h('div', { class: 'column' }, column.map(load => stageBox(load, pipeline, queues.get(load.stage))))]));
}

function throughput(pipeline) {
  const values = rateOf(pipeline), every = pipeline.rates.every_seconds;
  const points = values.map((v, i) => [((i - values.length + 1) * every) / 60, v]);
  const ago = x => (Math.abs(x) < 0.04 ? 'now' : `${trim((-x).toFixed(1))} min ago`);
  return chart('throughput', isReplay(pipeline) ? 'Rows a second' : 'Tokens a second', 'of the last half hour', [{ name: rateUnit(pipeline), colour: 0, points, under: true }],
    { show: ago, tick: x => (Math.abs(x) < 0.01 ? 'now' : `${Math.round(x * 10) / 10} min`) }, { show: v => si(v), zero: true });
}

function curveCharts(pipeline) {
  const own = pipeline.run.trainers.map((t, i) => ({ name: t.name, colour: i, curves: state.curves.get(`${pipeline.name}/${t.name}`) })).filter(t => t.curves);
  const of = key => own.map(t => ({ name: t.name, colour: t.colour, points: t.curves.steps.map(p => [p.rows, p[key]]) }));
  const held = own.map(t => ({ name: `${t.name}, held out`, colour: t.colour, dash: true, points: t.curves.held_out.map(p => [p.rows, p.fvu]) })).filter(t => t.points.length);
  const x = { show: v => `${si(v)} rows`, tick: v => si(v) }, number = { show: v => fixed(v, 3) };
  if (!own.length) return h('p', { class: 'empty' }, 'Curves appear with the first steps.');
  return [
    own.length > 1 && h('div', { class: 'legend' }, own.map(t => h('span', {}, h('i', { class: `k k${t.colour % 8}` }), t.name))),
    h('div', { class: 'charts' },
      chart('loss', 'Loss', 'logarithmic, by rows', of('loss'), x, { ...number, log: true }),
      chart('fvu', 'Fraction of variance unexplained', held.length ? 'dotted: held out' : '', [...of('fvu'), ...held], x, { ...number, log: true }),
      chart('l0', 'L0', 'active latents a row', of('l0'), x, { ...number, zero: true }),
      chart('dead', 'Dead latents', '', of('dead_fraction'), x, { show: percent, zero: true })),
    h('details', {}, h('summary', {}, 'Gradient norm, learning rate, parts of the loss'), h('div', { class: 'charts' },
      chart('grad', 'Gradient norm', 'before clipping', of('grad_norm'), x, { ...number, log: true }),
      chart('rate', 'Learning rate', '', of('learning_rate'), x, { ...number, zero: true }),
      chart('auxiliary', 'Auxiliary loss', '', of('auxiliary_loss'), x, { ...number, zero: true }),
      chart('sparsity', 'Sparsity loss', '', of('sparsity_loss'), x, { ...number, zero: true }))),
    h('details', {}, h('summary', {}, 'The last steps as a table'), h('div', { class: 'scroll' }, h('table', {},
      h('thead', {}, h('tr', {}, ['Trainer', 'Step', 'Rows', 'Loss', 'FVU', 'L0', 'Dead'].map(name => h('th', { scope: 'col' }, name)))),
      h('tbody', {}, own.flatMap(t => t.curves.steps.slice(-5).map(p => h('tr', {}, h('th', { scope: 'row' }, t.name), [whole(p.step), si(p.rows), fixed(p.loss), fixed(p.fvu), fixed(p.l0, 3), percent(p.dead_fraction)].map(v => h('td', {}, v))))))))),
  ];
}

function storePanel(pipeline) {
  const { stores } = pipeline.run;
  const rows = Object.entries(pipeline.stores).filter(([, use]) => use.sent_bytes || use.received_bytes);
  return h('section', { class: 'panel', 'aria-labelledby': 'stores' }, h('h2', { id: 'stores' }, 'Stores'),
    h('table', {}, h('thead', {}, h('tr', {}, ['Use', 'Read', 'Written', 'Retries'].map(name => h('th', { scope: 'col' }, name)))),
      h('tbody', {}, rows.map(([name, use]) => h('tr', {}, h('th', { scope: 'row' }, name), h('td', {}, bytes(use.received_bytes)), h('td', {}, bytes(use.sent_bytes)), h('td', {}, whole(use.retries)))))),
    h('p', { class: 'sub' }, stores.cost != null ? `Cost so far: ${fixed(stores.cost, 4)} ${stores.currency} (${whole(stores.write)} writes, ${whole(stores.read)} reads, ${whole(stores.list)} listings)`
      : 'Give the pipeline `prices` to see what its requests cost.'));
}

function droppedPanel(pipeline) {
  const rows = Object.entries(pipeline.run.dropped).sort((a, b) => b[1] - a[1]);
  return h('section', { class: 'panel w6', 'aria-labelledby': 'dropped' }, h('h2', { id: 'dropped' }, 'Not kept'),
    rows.length ? h('table', {}, h('tbody', {}, rows.map(([reason, n]) => h('tr', {}, h('th', { scope: 'row' }, reason.replace(/_/g, ' ')), h('td', {}, whole(n)))))) : h('p', { class: 'sub' }, 'Everything was kept.'));
}

function aboutPanel(pipeline) {
  const c = pipeline.control;
  const row = (name, value) => value != null && value !== '' && h('tr', {}, h('th', { scope: 'row' }, name), h('td', { class: 'wrap' }, value));
  return h('section', { class: 'panel w6 about', 'aria-labelledby': 'about' }, h('h2', { id: 'about' }, 'This pipeline'), h('table', {}, h('tbody', {},
    c && row('File', c.source), c && row('In this state since', new Date(c.since).toLocaleString()), c && row('Wanted', c.desired), c && row('Ready', c.ready ? 'yes' : 'no'),
    c && row('Started again after faults', whole(c.restarts)), c && row('Added trainers', c.trainers_added.join(', ')), c && row('Stopped trainers', c.trainers_stopped.join(', ')),
    !c && row('State of the run', pipeline.run.state), row('Documents', whole(pipeline.run.documents)), row('Tokens', whole(pipeline.run.tokens)))));
}

function pipelineView(pipeline) {
  const several = state.overview.pipelines.length > 1;
  const events = state.overview.events.filter(e => !e.pipeline || e.pipeline === pipeline.name);
  return [
    several && h('nav', { class: 'crumbs', 'aria-label': 'Where you are' }, h('a', { href: '#/' }, 'All pipelines'), h('span', {}, '/'), h('span', {}, pipeline.name)),
    h('div', { class: 'head' }, h('h1', {}, pipeline.name), badge(pipeline.state), actions(pipeline)),
    reasonOf(pipeline), h('div', { class: 'grid' }, h('div', { class: 'w12' }, progress(pipeline))), figures(pipeline),
    h('div', { class: 'grid' },
      h('section', { class: 'panel w8', 'aria-labelledby': 'flow' }, h('h2', { id: 'flow' }, 'Where the time goes'), bottleneckLine(pipeline), flow(pipeline)),
      h('div', { class: 'w4 stacked' }, h('section', { class: 'panel', 'aria-labelledby': 'speed' }, h('h2', { id: 'speed' }, 'Throughput'), throughput(pipeline)), storePanel(pipeline)),
      pipeline.run.trainers.length > 0 && h('section', { class: 'panel w12', 'aria-labelledby': 'trainers' }, h('h2', { id: 'trainers' }, 'Trainers'), h('div', { class: 'scroll' }, trainerTable(pipeline))),
      pipeline.run.trainers.length > 0 && h('section', { class: 'panel w12', 'aria-labelledby': 'curves' }, h('h2', { id: 'curves' }, 'Training'), curveCharts(pipeline)),
      aboutPanel(pipeline), droppedPanel(pipeline), eventPanel(events, false, 'w12')),
  ];
}
