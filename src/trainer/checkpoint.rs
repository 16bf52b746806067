//! A trainer's whole state as files of bytes.
//!
//! ```text
//! state.json           settings, counters, source cursor, dropped rows, random streams, last report, history
//! tensors.safetensors  parameters (`w_enc`, ...), what the optimiser remembers (`adam.m.w_enc`, ...), an average of the
//!                      parameters if there is one (`average.w_enc`, ...), `silent_tokens`, rows of the data that a decoder is
//!                      made of (`points`); once training has begun
//! buffer.safetensors   the mixing buffer: `rows` [n, width], `doc_ids` [n], `draws` [n]
//! ```
//!
//! A trainer that is restored from them and given the rest of the stream ends in the same bytes as one that was never
//! interrupted.

use std::borrow::Cow;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, View};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::accounting::DropCounts;
use crate::compute::CoderOps;
use crate::corpus::cursor::SourceCursor;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hooks::{HookPoint, SiteWidth};
use crate::runtime::rng::{Rng, RngState, Seed};
use crate::sae::dead::DeadTracker;
use crate::sae::export::f32_tensor;
use crate::sae::optim::{Average, Optimizer};
use crate::sae::params::PerParam;
use crate::sae::state::CoderState;
use crate::sae::{Coder, CoderSettings};
use crate::trainer::config::TrainerConfig;
use crate::trainer::history::History;
use crate::trainer::mixing_buffer::MixingBuffer;
use crate::trainer::step::{Counters, Training};
use crate::trainer::{StepReport, TrainerSettings};

const FORMAT: u32 = 1;
const STATE: &str = "state.json";
const TENSORS: &str = "tensors.safetensors";
const BUFFER: &str = "buffer.safetensors";
/// Keys of the trainer's section that a resumed run may change.
const FREE_KEYS: [&str; 4] = ["rows", "checkpoint", "when_slow", "evaluate_every_rows"];

/// `state.json`.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    pub(super) format: u32,
    pub(super) settings: Value,
    pub(super) cursor: SourceCursor,
    pub(super) dropped: DropCounts,
    pub(super) report: StepReport,
    pub(super) buffer_rng: RngState,
    pub(super) training: Option<TrainingState>,
    #[serde(default, skip_serializing_if = "History::is_empty")]
    pub(super) history: History,
}

/// The scalars of [`Training`].
#[derive(Serialize, Deserialize)]
pub(super) struct TrainingState {
    /// Of each site.
    scales: Vec<f64>,
    adam_updates: u64,
    counters: Counters,
    #[serde(default, skip_serializing_if = "CoderState::is_empty")]
    coder: CoderState,
    #[serde(default, skip_serializing_if = "is_zero")]
    optimizer_weight: f64,
}

fn is_zero(x: &f64) -> bool {
    *x == 0.0
}

impl TrainingState {
    pub(super) fn of<B: CoderOps>(training: &Training<B>) -> Self {
        let coder = training.coder.state.clone();
        Self {
            scales: training.site_scales.clone(),
            adam_updates: training.optimizer.updates(),
            counters: training.counters,
            coder,
            optimizer_weight: training.optimizer.weight(),
        }
    }
}

/// What a checkpoint was made with, and must be restored with.
pub(super) fn settings_value(settings: &TrainerSettings) -> Result<Value> {
    let config = serde_json::to_value(&settings.config).or_kind(ErrorKind::Internal, || "write settings".to_owned())?;
    Ok(serde_json::json!({
        "sites": settings.sites.iter().map(|(point, width)| (point.to_string(), width)).collect::<Vec<_>>(),
        "seed": settings.seed.0,
        "trainer": config,
        "stream": settings.stream,
    }))
}

/// The report of a checkpoint.
pub(super) fn saved_report(files: &[(String, Vec<u8>)]) -> Result<StepReport> {
    let state: State =
        serde_json::from_slice(find(files, STATE)?).or_kind(ErrorKind::Data, || format!("read {STATE}"))?;
    Ok(state.report)
}

/// The settings that a checkpoint was made with: what [`settings_value`] wrote.
pub(super) fn saved_settings(files: &[(String, Vec<u8>)]) -> Result<TrainerSettings> {
    #[derive(Deserialize)]
    struct Saved {
        sites: Vec<(String, usize)>,
        seed: u64,
        trainer: TrainerConfig,
        stream: Value,
    }
    let state: State =
        serde_json::from_slice(find(files, STATE)?).or_kind(ErrorKind::Data, || format!("read {STATE}"))?;
    let saved: Saved =
        serde_json::from_value(state.settings).or_kind(ErrorKind::Data, || format!("read the settings of {STATE}"))?;
    let site = |(name, width): &(String, usize)| {
        let point = HookPoint::stored(name);
        Ok((point.or_kind(ErrorKind::Data, || format!("{STATE}: `{name}` is not a site"))?, *width))
    };
    let sites = saved.sites.iter().map(site).collect::<Result<Vec<_>>>()?;
    if sites.is_empty() {
        return Err(Error::data(format!("{STATE}: the trainer has no site")));
    }
    let (config, stream) = (saved.trainer, saved.stream);
    Ok(TrainerSettings { config, sites, seed: Seed(saved.seed), stream })
}

/// The files of a checkpoint, without its buffer.
pub(super) fn write<B: CoderOps>(
    backend: &B,
    state: &State,
    training: Option<&Training<B>>,
) -> Result<Vec<(String, Vec<u8>)>> {
    let json = serde_json::to_vec_pretty(state).or_kind(ErrorKind::Internal, || format!("write {STATE}"))?;
    let mut files = vec![(STATE.to_owned(), json)];
    if let Some(training) = training {
        files.push((TENSORS.to_owned(), tensors(backend, training)?));
    }
    Ok(files)
}

/// The file of a buffer of rows of `width` values.
pub(super) fn write_buffer(buffer: &MixingBuffer, width: usize) -> Result<(String, Vec<u8>)> {
    let n = buffer.len();
    let part = |name: &str, dtype, shape, write| Part { name: name.to_owned(), dtype, shape, write };
    let rows: Write<'_> = Box::new(|out| buffer.iter().for_each(|(row, ..)| extend_f32(out, row)));
    let doc_ids: Write<'_> = Box::new(|out| buffer.iter().for_each(|(_, id, _)| out.extend(id.to_le_bytes())));
    let draws: Write<'_> = Box::new(|out| out.extend(buffer.iter().map(|(.., draws)| draws)));
    let parts = vec![
        part("rows", Dtype::F32, vec![n, width], rows),
        part("doc_ids", Dtype::U64, vec![n], doc_ids),
        part("draws", Dtype::U8, vec![n], draws),
    ];
    Ok((BUFFER.to_owned(), file(BUFFER, parts)?))
}

fn tensors<B: CoderOps>(backend: &B, training: &Training<B>) -> Result<Vec<u8>> {
    let settings = training.coder.settings();
    let shapes = settings.params();
    let mut groups = vec![("", &training.coder.params)];
    groups.extend(training.optimizer.groups());
    groups.extend(training.average.as_ref().map(|average| ("average.", &average.params)));
    let mut parts = Vec::new();
    for (prefix, group) in groups {
        for (tensor, (name, shape)) in group.each().into_iter().zip(&shapes) {
            let len = shape.iter().product();
            if len == 0 {
                continue; // a parameter that this coder does not have
            }
            let write: Write<'_> = Box::new(move |out| {
                let mut values = vec![0f32; len];
                backend.read(tensor, 0, &mut values);
                extend_f32(out, &values);
            });
            parts.push(Part { name: format!("{prefix}{name}"), dtype: Dtype::F32, shape: shape.clone(), write });
        }
    }
    let (points, out) = (settings.points(), settings.dims.out);
    if points > 0 {
        let write: Write<'_> = Box::new(move |to| {
            let mut values = vec![0f32; points * out];
            backend.read(&training.coder.points, 0, &mut values);
            extend_f32(to, &values);
        });
        parts.push(Part { name: "points".to_owned(), dtype: Dtype::F32, shape: vec![points, out], write });
    }
    let silent = training.dead.silent_tokens();
    let write: Write<'_> = Box::new(|out| out.extend(silent.iter().flat_map(|tokens| tokens.to_le_bytes())));
    parts.push(Part { name: "silent_tokens".to_owned(), dtype: Dtype::U64, shape: vec![silent.len()], write });
    file(TENSORS, parts)
}

fn extend_f32(out: &mut Vec<u8>, values: &[f32]) {
    out.extend(values.iter().flat_map(|x| x.to_le_bytes()));
}

/// Appends a tensor's bytes.
type Write<'a> = Box<dyn Fn(&mut Vec<u8>) + 'a>;

/// A tensor that is written straight into its file: the mixing buffer may be large, and is not held a third time.
struct Part<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    write: Write<'a>,
}

/// The file `name` of `parts`.
fn file(name: &str, mut parts: Vec<Part<'_>>) -> Result<Vec<u8>> {
    // as the format wants them: by size of their numbers, then by name
    parts.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    let views = parts.iter().map(|part| (part.name.as_str(), part));
    // the header, and room for everything; the views have no data
    let mut bytes = safetensors::serialize(views, None).or_kind(ErrorKind::Internal, || format!("write {name}"))?;
    parts.iter().for_each(|part| (part.write)(&mut bytes));
    Ok(bytes)
}

impl View for &Part<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&[])
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// `state.json`, if it is of this format and was made with the same settings.
pub(super) fn read_state(files: &[(String, Vec<u8>)], settings: &TrainerSettings) -> Result<State> {
    let state: State =
        serde_json::from_slice(find(files, STATE)?).or_kind(ErrorKind::Data, || format!("read {STATE}"))?;
    if state.format != FORMAT {
        return Err(Error::data(format!("{STATE} is of format {}: this version reads {FORMAT}", state.format)));
    }
    match first_difference("", &state.settings, &settings_value(settings)?) {
        None => Ok(state),
        Some(Difference { key, saved, now }) => Err(Error::config(format!(
            "the checkpoint was made with `{key}` = {saved}, now it is {now}: restore the value, or use another \
             `checkpoint.url`"
        ))),
    }
}

pub(super) fn new_state(
    settings: &TrainerSettings,
    (cursor, dropped, report, history): (&SourceCursor, &DropCounts, &StepReport, &History),
    buffer: &MixingBuffer,
    training: Option<TrainingState>,
) -> Result<State> {
    Ok(State {
        format: FORMAT,
        settings: settings_value(settings)?,
        cursor: cursor.clone(),
        dropped: dropped.clone(),
        report: report.clone(),
        history: history.clone(),
        buffer_rng: buffer.rng().state(),
        training,
    })
}

/// The mixing buffer, with its random stream.
pub(super) fn read_buffer(
    files: &[(String, Vec<u8>)],
    rng: &RngState,
    (width, capacity, reuse): (usize, usize, u8),
) -> Result<MixingBuffer> {
    let broken = || Error::data(format!("{BUFFER} does not fit the trainer's settings"));
    let rng = Rng::from_state(rng).ok_or_else(|| Error::data(format!("{STATE}: the random stream has no position")))?;
    let tensors =
        SafeTensors::deserialize(find(files, BUFFER)?).or_kind(ErrorKind::Data, || format!("read {BUFFER}"))?;
    let doc_ids = u64_tensor(&tensors, "doc_ids")?;
    let draws = tensors.tensor("draws").or_kind(ErrorKind::Data, || format!("read {BUFFER}"))?;
    let rows = f32_tensor(&tensors, "rows", &[doc_ids.len(), width])?;
    let mut buffer = MixingBuffer::new(width, capacity, reuse, rng);
    buffer.refill(&rows, &doc_ids, draws.data()).ok_or_else(broken)?;
    Ok(buffer)
}

/// Parameters, moments and counters.
pub(super) fn read_training<B: CoderOps>(
    backend: &B,
    files: &[(String, Vec<u8>)],
    state: &TrainingState,
    settings: &CoderSettings,
    (config, sites, batch_rows): (&TrainerConfig, &[SiteWidth], usize),
) -> Result<Training<B>> {
    let (dims, optimizer) = (settings.dims, &config.optimizer);
    if state.scales.len() != sites.len() {
        return Err(Error::data(format!("{STATE} has {} scales for {} sites", state.scales.len(), sites.len())));
    }
    let tensors =
        SafeTensors::deserialize(find(files, TENSORS)?).or_kind(ErrorKind::Data, || format!("read {TENSORS}"))?;
    let params = read_group(backend, &tensors, "", settings)?;
    let mut average = optimizer.average().map(|decay| Average::new(backend, settings, decay));
    if let Some(average) = &mut average {
        average.params = read_group(backend, &tensors, "average.", settings)?;
    }
    let mut optimizer = Optimizer::new(backend, settings, optimizer);
    for (prefix, group) in optimizer.groups_mut() {
        *group = read_group(backend, &tensors, prefix, settings)?;
    }
    optimizer.restore(state.adam_updates, state.optimizer_weight);
    let silent = u64_tensor(&tensors, "silent_tokens")?;
    if silent.len() != dims.f {
        return Err(Error::data(format!("tensor `silent_tokens` has {} values: expected {}", silent.len(), dims.f)));
    }
    let mut coder = Coder::new(backend, settings.clone(), params, batch_rows);
    coder.state = state.coder.clone();
    if settings.points() > 0 {
        coder.points = backend.upload(&f32_tensor(&tensors, "points", &[settings.points(), dims.out])?);
    }
    Ok(Training {
        scales: config.target.scales(sites, &state.scales),
        site_scales: state.scales.clone(),
        coder,
        optimizer,
        average,
        dead: DeadTracker::restore(silent, settings.dead_after),
        counters: state.counters,
        x: backend.zeros(batch_rows * dims.groups * dims.d),
        y: backend.zeros(if settings.target.is_input { 0 } else { batch_rows * dims.out }),
    })
}

fn read_group<B: CoderOps>(
    backend: &B,
    tensors: &SafeTensors<'_>,
    prefix: &str,
    settings: &CoderSettings,
) -> Result<PerParam<B::Tensor>> {
    let shapes = settings.params();
    PerParam::build(&settings.extra_params(), |i| {
        let (name, shape) = &shapes[i];
        if shape.contains(&0) {
            return Ok(backend.zeros(0));
        }
        Ok(backend.upload(&f32_tensor(tensors, &format!("{prefix}{name}"), shape)?))
    })
}

fn u64_tensor(tensors: &SafeTensors<'_>, name: &str) -> Result<Vec<u64>> {
    let view = tensors.tensor(name).or_kind(ErrorKind::Data, || format!("read tensor `{name}`"))?;
    if view.dtype() != Dtype::U64 {
        return Err(Error::data(format!("tensor `{name}` is {:?}: expected U64", view.dtype())));
    }
    let bytes = view.data().chunks_exact(8);
    Ok(bytes.map(|b| u64::from_le_bytes(b.try_into().expect("chunks of eight bytes"))).collect())
}

fn find<'a>(files: &'a [(String, Vec<u8>)], name: &str) -> Result<&'a [u8]> {
    let file = files.iter().find(|(n, _)| n == name);
    file.map(|(_, bytes)| bytes.as_slice()).ok_or_else(|| Error::data(format!("the checkpoint has no {name}")))
}

struct Difference {
    key: String,
    saved: Value,
    now: Value,
}

/// The first key whose values differ, free keys apart.
fn first_difference(path: &str, saved: &Value, now: &Value) -> Option<Difference> {
    let (Value::Object(a), Value::Object(b)) = (saved, now) else {
        let differ = saved != now;
        return differ.then(|| Difference { key: path.to_owned(), saved: saved.clone(), now: now.clone() });
    };
    let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
    let keys = keys.filter(|key| path != "trainer" || !FREE_KEYS.contains(&key.as_str()));
    keys.filter_map(|key| {
        let value = |object: &serde_json::Map<String, Value>| object.get(key).cloned().unwrap_or(Value::Null);
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        first_difference(&path, &value(a), &value(b))
    })
    .next()
}
