//! Conversations in Parquet: a column that is a list of structs, read record by record.
//!
//! A column of tools (`tools`), if there is one, is read with it. Values become JSON, as a line of a jsonl file would
//! have them.

use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader};
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescriptor, Type};
use serde_json::{Map, Value};

use crate::accounting::DropReason;
use crate::corpus::chat;
use crate::corpus::document::Item;
use crate::corpus::parquet::RECORDS_AT_A_TIME;

/// Name of the column that describes tools.
const TOOLS: &str = "tools";

/// The conversations of one row group.
pub(super) struct Conversations {
    records: ReaderIter,
    name: String,
}

impl Conversations {
    /// The conversations in column `name`.
    pub(super) fn new(file: &dyn FileReader, group: &dyn RowGroupReader, name: &str) -> Result<Self, ParquetError> {
        let root = file.metadata().file_metadata().schema_descr().root_schema().clone();
        let wanted = root.get_fields().iter().filter(|field| [name, TOOLS].contains(&field.name()));
        let projection = Type::group_type_builder(root.name()).with_fields(wanted.cloned().collect()).build()?;
        let projection = Arc::new(SchemaDescriptor::new(Arc::new(projection)));
        let records = TreeBuilder::new().with_batch_size(RECORDS_AT_A_TIME).as_iter(projection, group)?;
        Ok(Self { records, name: name.to_owned() })
    }

    /// Decode the next records into `items`; how many there were.
    pub(super) fn take(&mut self, items: &mut Vec<Item>, limit: usize) -> Result<usize, ParquetError> {
        let mut n = 0;
        for record in self.records.by_ref().take(RECORDS_AT_A_TIME) {
            n += 1;
            let (mut messages, mut tools) = (None, None);
            for (name, field) in record?.into_columns() {
                match name.as_str() {
                    name if name == self.name => messages = Some(json(&field)),
                    TOOLS => tools = Some(json(&field)),
                    _ => {}
                }
            }
            items.push(match chat::conversation(messages, tools) {
                Item::Document(document) if document.content.bytes() > limit => {
                    Item::Dropped(DropReason::OversizedDocument, 1)
                }
                item => item,
            });
        }
        Ok(n)
    }
}

/// A value as JSON. Kinds that no conversation has become null.
fn json(field: &Field) -> Value {
    match field {
        Field::Bool(value) => Value::from(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        Field::Float(value) => Value::from(*value),
        Field::Double(value) => Value::from(*value),
        Field::Str(text) => Value::from(text.as_str()),
        Field::Bytes(bytes) => bytes.as_utf8().map_or(Value::Null, Value::from),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(json).collect()),
        _ => Value::Null,
    }
}

/// A struct. Fields without a value are left out: structs have all their fields in every row.
fn object(row: &Row) -> Value {
    let fields = row.get_column_iter().map(|(name, field)| (name.clone(), json(field)));
    Value::Object(fields.filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
}
