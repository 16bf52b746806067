//! Parquet: one column of text, or of lists of token ids.
//!
//! The column is read below the level of Arrow, value by value: a string that is not UTF-8 then costs one document
//! instead of a batch, and it does not matter which Arrow type a writer noted beside the Parquet type. Row groups are
//! independent of each other, so damage in one leaves the others readable, whichever unit they are in.

use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Type as PhysicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use crate::accounting::DropReason;
use crate::corpus::document::{Content, Item};
use crate::corpus::fetch::Fetcher;
use crate::corpus::listing::SourceFile;
use crate::corpus::parquet_records::Conversations;
use crate::corpus::ranges::RangeSource;
use crate::corpus::reader::{Field, FieldKind, SpanReader};
use crate::corpus::units::Part;
use crate::error::Result;

/// Records that are decoded at a time. Each holds on to its page, so this bounds pages in memory too.
pub(super) const RECORDS_AT_A_TIME: usize = 64;

/// Reader of one file, or of some of its row groups.
pub(crate) struct ParquetReader {
    source: RangeSource,
    field: Field,
    groups: Option<std::ops::Range<usize>>,
    limit: usize,
    state: State,
    /// Decoded, not yet given out; in reverse.
    items: Vec<Item>,
    rows_done: u64,
    rows_all: u64,
    damaged: bool,
}

enum State {
    Unopened,
    /// The file's column is readable; `next_group` is opened next.
    Open {
        file: Arc<SerializedFileReader<RangeSource>>,
        column: usize,
        next_group: usize,
        end: usize,
        /// The row group that is read, and how many of its rows are still to come.
        rows: Option<(Box<Rows>, u64)>,
    },
    Done,
}

impl ParquetReader {
    pub(crate) fn new(fetcher: &Fetcher, file: &SourceFile, part: &Part, field: Field, limit: usize) -> Self {
        let groups = match part {
            Part::RowGroups(groups) => Some(groups.clone()),
            Part::Whole | Part::Bytes(_) => None,
        };
        Self {
            source: RangeSource::new(fetcher.clone(), file.clone()),
            field,
            groups,
            limit,
            state: State::Unopened,
            items: Vec::new(),
            rows_done: 0,
            rows_all: 0,
            damaged: false,
        }
    }

    /// Read the footer and find the column.
    fn open(&mut self) -> Result<State, ParquetError> {
        let file = Arc::new(SerializedFileReader::new(self.source.clone())?);
        let metadata = file.metadata();
        let all = 0..metadata.num_row_groups();
        let groups = self.groups.clone().unwrap_or(all.clone());
        let groups = groups.start.min(all.end)..groups.end.min(all.end);
        self.rows_all = groups.clone().map(|g| rows_in(metadata, g)).sum();
        let rows_in_file: u64 = all.clone().map(|g| rows_in(metadata, g)).sum();
        if groups.start == 0 && i64::try_from(rows_in_file) != Ok(metadata.file_metadata().num_rows()) {
            self.damaged = true;
            self.items.push(Item::Dropped(DropReason::DamagedFile, 1));
        } else if groups.start == 0 && rows_in_file == 0 {
            self.items.push(Item::Dropped(DropReason::EmptyFile, 1));
        }
        if self.rows_all == 0 {
            return Ok(State::Done);
        }
        match find_column(metadata.file_metadata().schema_descr(), &self.field) {
            Ok(column) => Ok(State::Open {
                file: Arc::clone(&file),
                column,
                next_group: groups.start,
                end: groups.end,
                rows: None,
            }),
            Err(reason) => {
                self.items.push(Item::Dropped(reason, self.rows_all));
                Ok(State::Done)
            }
        }
    }

    /// Go on behind what cannot be decoded: with the next row group. Whether this is the first damage.
    fn skip_damage(&mut self, error: &ParquetError) -> bool {
        tracing::debug!(%error, file = self.source.shown(), "damaged parquet data");
        self.items.clear();
        match &mut self.state {
            State::Open { rows, .. } => *rows = None,
            State::Unopened | State::Done => self.state = State::Done,
        }
        !std::mem::replace(&mut self.damaged, true)
    }

    /// Decode some more records.
    fn fill(&mut self) -> Result<(), ParquetError> {
        let State::Open { file, column, next_group, end, rows } = &mut self.state else {
            self.state = self.open()?;
            return Ok(());
        };
        if let Some((open, rows_left)) = rows {
            let n = open.take(&mut self.items, self.limit)? as u64;
            let short = (n == 0) != (*rows_left == 0);
            *rows_left = match rows_left.checked_sub(n) {
                Some(left) if !short => left,
                _ => return Err(ParquetError::General("a row group has another number of rows than said".to_owned())),
            };
            self.rows_done += n;
            self.items.reverse();
            if n == 0 {
                *rows = None;
            }
            return Ok(());
        }
        if *next_group == *end {
            self.state = State::Done;
            return Ok(());
        }
        let group = *next_group;
        *next_group += 1;
        let (start, length) = file.metadata().row_group(group).column(*column).byte_range();
        self.source.expect_end(start.saturating_add(length));
        let descriptor = file.metadata().file_metadata().schema_descr().column(*column);
        let group_reader = file.get_row_group(group)?;
        let open = if self.field.kind == FieldKind::Messages {
            // every column of the conversation is read, to the end of the last of them
            self.source.expect_end(u64::MAX);
            Rows::Messages(Conversations::new(file.as_ref(), group_reader.as_ref(), &self.field.name)?)
        } else {
            Rows::new(group_reader.get_column_reader(*column)?, &descriptor)?
        };
        *rows = Some((Box::new(open), rows_in(file.metadata(), group)));
        Ok(())
    }
}

impl SpanReader for ParquetReader {
    fn next_item(&mut self) -> Result<Option<Item>> {
        loop {
            if let Some(item) = self.items.pop() {
                return Ok(Some(item));
            }
            if matches!(self.state, State::Done) {
                return Ok(None);
            }
            if let Err(error) = guarded(|| self.fill()) {
                if let Some(failure) = self.source.take_failure() {
                    return Err(failure);
                }
                if self.skip_damage(&error) {
                    return Ok(Some(Item::Dropped(DropReason::DamagedFile, 1)));
                }
            }
        }
    }

    fn progress(&self) -> f64 {
        self.rows_done as f64 / self.rows_all.max(1) as f64
    }
}

/// The decoder panics at some kinds of damage; that, too, is damage and not the end of a run.
fn guarded<T>(decode: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(ParquetError::General("the decoder panicked".to_owned())))
}

/// Bytes of the column in each row group of a file, to cut units by; `None` if the file cannot be read as Parquet.
/// Blocks.
pub(crate) fn row_group_bytes(fetcher: &Fetcher, file: &SourceFile, field: &Field) -> Result<Option<Vec<u64>>> {
    let source = RangeSource::new(fetcher.clone(), file.clone());
    let reader = match guarded(|| SerializedFileReader::new(source.clone())) {
        Ok(reader) => reader,
        Err(_) => return source.take_failure().map_or(Ok(None), Err),
    };
    let metadata = reader.metadata();
    let Ok(column) = find_column(metadata.file_metadata().schema_descr(), field) else { return Ok(None) };
    let bytes = metadata.row_groups().iter().map(|group| {
        let size = group.column(column).compressed_size();
        u64::try_from(size).unwrap_or(0).min(file.bytes)
    });
    Ok(Some(bytes.collect()))
}

fn rows_in(metadata: &ParquetMetaData, group: usize) -> u64 {
    u64::try_from(metadata.row_group(group).num_rows()).unwrap_or(0)
}

/// The leaf column of `field`, if its type is the one that is wanted.
fn find_column(schema: &SchemaDescriptor, field: &Field) -> Result<usize, DropReason> {
    let mut leaves =
        (0..schema.num_columns()).filter(|&i| schema.column(i).path().parts().first() == Some(&field.name));
    let column = leaves.next().ok_or(DropReason::MissingField)?;
    let descriptor = schema.column(column);
    let fits = match field.kind {
        FieldKind::Text => {
            descriptor.max_rep_level() == 0
                && descriptor.path().parts().len() == 1
                && descriptor.physical_type() == PhysicalType::BYTE_ARRAY
                && descriptor.converted_type() != ConvertedType::DECIMAL
        }
        // a column of text holds JSON; a list of structs is read record by record
        FieldKind::Messages => descriptor.max_rep_level() > 0 || descriptor.physical_type() == PhysicalType::BYTE_ARRAY,
        FieldKind::Tokens => descriptor.max_rep_level() == 1 && whole_numbers(&descriptor) && leaves.next().is_none(),
    };
    if fits { Ok(column) } else { Err(DropReason::WrongType) }
}

fn whole_numbers(descriptor: &ColumnDescriptor) -> bool {
    let physical = matches!(descriptor.physical_type(), PhysicalType::INT32 | PhysicalType::INT64);
    let logical = match (descriptor.logical_type_ref(), descriptor.converted_type()) {
        (Some(LogicalType::Integer(_)), _) | (None, ConvertedType::NONE) => true,
        (None, converted) => {
            matches!(
                converted,
                ConvertedType::INT_8 | ConvertedType::INT_16 | ConvertedType::INT_32 | ConvertedType::INT_64
            ) || unsigned(descriptor)
        }
        (Some(_), _) => false,
    };
    physical && logical
}

fn unsigned(descriptor: &ColumnDescriptor) -> bool {
    matches!(
        descriptor.converted_type(),
        ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64
    )
}

// === the rows of one row group ===

/// One row group's column.
enum Rows {
    Text(Column<ByteArrayType>),
    Ids32(Column<Int32Type>, bool),
    Ids64(Column<Int64Type>),
    Messages(Conversations),
}

impl Rows {
    fn new(reader: ColumnReader, descriptor: &ColumnDescriptor) -> Result<Self, ParquetError> {
        Ok(match reader {
            ColumnReader::ByteArrayColumnReader(reader) => Self::Text(Column::new(reader, descriptor)),
            ColumnReader::Int32ColumnReader(reader) => {
                Self::Ids32(Column::new(reader, descriptor), unsigned(descriptor))
            }
            ColumnReader::Int64ColumnReader(reader) => Self::Ids64(Column::new(reader, descriptor)),
            _ => return Err(ParquetError::General("the column's pages disagree with the schema".to_owned())),
        })
    }

    /// Decode the next records into `items`; how many there were.
    fn take(&mut self, items: &mut Vec<Item>, limit: usize) -> Result<usize, ParquetError> {
        match self {
            Self::Text(column) => column.texts(items, limit),
            Self::Messages(conversations) => conversations.take(items, limit),
            Self::Ids32(column, unsigned) => {
                let unsigned = *unsigned;
                column.lists(items, limit, |&v| if unsigned { Some(v as u32) } else { u32::try_from(v).ok() })
            }
            // an unsigned value beyond i64 reads as negative, and does not fit either way
            Self::Ids64(column) => column.lists(items, limit, |&v| u32::try_from(v).ok()),
        }
    }
}

struct Column<T: DataType> {
    reader: ColumnReaderImpl<T>,
    /// Definition level of a value that is there.
    max_def: i16,
    /// Definition level from which on a list has an element.
    repeated_def: i16,
    defs: Vec<i16>,
    reps: Vec<i16>,
    values: Vec<T::T>,
}

impl<T: DataType> Column<T> {
    fn new(reader: ColumnReaderImpl<T>, descriptor: &ColumnDescriptor) -> Self {
        let (max_def, repeated_def) = (descriptor.max_def_level(), descriptor.repeated_ancestor_def_level());
        Self { reader, max_def, repeated_def, defs: Vec::new(), reps: Vec::new(), values: Vec::new() }
    }

    /// Read the next records' levels and values; the number of records.
    fn read(&mut self) -> Result<usize, ParquetError> {
        self.defs.clear();
        self.reps.clear();
        self.values.clear();
        let (records, values, levels) = self.reader.read_records(
            RECORDS_AT_A_TIME,
            Some(&mut self.defs),
            Some(&mut self.reps),
            &mut self.values,
        )?;
        if self.max_def == 0 {
            self.defs = vec![0; levels];
        }
        let present = self.defs.iter().filter(|&&d| d == self.max_def).count();
        if present != values || self.values.len() != values || self.defs.len() != levels {
            return Err(ParquetError::General("levels and values disagree".to_owned()));
        }
        Ok(records)
    }

    /// Records that are lists of whole numbers.
    fn lists(
        &mut self,
        items: &mut Vec<Item>,
        limit: usize,
        id: impl Fn(&T::T) -> Option<u32>,
    ) -> Result<usize, ParquetError> {
        let records = self.read()?;
        let mut values = self.values.iter();
        let mut level = 0;
        while level < self.defs.len() {
            let end = (level + 1..self.defs.len()).find(|&i| self.reps[i] == 0).unwrap_or(self.defs.len());
            let mut ids = Some(Vec::new());
            for &def in &self.defs[level..end] {
                let value = if def == self.max_def { values.next().and_then(&id) } else { None };
                match (value, &mut ids) {
                    (Some(value), Some(ids)) => ids.push(value),
                    (None, _) if def >= self.repeated_def => ids = None, // a null element, or one that does not fit
                    _ => {}
                }
            }
            // below an empty list's level: the list itself is null
            let null = self.defs[level] < self.repeated_def - 1;
            items.push(match ids {
                _ if null => Item::Dropped(DropReason::MissingField, 1),
                None => Item::Dropped(DropReason::WrongType, 1),
                Some(ids) if ids.len() > limit / 4 => Item::Dropped(DropReason::OversizedDocument, 1),
                Some(ids) => Item::from_content(Content::Tokens(ids)),
            });
            level = end;
        }
        Ok(records)
    }
}

impl Column<ByteArrayType> {
    /// Records that are strings.
    fn texts(&mut self, items: &mut Vec<Item>, limit: usize) -> Result<usize, ParquetError> {
        let records = self.read()?;
        let mut values = self.values.iter();
        for &def in &self.defs {
            let value: Option<&ByteArray> = if def == self.max_def { values.next() } else { None };
            items.push(match value {
                None => Item::Dropped(DropReason::MissingField, 1),
                Some(text) if text.len() > limit => Item::Dropped(DropReason::OversizedDocument, 1),
                Some(text) => Item::from_utf8(text.data().to_vec()),
            });
        }
        Ok(records)
    }
}
