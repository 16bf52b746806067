//! The folder that SAELens reads cached activations from: a Hugging Face `datasets` folder.
//!
//! ```text
//! data-00000-of-00002.arrow   Arrow streams; a row is a context: <site> Array2D(context, width), token_ids int32[context]
//! dataset_info.json           the features
//! state.json                  the data files, written last: a folder that has it is whole
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float16Array, Float32Array, Int32Array, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use half::f16;
use serde_json::{Value, json};

use crate::dataset::config::StoredDtype;
use crate::error::{Error, ErrorKind, Result};
use crate::replay::{Reader, Source, StoredSite};
use crate::store::upload::{Upload, UploadOptions};
use crate::store::{Location, objects};

/// Bytes of values in a data file, about.
const FILE_BYTES: u64 = 512 << 20;
/// Bytes of values in a record batch, about.
const BATCH_BYTES: usize = 4 << 20;

/// How rows are laid out.
#[derive(Clone, Copy, Debug)]
pub struct CacheOptions {
    /// Rows in a context: `context_size` of the SAELens run.
    pub context_length: u32,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Exported {
    /// Contexts.
    pub contexts: u64,
    /// Rows in them.
    pub rows: u64,
    /// Rows at the end that do not fill a context.
    pub rows_left_over: u64,
    /// Data files.
    pub files: u64,
}

/// Write the first site of `source` to `folder`, rows end to end in the order in which they lie.
///
/// # Errors
/// `Config` if the folder holds data already, or a context is longer than all rows; `Data` if the source is damaged or the
/// site's column group is behind. Nothing is written where the first context cannot be.
pub async fn write(source: Source, folder: &Location, options: CacheOptions) -> Result<Exported> {
    let site = source.sites().first().cloned().ok_or_else(|| Error::internal("no site is read"))?;
    source.check_whole()?;
    if options.context_length == 0 || u64::from(options.context_length) > source.rows() {
        let (context, rows) = (options.context_length, source.rows());
        let problem = format!("contexts of {context} rows cannot be made of {rows}: give another --context-length");
        return Err(Error::config(problem));
    }
    let state = folder.child("state.json");
    if objects::read(&state).await?.is_some() {
        return Err(Error::config(format!("`{}` holds a dataset already: give another folder", folder.shown)));
    }
    let context = u64::from(options.context_length);
    let layout = Layout::new(&site, options.context_length);
    let contexts = source.rows() / context;
    let per_file = (FILE_BYTES / layout.context_bytes().max(1)).max(1);
    let files = contexts.div_ceil(per_file).max(1);
    let exported =
        Exported { contexts, rows: contexts * context, rows_left_over: source.rows() - contexts * context, files };
    let fingerprint = source.snapshot()[..16].to_owned();
    let mut rows = Rows { reader: Reader::as_stored(source, 4096)?, values: Vec::new(), token_ids: Vec::new() };
    let mut names = Vec::new();
    for file in 0..files {
        let name = format!("data-{file:05}-of-{files:05}.arrow");
        let n = per_file.min(contexts - file * per_file);
        let mut upload = Upload::new(folder.child(&name), UploadOptions::default());
        match layout.write_file(&mut upload, &mut rows, n).await {
            Ok(()) => upload.finish().await?,
            Err(error) => {
                upload.abort().await;
                return Err(error);
            }
        }
        names.push(json!({"filename": name}));
    }
    let info = json!({"citation": "", "description": "", "features": layout.features(), "homepage": "", "license": ""});
    objects::replace(&folder.child("dataset_info.json"), pretty(&info)?.into()).await?;
    let whole = json!({
        "_data_files": names, "_fingerprint": fingerprint, "_format_columns": null, "_format_kwargs": {},
        "_format_type": null, "_output_all_columns": false, "_split": null,
    });
    objects::replace(&state, pretty(&whole)?.into()).await?;
    Ok(exported)
}

fn pretty(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|e| Error::internal(e.to_string()))
}

/// Rows that were read and not written.
struct Rows {
    reader: Reader,
    values: Vec<f32>,
    token_ids: Vec<u32>,
}

impl Rows {
    /// Exactly `n` rows: values and token ids.
    async fn take(&mut self, n: usize, width: usize) -> Result<(Vec<f32>, Vec<u32>)> {
        while self.token_ids.len() < n {
            let Some(mut batch) = self.reader.next().await? else {
                return Err(Error::data("the dataset has fewer rows than its commits say"));
            };
            self.token_ids.append(&mut batch.token_id);
            let site = batch.sites.first_mut().ok_or_else(|| Error::internal("a batch without sites"))?;
            self.values.append(&mut site.data);
        }
        let values = self.values.split_off(n * width);
        let token_ids = self.token_ids.split_off(n);
        Ok((std::mem::replace(&mut self.values, values), std::mem::replace(&mut self.token_ids, token_ids)))
    }
}

/// The columns.
struct Layout {
    name: String,
    width: usize,
    context: u32,
    /// As half precision; bfloat16 and f32 are written as f32.
    half: bool,
    schema: Arc<Schema>,
    /// Of a context's vectors, and of their numbers.
    fields: [Arc<Field>; 2],
}

impl Layout {
    fn new(site: &StoredSite, context: u32) -> Self {
        let half = site.header.dtype == StoredDtype::Float16;
        let number = if half { DataType::Float16 } else { DataType::Float32 };
        let number = Arc::new(Field::new("item", number, true));
        let vector = Arc::new(Field::new("item", DataType::List(Arc::clone(&number)), true));
        let mut layout = Self {
            name: site.header.name.clone(),
            width: site.width,
            context,
            half,
            schema: Arc::new(Schema::empty()),
            fields: [Arc::clone(&vector), number],
        };
        let shape = json!([[context, site.width], layout.dtype()]).to_string();
        // how `datasets` marks its own type
        let extension = HashMap::from([
            ("ARROW:extension:name".to_owned(), "datasets.features.features.Array2DExtensionType".to_owned()),
            ("ARROW:extension:metadata".to_owned(), shape),
        ]);
        let ids = Arc::new(Field::new("item", DataType::Int32, true));
        let fields = vec![
            Field::new(&layout.name, DataType::List(vector), true).with_metadata(extension),
            Field::new("token_ids", DataType::FixedSizeList(ids, context as i32), true),
        ];
        let features = json!({"info": {"features": layout.features()}}).to_string();
        let metadata = HashMap::from([("huggingface".to_owned(), features)]);
        layout.schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        layout
    }

    fn dtype(&self) -> &'static str {
        if self.half { "float16" } else { "float32" }
    }

    fn features(&self) -> Value {
        let mut features = serde_json::Map::new();
        let values = json!({"shape": [self.context, self.width], "dtype": self.dtype(), "_type": "Array2D"});
        features.insert(self.name.clone(), values);
        let ids = json!({"feature": {"dtype": "int32", "_type": "Value"}, "length": self.context, "_type": "List"});
        features.insert("token_ids".to_owned(), ids);
        Value::Object(features)
    }

    fn context_bytes(&self) -> u64 {
        u64::from(self.context) * self.width as u64 * if self.half { 2 } else { 4 }
    }

    /// An Arrow stream of `contexts` contexts.
    async fn write_file(&self, upload: &mut Upload, rows: &mut Rows, contexts: u64) -> Result<()> {
        let mut writer = StreamWriter::try_new(Vec::new(), &self.schema).map_err(|e| encode_error(&e))?;
        let at_a_time = (BATCH_BYTES as u64 / self.context_bytes().max(1)).max(1);
        let mut left = contexts;
        while left > 0 {
            let n = left.min(at_a_time) as usize;
            let (values, token_ids) = rows.take(n * self.context as usize, self.width).await?;
            let batch = self.batch(n, values, token_ids).map_err(|e| encode_error(&e))?;
            writer.write(&batch).map_err(|e| encode_error(&e))?;
            upload.write(std::mem::take(writer.get_mut()).into()).await?;
            left -= n as u64;
        }
        writer.finish().map_err(|e| encode_error(&e))?;
        upload.write(std::mem::take(writer.get_mut()).into()).await
    }

    fn batch(&self, n: usize, values: Vec<f32>, ids: Vec<u32>) -> Result<RecordBatch, arrow::error::ArrowError> {
        let [vector, number] = &self.fields;
        let context = self.context as usize;
        let numbers: ArrayRef = match self.half {
            true => Arc::new(values.iter().map(|&x| Some(f16::from_f32(x))).collect::<Float16Array>()),
            false => Arc::new(Float32Array::from(values)),
        };
        let lengths = std::iter::repeat_n(self.width, n * context);
        let vectors = ListArray::try_new(Arc::clone(number), OffsetBuffer::from_lengths(lengths), numbers, None)?;
        let lengths = std::iter::repeat_n(context, n);
        let contexts =
            ListArray::try_new(Arc::clone(vector), OffsetBuffer::from_lengths(lengths), Arc::new(vectors), None)?;
        // token ids are below 2^31 in every tokenizer
        let ids = Int32Array::from(ids.into_iter().map(u32::cast_signed).collect::<Vec<i32>>());
        let item = Arc::new(Field::new("item", DataType::Int32, true));
        let ids = FixedSizeListArray::try_new(item, context as i32, Arc::new(ids), None)?;
        RecordBatch::try_new(Arc::clone(&self.schema), vec![Arc::new(contexts), Arc::new(ids)])
    }
}

fn encode_error(error: &arrow::error::ArrowError) -> Error {
    Error::new(ErrorKind::Internal, format!("cannot encode an Arrow stream: {error}"))
}
