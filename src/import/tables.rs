//! Columns of Parquet and Arrow files: fixed-size lists, lists of equal length, fixed-size binary.

use std::collections::VecDeque;

use arrow::array::{Array as _, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, UInt32Type, UInt64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

use crate::dataset::config::StoredDtype;
use crate::error::{Error, Result};
use crate::import::arrow_file::ArrowFile;
use crate::import::dense::{Number, WIDTH_MAX};
use crate::import::ranges::Chunks;
use crate::import::{CHUNK_BYTES, Chunk, ImportOptions, Place, Sequences, plausible};

/// Rows that are decoded at a time, at most; fewer where they are wide.
const BATCH_ROWS_MAX: usize = 1024;
/// Names under which ids are usually kept, beside those of the options: token, document, position.
const USUAL: [&[&str]; 3] = [&["token_id", "token_ids", "input_ids"], &["doc_id", "doc_ids"], &["pos", "position"]];

/// Batches of a file, in order.
type Batches = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

/// A table with a column of values; each row is a sequence.
pub(super) struct Table {
    batches: Batches,
    values: usize,
    number: Number,
    width: usize,
    /// Columns of token ids, documents, positions.
    ids: [Option<usize>; 3],
    /// Decoded rows that were not taken.
    ready: VecDeque<RecordBatch>,
    skip: usize,
}

/// The values of a Parquet file.
pub(super) fn parquet(file: Place, options: &ImportOptions) -> Result<Table> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(Chunks(file)).map_err(|e| damaged(&e))?;
    let schema = builder.schema().clone();
    let columns = Columns::of(&schema, options)?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), columns.all());
    let rows = batch_rows(builder.metadata(), &schema, &columns);
    let reader = builder.with_projection(mask).with_batch_size(rows).build().map_err(|e| damaged(&e))?;
    columns.table(Box::new(reader.map(|batch| batch.map_err(|e| damaged(&e)))), options)
}

/// Rows whose values take about [`CHUNK_BYTES`] as f32.
fn batch_rows(metadata: &ParquetMetaData, schema: &Schema, columns: &Columns) -> usize {
    let field = schema.field(columns.values);
    let width = match field.data_type() {
        DataType::FixedSizeBinary(bytes) => u64::try_from(*bytes).unwrap_or(0),
        _ => {
            let of_values = |leaf: &&ColumnChunkMetaData| leaf.column_path().parts().first() == Some(field.name());
            let widths = metadata.row_groups().iter().flat_map(|group| {
                let rows = u64::try_from(group.num_rows()).unwrap_or(0).max(1);
                let leaves = group.columns().iter().filter(of_values);
                leaves.map(move |leaf| u64::try_from(leaf.num_values()).unwrap_or(0).div_ceil(rows))
            });
            widths.max().unwrap_or(0)
        }
    };
    let rows = CHUNK_BYTES as u64 / width.saturating_mul(4).max(1);
    (rows as usize).clamp(1, BATCH_ROWS_MAX)
}

/// The values of an Arrow file (`.arrow`, Feather 2).
pub(super) fn arrow(file: ArrowFile, options: &ImportOptions) -> Result<Table> {
    let columns = Columns::of(file.schema(), options)?;
    let batches = file.batches(columns.all());
    columns.table(Box::new(batches), options)
}

/// Which columns of a file are read.
struct Columns {
    values: usize,
    ids: [Option<usize>; 3],
    schema: Schema,
}

impl Columns {
    fn of(schema: &Schema, options: &ImportOptions) -> Result<Self> {
        let index = |name: &str| schema.fields().iter().position(|field| field.name() == name);
        let no_such = |name: &str| {
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).take(20).collect();
            Error::data(format!("it has no column `{name}`; it has {}", names.join(", ")))
        };
        let values = match &options.values {
            Some(name) => index(name).ok_or_else(|| no_such(name))?,
            None => {
                let fields = schema.fields().iter().enumerate();
                let found: Vec<usize> = fields.filter(|(_, f)| is_values(f.data_type())).map(|(i, _)| i).collect();
                match found.as_slice() {
                    [one] => *one,
                    several => {
                        let n = several.len();
                        return Err(Error::data(format!("it has {n} columns of vectors: name one with --values")));
                    }
                }
            }
        };
        let mut ids = [None; 3];
        let asked = [&options.ids.token_id, &options.ids.doc_id, &options.ids.pos];
        for ((id, asked), usual) in ids.iter_mut().zip(asked).zip(USUAL) {
            *id = match asked {
                Some(name) if name.is_empty() => None,
                Some(name) => {
                    let found = index(name).ok_or_else(|| no_such(name))?;
                    let data_type = schema.field(found).data_type();
                    if !data_type.is_integer() {
                        return Err(Error::data(format!("column `{name}` is {data_type}, not one whole number a row")));
                    }
                    Some(found)
                }
                None => usual.iter().find_map(|name| index(name)).filter(|&i| schema.field(i).data_type().is_integer()),
            };
        }
        Ok(Self { values, ids, schema: schema.clone() })
    }

    /// What is read, in the order of the file; each once, whatever it is read as.
    fn all(&self) -> Vec<usize> {
        let mut all: Vec<usize> = std::iter::once(self.values).chain(self.ids.iter().flatten().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Where a column of the file is among those that are read, which keep their order.
    fn place(&self, column: usize) -> usize {
        self.all().partition_point(|&c| c < column)
    }

    fn table(self, batches: Batches, options: &ImportOptions) -> Result<Table> {
        let (values, ids) = (self.place(self.values), self.ids.map(|id| id.map(|id| self.place(id))));
        let field = self.schema.field(self.values);
        let ready = VecDeque::new();
        let mut table = Table { batches, values, number: Number::F32, width: 0, ids, ready, skip: 0 };
        let first = table.more()?;
        let wrong =
            || Error::data(format!("column `{}` is {}, not vectors of numbers", field.name(), field.data_type()));
        (table.number, table.width) = match field.data_type() {
            DataType::FixedSizeList(item, width) => {
                (number(item.data_type()).ok_or_else(wrong)?, usize::try_from(*width).map_err(|_| wrong())?)
            }
            DataType::List(item) | DataType::LargeList(item) => {
                let missing = || Error::data(format!("column `{}` has no vector in row 0", field.name()));
                let width =
                    if first { first_length(table.ready[0].column(table.values)).ok_or_else(missing)? } else { 0 };
                (number(item.data_type()).ok_or_else(wrong)?, width)
            }
            DataType::FixedSizeBinary(bytes) => {
                let dtype = options
                    .raw_dtype
                    .ok_or_else(|| Error::data(format!("column `{}` is raw bytes: say --input-dtype", field.name())))?;
                let (number, bytes) = (Number::of(dtype), usize::try_from(*bytes).map_err(|_| wrong())?);
                if bytes % number.bytes() != 0 {
                    let problem = format!(
                        "a row of column `{}` has {bytes} bytes, which are not whole numbers of {} bytes: say another \
                         --input-dtype",
                        field.name(),
                        number.bytes()
                    );
                    return Err(Error::data(problem));
                }
                (number, bytes / number.bytes())
            }
            _ => return Err(wrong()),
        };
        plausible("the width of a row", table.width as u64, WIDTH_MAX)?;
        if table.width == 0 && first {
            return Err(wrong());
        }
        Ok(table)
    }
}

fn is_values(data_type: &DataType) -> bool {
    match data_type {
        DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item) => {
            number(item.data_type()).is_some()
        }
        DataType::FixedSizeBinary(_) => true,
        _ => false,
    }
}

fn number(data_type: &DataType) -> Option<Number> {
    match data_type {
        DataType::Float16 => Some(Number::F16),
        DataType::Float32 => Some(Number::F32),
        DataType::Float64 => Some(Number::F64),
        _ => None,
    }
}

fn first_length(column: &ArrayRef) -> Option<usize> {
    match column.data_type() {
        DataType::List(_) => column.as_list::<i32>().iter().next()?.map(|first| first.len()),
        _ => column.as_list::<i64>().iter().next()?.map(|first| first.len()),
    }
}

pub(super) fn damaged(error: &dyn std::fmt::Display) -> Error {
    Error::data(format!("it cannot be read: {error}"))
}

impl Table {
    /// Decode another batch; false at the end.
    fn more(&mut self) -> Result<bool> {
        loop {
            match self.batches.next() {
                None => return Ok(false),
                Some(batch) => {
                    let batch = batch?;
                    if batch.num_rows() > 0 {
                        self.ready.push_back(batch);
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Append the values of a batch.
    fn append(&self, column: &ArrayRef, out: &mut Vec<f32>) -> Result<()> {
        let rows = column.len();
        let unequal =
            |what: &str| Error::data(format!("a row of the values is {what}: all must have {} numbers", self.width));
        if column.null_count() > 0 {
            return Err(unequal("missing"));
        }
        let values: ArrayRef = match column.data_type() {
            DataType::FixedSizeBinary(_) => {
                column.as_fixed_size_binary().iter().flatten().for_each(|row| self.number.widen(row, out));
                return Ok(());
            }
            DataType::FixedSizeList(..) => {
                let list = column.as_fixed_size_list();
                list.values().slice(list.offset() * self.width, rows * self.width)
            }
            DataType::List(_) => {
                let list = column.as_list::<i32>();
                if (0..rows).any(|i| list.value_length(i) as usize != self.width) {
                    return Err(unequal("of another length"));
                }
                let from = list.value_offsets()[0] as usize;
                list.values().slice(from, rows * self.width)
            }
            _ => {
                let list = column.as_list::<i64>();
                if (0..rows).any(|i| list.value_length(i) as usize != self.width) {
                    return Err(unequal("of another length"));
                }
                let from = list.value_offsets()[0] as usize;
                list.values().slice(from, rows * self.width)
            }
        };
        if values.null_count() > 0 {
            return Err(unequal("one with a missing number"));
        }
        let values = cast(&values, &DataType::Float32).map_err(|e| damaged(&e))?;
        out.extend_from_slice(values.as_primitive::<arrow::datatypes::Float32Type>().values());
        Ok(())
    }
}

/// A column of whole numbers.
fn whole(batch: &RecordBatch, column: usize, to: &DataType) -> Result<ArrayRef> {
    let schema = batch.schema();
    let field = schema.field(column);
    let column = batch.column(column);
    let cast = cast(column, to).map_err(|e| damaged(&e))?;
    // a number that does not fit becomes a null
    if cast.null_count() > 0 {
        let problem =
            format!("column `{}` holds something that is not a number from 0 to 2^32 (a document: 2^64)", field.name());
        return Err(Error::data(problem));
    }
    Ok(cast)
}

impl Sequences for Table {
    fn width(&self) -> usize {
        self.width
    }

    fn dtype(&self) -> StoredDtype {
        self.number.stored().unwrap_or_default()
    }

    fn seek(&mut self, sequence: u32) -> Result<()> {
        self.skip = sequence as usize;
        Ok(())
    }

    fn rows(&self) -> usize {
        1
    }

    fn next(&mut self, n: usize) -> Result<Option<Chunk>> {
        while self.ready.front().is_some_and(|batch| batch.num_rows() <= self.skip) || self.ready.is_empty() {
            if let Some(passed) = self.ready.pop_front() {
                self.skip -= passed.num_rows();
            }
            if self.ready.is_empty() && !self.more()? {
                return Ok(None);
            }
        }
        let Some(batch) = self.ready.pop_front() else { return Ok(None) };
        let rest = batch.slice(self.skip, batch.num_rows() - self.skip);
        self.skip = 0;
        let n = n.clamp(1, rest.num_rows());
        let taken = rest.slice(0, n);
        if n < rest.num_rows() {
            self.ready.push_front(rest.slice(n, rest.num_rows() - n));
        }
        let mut chunk = Chunk { lengths: vec![1; n], ..Chunk::default() };
        self.append(taken.column(self.values), &mut chunk.values)?;
        let small = |column: usize| -> Result<Vec<u32>> {
            Ok(whole(&taken, column, &DataType::UInt32)?.as_primitive::<UInt32Type>().values().to_vec())
        };
        let [token_id, doc_id, pos] = self.ids;
        chunk.token_id = token_id.map(small).transpose()?;
        chunk.pos = pos.map(small).transpose()?;
        let long = |column: usize| -> Result<Vec<u64>> {
            Ok(whole(&taken, column, &DataType::UInt64)?.as_primitive::<UInt64Type>().values().to_vec())
        };
        chunk.doc_id = doc_id.map(long).transpose()?;
        Ok(Some(chunk))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float32Array, ListArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Field;
    use bytes::Bytes;
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn columns() -> Columns {
        Columns { values: 0, ids: [None; 3], schema: Schema::empty() }
    }

    #[test]
    fn wide_rows_are_decoded_a_few_at_a_time() {
        for (width, expected) in [(8, 1024), (100_000, 20), (3_000_000, 1)] {
            let item = Arc::new(Field::new("item", DataType::Float32, true));
            let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::List(Arc::clone(&item)), false)]));
            let lists = OffsetBuffer::from_lengths([width; 2]);
            let list = ListArray::new(item, lists, Arc::new(Float32Array::from(vec![0.5; 2 * width])), None);
            let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(list)]).unwrap();
            let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), None).unwrap();
            writer.write(&batch).unwrap();
            let file = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(writer.into_inner().unwrap())).unwrap();
            assert_eq!(batch_rows(file.metadata(), &schema, &columns()), expected, "{width}");
        }
    }

    #[test]
    fn columns_are_read_once_however_often_they_are_named() {
        let columns = Columns { values: 3, ids: [Some(1), Some(1), Some(3)], ..columns() };
        assert_eq!(columns.all(), [1, 3]);
        assert_eq!((columns.place(1), columns.place(3)), (0, 1));
    }
}
