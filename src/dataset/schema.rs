//! The columns of a shard: Arrow schema, Parquet schema, metadata.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, ArrowSchemaConverter, encode_arrow_schema};
use parquet::file::metadata::KeyValue;
use parquet::schema::types::SchemaDescriptor;

use crate::dataset::config::{CompressionConfig, DatasetConfig, Layout, StoredDtype};
use crate::dataset::header::{PART_FORMAT, ShardRule, SiteHeader};
use crate::error::{Error, Result};
use crate::hooks::HookPoint;
use crate::units::{Count, Percent};

/// Columns before the sites, in order: hash of the document, unit, sequence in the unit, position in the sequence, token.
pub const ID_COLUMNS: [&str; 5] = ["doc_id", "unit", "seq", "pos", "token_id"];
/// Key of the file's metadata with the format version.
pub const FORMAT_KEY: &str = "harvestd.format";
/// Key of a site column's metadata with the number format.
pub const DTYPE_KEY: &str = "dtype";
/// Key of a site column's metadata with the shape of a row's value, as JSON.
pub const SHAPE_KEY: &str = "shape";

/// What shards look like: everything that their bytes depend on besides the rows.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardSpec {
    /// The sites, in the order of their columns.
    pub sites: Vec<SiteColumn>,
    /// Number format of all sites.
    pub dtype: StoredDtype,
    /// Typed lists or fixed-size binary; bfloat16 is always binary.
    pub layout: Layout,
    /// Compression of all columns.
    pub compression: CompressionConfig,
    /// Rows in a shard, at most (but for a single longer sequence).
    pub rows_per_shard: u64,
    /// Rows in a row group, at most.
    pub rows_per_group: usize,
    /// Share of the rows that is stored.
    pub sample: Percent,
}

/// A site's column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteColumn {
    /// The site.
    pub point: HookPoint,
    /// Values a row.
    pub width: usize,
}

impl ShardSpec {
    /// The shards that `config` asks for, of `sites` (point and width).
    pub fn new(config: &DatasetConfig, sites: &[(HookPoint, usize)]) -> Self {
        Self {
            sites: sites.iter().map(|&(point, width)| SiteColumn { point, width }).collect(),
            dtype: config.dtype,
            layout: config.layout,
            compression: config.compression,
            rows_per_shard: config.rows_per_shard.0.max(1),
            rows_per_group: usize::try_from(config.rows_per_group.0).unwrap_or(usize::MAX).max(1),
            sample: config.sample,
        }
    }

    /// The sites as a header describes them; `definition` says what a site's values are.
    pub fn site_headers(&self, definition: impl Fn(HookPoint) -> String) -> Vec<SiteHeader> {
        let header = |site: &SiteColumn| SiteHeader {
            name: site.point.to_string(),
            definition: definition(site.point),
            width: site.width,
            dtype: self.dtype,
            layout: effective_layout(self.dtype, self.layout),
        };
        self.sites.iter().map(header).collect()
    }

    /// The cutting rule as a header describes it.
    pub fn rule(&self) -> ShardRule {
        ShardRule {
            rows_per_shard: Count(self.rows_per_shard),
            rows_per_group: Count(self.rows_per_group as u64),
            compression: self.compression,
        }
    }

    /// Bytes of one stored row's values, uncompressed.
    pub fn row_bytes(&self) -> u64 {
        self.sites.iter().map(|site| (site.width * value_bytes(self.dtype)) as u64).sum()
    }
}

/// Bytes of one value.
pub fn value_bytes(dtype: StoredDtype) -> usize {
    match dtype {
        StoredDtype::Float16 | StoredDtype::Bfloat16 => 2,
        StoredDtype::Float32 => 4,
    }
}

/// Name of a number format in metadata.
pub fn dtype_name(dtype: StoredDtype) -> &'static str {
    match dtype {
        StoredDtype::Float16 => "float16",
        StoredDtype::Float32 => "float32",
        StoredDtype::Bfloat16 => "bfloat16",
    }
}

/// The layout that a number format really gets: Parquet has no bfloat16.
pub fn effective_layout(dtype: StoredDtype, layout: Layout) -> Layout {
    match dtype {
        StoredDtype::Bfloat16 => Layout::Raw,
        StoredDtype::Float16 | StoredDtype::Float32 => layout,
    }
}

/// The Arrow schema of a shard.
pub fn arrow_schema(sites: &[SiteHeader]) -> Schema {
    let mut fields = vec![Field::new(ID_COLUMNS[0], DataType::UInt64, false)];
    fields.extend(ID_COLUMNS[1..].iter().map(|name| Field::new(*name, DataType::UInt32, false)));
    fields.extend(sites.iter().map(site_field));
    Schema::new(fields)
}

fn site_field(site: &SiteHeader) -> Field {
    let values = match effective_layout(site.dtype, site.layout) {
        Layout::Raw => DataType::FixedSizeBinary((site.width * value_bytes(site.dtype)) as i32),
        Layout::Typed => {
            let value = match site.dtype {
                StoredDtype::Float32 => DataType::Float32,
                StoredDtype::Float16 | StoredDtype::Bfloat16 => DataType::Float16,
            };
            DataType::FixedSizeList(Arc::new(Field::new("element", value, false)), site.width as i32)
        }
    };
    Field::new(&site.name, values, false).with_metadata(HashMap::from([
        (DTYPE_KEY.to_owned(), dtype_name(site.dtype).to_owned()),
        (SHAPE_KEY.to_owned(), format!("[{}]", site.width)),
    ]))
}

/// The Parquet schema and the file's metadata.
pub fn parquet_schema(sites: &[SiteHeader]) -> Result<(SchemaDescriptor, Vec<KeyValue>)> {
    let arrow = arrow_schema(sites);
    // coerced types name a list's values as the Parquet specification does: `<site>.list.element`
    let parquet = ArrowSchemaConverter::new()
        .with_coerce_types(true)
        .convert(&arrow)
        .map_err(|e| Error::config(format!("the sites cannot be columns: {e}")))?;
    let metadata = vec![
        KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encode_arrow_schema(&arrow)),
        KeyValue::new(FORMAT_KEY.to_owned(), PART_FORMAT.to_string()),
    ];
    Ok((parquet, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(dtype: StoredDtype, layout: Layout) -> SiteHeader {
        SiteHeader { name: "blocks.0.hook_mlp_out".into(), definition: String::new(), width: 6, dtype, layout }
    }

    #[test]
    fn site_columns_by_dtype_and_layout() {
        let leaf = |dtype, layout| {
            let (schema, _) = parquet_schema(&[site(dtype, layout)]).unwrap();
            let column = schema.column(5);
            (column.path().string(), column.type_length(), column.max_rep_level(), column.max_def_level())
        };
        let list = "blocks.0.hook_mlp_out.list.element";
        assert_eq!(leaf(StoredDtype::Float16, Layout::Typed), (list.into(), 2, 1, 1));
        assert_eq!(leaf(StoredDtype::Float32, Layout::Typed), (list.into(), -1, 1, 1));
        assert_eq!(leaf(StoredDtype::Float16, Layout::Raw), ("blocks.0.hook_mlp_out".into(), 12, 0, 0));
        assert_eq!(leaf(StoredDtype::Float32, Layout::Raw), ("blocks.0.hook_mlp_out".into(), 24, 0, 0));
        assert_eq!(leaf(StoredDtype::Bfloat16, Layout::Typed), ("blocks.0.hook_mlp_out".into(), 12, 0, 0));
    }

    #[test]
    fn the_metadata_is_the_same_every_time() {
        let sites = [site(StoredDtype::Bfloat16, Layout::Raw), site(StoredDtype::Float16, Layout::Typed)];
        let first = parquet_schema(&sites).unwrap().1;
        assert!((0..20).all(|_| parquet_schema(&sites).unwrap().1 == first));
    }
}
