//! Features of a coder as Parquet: `features.parquet` has a row a latent, `examples.parquet` a row a context. The columns are
//! described in `docs/features.md`.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Builder, ListBuilder, RecordBatch, StringBuilder, UInt32Builder, UInt64Builder};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::error::{Error, ErrorKind, Result};
use crate::features::{Context, Feature, Features};
use crate::tokens::Pieces;

/// Latents of a row group.
const LATENTS: usize = 512;
/// Bins a power of two of the histograms.
const PER_OCTAVE: u32 = 4;
/// The quantiles that are written.
pub const QUANTILES: [(&str, f64); 7] =
    [("p1", 0.01), ("p10", 0.1), ("p25", 0.25), ("p50", 0.5), ("p75", 0.75), ("p90", 0.9), ("p99", 0.99)];

/// Columns under construction, in the order in which they were named first.
#[derive(Default)]
struct Columns {
    fields: Vec<(String, Column)>,
    next: usize,
}

enum Column {
    U32(UInt32Builder),
    U64(UInt64Builder),
    F32(Float32Builder),
    Text(StringBuilder),
    U32s(ListBuilder<UInt32Builder>),
    U64s(ListBuilder<UInt64Builder>),
    F32s(ListBuilder<Float32Builder>),
    Texts(ListBuilder<StringBuilder>),
}

/// A method for each kind of column; every row names the same columns in the same order.
macro_rules! put {
    ($name:ident, $variant:ident, $builder:ty, $value:ty) => {
        fn $name(&mut self, name: &str, value: $value) {
            if let Column::$variant(builder) = self.column(name, || Column::$variant(<$builder>::default())) {
                builder.append_value(value);
            }
        }
    };
    ($name:ident, $variant:ident, $builder:ty, optional $value:ty) => {
        fn $name(&mut self, name: &str, value: Option<$value>) {
            if let Column::$variant(builder) = self.column(name, || Column::$variant(<$builder>::default())) {
                builder.append_option(value);
            }
        }
    };
    ($name:ident, $variant:ident, $builder:ty, list $value:ty) => {
        fn $name(&mut self, name: &str, values: impl IntoIterator<Item = $value>) {
            if let Column::$variant(builder) = self.column(name, || Column::$variant(<$builder>::default())) {
                values.into_iter().for_each(|value| builder.values().append_value(value));
                builder.append(true);
            }
        }
    };
}

impl Columns {
    fn column(&mut self, name: &str, new: impl FnOnce() -> Column) -> &mut Column {
        let at = self.next;
        if at == self.fields.len() {
            self.fields.push((name.to_owned(), new()));
        }
        self.next += 1;
        debug_assert_eq!(self.fields[at].0, name, "rows name their columns in one order");
        &mut self.fields[at].1
    }

    fn end_row(&mut self) {
        self.next = 0;
    }

    put!(u32, U32, UInt32Builder, u32);
    put!(u64, U64, UInt64Builder, u64);
    put!(f32, F32, Float32Builder, optional f32);
    put!(text, Text, StringBuilder, &str);
    put!(u32s, U32s, ListBuilder<UInt32Builder>, list u32);
    put!(u64s, U64s, ListBuilder<UInt64Builder>, list u64);
    put!(f32s, F32s, ListBuilder<Float32Builder>, list f32);
    put!(texts, Texts, ListBuilder<StringBuilder>, list String);

    /// The rows so far.
    fn take(&mut self) -> Result<RecordBatch> {
        let (mut fields, mut arrays) = (Vec::new(), Vec::<ArrayRef>::new());
        for (name, column) in &mut self.fields {
            let array: ArrayRef = match column {
                Column::U32(builder) => Arc::new(builder.finish()),
                Column::U64(builder) => Arc::new(builder.finish()),
                Column::F32(builder) => Arc::new(builder.finish()),
                Column::Text(builder) => Arc::new(builder.finish()),
                Column::U32s(builder) => Arc::new(builder.finish()),
                Column::U64s(builder) => Arc::new(builder.finish()),
                Column::F32s(builder) => Arc::new(builder.finish()),
                Column::Texts(builder) => Arc::new(builder.finish()),
            };
            let nullable = matches!(array.data_type(), DataType::Float32);
            fields.push(Field::new(name.as_str(), array.data_type().clone(), nullable));
            arrays.push(array);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|e| encode(&e))
    }
}

fn encode(e: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Internal, format!("encode features as parquet: {e}"))
}

/// `features.parquet`: a row a latent.
///
/// # Errors
/// `Internal` only.
pub fn latents(features: &Features, pieces: &Pieces) -> Result<Vec<u8>> {
    file(features, |feature, columns| {
        latent(feature, pieces, columns);
        columns.end_row();
    })
}

/// `examples.parquet`: a row a context, those of a latent together.
///
/// # Errors
/// `Internal` only.
pub fn examples(features: &Features, pieces: &Pieces) -> Result<Vec<u8>> {
    file(features, |feature, columns| {
        for (rank, context) in feature.top.iter().enumerate() {
            example(feature.latent, ("top", rank as u32, 0), context, pieces, columns);
        }
        for (rank, (stratum, context)) in feature.sampled.iter().enumerate() {
            example(feature.latent, ("sampled", rank as u32, *stratum), context, pieces, columns);
        }
    })
}

fn file(features: &Features, mut add: impl FnMut(&Feature<'_>, &mut Columns)) -> Result<Vec<u8>> {
    let level = ZstdLevel::try_new(3).map_err(|e| encode(&e))?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    let (mut columns, mut writer) = (Columns::default(), None);
    for first in (0..features.len()).step_by(LATENTS) {
        let last = (first + LATENTS).min(features.len());
        (first..last).for_each(|latent| add(&features.feature(latent), &mut columns));
        // latents that never fired have no examples, and before the first example there are no columns
        if columns.fields.is_empty() {
            continue;
        }
        let batch = columns.take()?;
        let writer = match &mut writer {
            Some(writer) => writer,
            none => {
                let new = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.clone()));
                none.insert(new.map_err(|e| encode(&e))?)
            }
        };
        writer.write(&batch).and_then(|()| writer.flush()).map_err(|e| encode(&e))?;
    }
    match writer {
        Some(writer) => writer.into_inner().map_err(|e| encode(&e)),
        None => Err(Error::data("no latent fired: there are no examples")),
    }
}

fn latent(feature: &Feature<'_>, pieces: &Pieces, columns: &mut Columns) {
    let sizes = feature.sizes;
    let fired = |x: f32| (sizes.n() > 0).then_some(x);
    columns.u32("latent", feature.latent);
    columns.u64("rows", sizes.n());
    columns.f32("density", Some(feature.density as f32));
    columns.f32("mean", fired(sizes.mean() as f32));
    columns.f32("min", fired(sizes.min()));
    for (name, q) in QUANTILES {
        columns.f32(name, fired(sizes.quantile(q)));
    }
    columns.f32("max", fired(sizes.max()));
    let (edges, counts) = sizes.histogram(PER_OCTAVE);
    columns.f32s("histogram_edges", edges);
    columns.u64s("histogram_counts", counts);
    columns.u64("sequences", feature.sequences);
    columns.u64("peaks", feature.peaks);
    columns.f32("decoder_norm", feature.decoder_norm);
    for (what, tokens) in [
        ("promoted", feature.effects.map(|effects| &effects.promoted[..])),
        ("suppressed", feature.effects.map(|effects| &effects.suppressed[..])),
    ] {
        let tokens = tokens.unwrap_or_default();
        columns.u32s(&format!("{what}_ids"), tokens.iter().map(|(id, _)| *id));
        columns.texts(&format!("{what}_tokens"), tokens.iter().map(|(id, _)| pieces.shown(*id)));
        columns.f32s(&format!("{what}_logits"), tokens.iter().map(|(_, logit)| *logit));
    }
    columns.f32("input_score", feature.input_score().map(|score| score as f32));
    for (what, near) in [("decoder", feature.near_decoder), ("encoder", feature.near_encoder)] {
        columns.u32s(&format!("{what}_nearest"), near.iter().map(|near| near.latent));
        columns.f32s(&format!("{what}_cosines"), near.iter().map(|near| near.cosine));
    }
    columns.u32s("coactive", feature.coactive.iter().map(|other| other.latent));
    columns.u32s("coactive_rows", feature.coactive.iter().map(|other| other.rows));
    columns.f32s("coactive_jaccard", feature.coactive.iter().map(|other| other.jaccard));
}

fn example(
    latent: u32,
    (kind, rank, stratum): (&str, u32, u32),
    context: &Context,
    pieces: &Pieces,
    columns: &mut Columns,
) {
    columns.u32("latent", latent);
    columns.text("kind", kind);
    columns.u32("rank", rank);
    columns.u32("stratum", stratum);
    columns.f32("activation", Some(context.activation));
    columns.u64("document", context.place.document);
    columns.u32("unit", context.place.unit);
    columns.u32("sequence", context.place.sequence);
    columns.u32("position", context.place.position);
    columns.u32("peak", context.peak);
    columns.u32s("ids", context.ids.iter().copied());
    columns.texts("tokens", context.ids.iter().map(|id| pieces.shown(*id)));
    columns.f32s("activations", context.activations.iter().copied());
    columns.text("text", &pieces.text(&context.ids));
    columns.end_row();
}
