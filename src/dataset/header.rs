//! `dataset.json`: what a dataset holds, and how to tell whether a run may add to it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dataset::config::{CompressionConfig, Layout, StoredDtype};
use crate::dataset::places::RowOrder;
use crate::error::{Error, Result};
use crate::units::{Count, Percent};

/// Version of the dataset format: what `dataset.json` of a new dataset says.
pub const FORMAT: u32 = 2;
/// The oldest version that is read, and added to as it is.
pub const OLDEST_FORMAT: u32 = 1;
/// Version of shards and commits: they are the same in formats 1 and 2, and the same bytes.
pub const PART_FORMAT: u32 = 1;

/// Keys that may differ between a dataset and a run that adds to it: who began it and with which file, where the model lay
/// (what it is, the fingerprints say), limits that were measured (a run takes the stored ones), and the version: a dataset
/// is added to in the format that it has.
const FREE_KEYS: [&str; 5] = ["format", "run_id", "pipeline", "model", "norm_limits"];

/// The header of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetHeader {
    /// Version of the format.
    pub format: u32,
    /// The name of the column group that this is, if it is one: its rows are those of the dataset two folders above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column_group: Option<String>,
    /// The run that began the dataset.
    pub run_id: String,
    /// The resolved pipeline that began it, without secrets. For people; nothing is compared with it.
    pub pipeline: Value,
    /// The model's files, as they were loaded. For people; nothing is compared with it.
    #[serde(default)]
    pub model: ModelHeader,
    /// What the rows were computed from.
    pub fingerprints: Fingerprints,
    /// Special tokens as they were found in the model's files; none in datasets that were begun before they were noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub special_tokens: Option<SpecialTokens>,
    /// The sites, in the order of their columns.
    pub sites: Vec<SiteHeader>,
    /// How documents became sequences, and which rows were kept.
    pub tokens: Value,
    /// Work units of the corpus; 0 where it grows.
    pub units: u32,
    /// Whether the corpus grows: units are appended, and no number of them is the last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follows: bool,
    /// By site: rows with a larger norm were dropped. Measured once, by the run that began the dataset.
    #[serde(default)]
    pub norm_limits: BTreeMap<String, f32>,
    /// Share of the kept rows that is stored.
    pub sample: Percent,
    /// How rows are cut into shards.
    pub shards: ShardRule,
    /// The order of rows, where it is not that of their sequences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<RowOrder>,
}

/// Content hashes of what the rows were computed from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprints {
    /// Model configuration and weights, and the number format of the forward pass.
    pub model: String,
    /// Tokenizer.
    pub tokenizer: String,
    /// Corpus listing.
    pub corpus: String,
}

/// The files of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelHeader {
    /// As the pipeline writes it.
    pub source: String,
    /// The commit that a hub's revision meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// SHA-256 of `config.json`.
    pub config_sha256: String,
    /// SHA-256 of the weights: of the file, or, if there are several, of what `sha256sum *.safetensors` prints.
    pub weights_sha256: String,
    /// SHA-256 of `tokenizer.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_sha256: Option<String>,
}

/// Ids of special tokens, and whether BOS was put before texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialTokens {
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Whether BOS stands at the start of attention contexts.
    pub prepend_bos: bool,
    /// Who decided that. For people; nothing is compared with it.
    pub because: String,
}

impl SpecialTokens {
    /// One line for people.
    pub fn shown(&self) -> String {
        let id = |id: Option<u32>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
        let Self { bos, eos, pad, prepend_bos, because } = self;
        let does = if *prepend_bos { "prepended" } else { "not prepended" };
        format!("BOS {}, EOS {}, padding {}; BOS is {does}: {because}", id(*bos), id(*eos), id(*pad))
    }
}

/// One stored site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteHeader {
    /// TransformerLens name; also the column's name.
    pub name: String,
    /// What exactly the values are.
    pub definition: String,
    /// Values a row.
    pub width: usize,
    /// Number format.
    pub dtype: StoredDtype,
    /// Typed list or fixed-size binary.
    pub layout: Layout,
}

/// How rows are cut into shards and row groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRule {
    /// Rows in a shard, at most (but for a single longer sequence).
    pub rows_per_shard: Count,
    /// Rows in a row group, at most.
    pub rows_per_group: Count,
    /// Compression of the columns.
    pub compression: CompressionConfig,
}

impl DatasetHeader {
    /// Read a header.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|e| Error::data(format!("the header is not JSON: {e}")))?;
        match value.get("format").and_then(Value::as_u64) {
            Some(format) if (u64::from(OLDEST_FORMAT)..=u64::from(FORMAT)).contains(&format) => {}
            Some(format) => {
                return Err(Error::data(format!(
                    "format {format} is not known; this version reads {OLDEST_FORMAT} to {FORMAT}"
                )));
            }
            None => return Err(Error::data("the header has no format version")),
        }
        serde_json::from_value(value).map_err(|e| Error::data(format!("the header is not a dataset's: {e}")))
    }

    /// The header as stored.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("strings, numbers and JSON values serialise");
        text.push(b'\n');
        text
    }

    /// Whether manifests, retired parts and column groups may be added: a reader of format 1 would not see them.
    pub fn check_can_grow(&self) -> Result<()> {
        if self.format >= FORMAT {
            return Ok(());
        }
        Err(Error::config(format!(
            "the dataset is of format {}, whose readers would not notice: run `harvestd upgrade` on it first",
            self.format
        )))
    }

    /// Whether a run that would write `other` may add to this dataset. The error ([`Config`]) names the first keys that
    /// differ, with both values.
    ///
    /// [`Config`]: crate::error::ErrorKind::Config
    pub fn compatible(&self, other: &Self) -> Result<()> {
        let mut differences = Vec::new();
        let (stored, mut wanted) = (self.compared(), other.compared());
        if let (None, Value::Object(wanted)) = (&self.special_tokens, &mut wanted) {
            wanted.remove("special_tokens");
        }
        differ("", &stored, &wanted, &mut differences);
        if differences.is_empty() {
            return Ok(());
        }
        let more = differences.len().saturating_sub(3);
        let mut text = differences.into_iter().take(3).collect::<Vec<_>>().join("; ");
        if more > 0 {
            text.push_str(&format!("; and {more} more"));
        }
        Err(Error::config(format!(
            "the dataset was begun with other settings: {text}; change them back or use a new url"
        )))
    }

    /// The header without the keys that may differ.
    fn compared(&self) -> Value {
        let mut value = serde_json::to_value(self).expect("strings, numbers and JSON values serialise");
        if let Value::Object(map) = &mut value {
            FREE_KEYS.iter().for_each(|key| drop(map.remove(*key)));
            if let Some(Value::Object(special)) = map.get_mut("special_tokens") {
                special.remove("because");
            }
        }
        value
    }
}

/// Collect `path: stored is not wanted` for every leaf that differs.
fn differ(path: &str, stored: &Value, wanted: &Value, out: &mut Vec<String>) {
    let at = |key: &dyn std::fmt::Display| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match (stored, wanted) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                differ(&at(key), a, b, out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differ(&at(&i), a, b, out);
            }
        }
        (a, b) if a == b => {}
        (a, b) => out.push(format!("{path} was {a}, now {b}")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::error::ErrorKind;

    pub(crate) fn header() -> DatasetHeader {
        DatasetHeader {
            format: FORMAT,
            column_group: None,
            run_id: "a".into(),
            pipeline: serde_json::json!({"name": "x"}),
            model: ModelHeader { source: "x".into(), commit: Some("c".into()), ..ModelHeader::default() },
            fingerprints: Fingerprints { model: "m".into(), tokenizer: "t".into(), corpus: "c".into() },
            special_tokens: None,
            sites: vec![SiteHeader {
                name: "blocks.0.hook_resid_post".into(),
                definition: "the residual stream that leaves the block".into(),
                width: 3,
                dtype: StoredDtype::Float16,
                layout: Layout::Typed,
            }],
            tokens: serde_json::json!({"context_length": 128}),
            units: 4,
            follows: false,
            norm_limits: BTreeMap::from([("blocks.0.hook_resid_post".into(), 10.5)]),
            sample: Percent::from_share(1.0),
            shards: ShardRule {
                rows_per_shard: Count(64),
                rows_per_group: Count(16),
                compression: CompressionConfig::None,
            },
            order: None,
        }
    }

    #[test]
    fn reads_back_what_it_writes() {
        assert_eq!(DatasetHeader::from_json(&header().to_json()).unwrap(), header());
    }

    #[test]
    fn refuses_other_formats() {
        let error = DatasetHeader::from_json(br#"{"format": 3}"#).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (ErrorKind::Data, "format 3 is not known; this version reads 1 to 2".into())
        );
        assert!(DatasetHeader::from_json(b"{").is_err());
    }

    #[test]
    fn another_run_with_the_same_settings_may_add() {
        let mut other = header();
        other.run_id = "b".into();
        other.format = OLDEST_FORMAT;
        other.pipeline = Value::Null;
        other.model.source = "elsewhere".into();
        other.norm_limits.clear();
        header().compatible(&other).unwrap();
    }

    #[test]
    fn what_differs_is_named() {
        type Change = fn(&mut DatasetHeader);
        let cases: [(Change, &str); 5] = [
            (|h| h.fingerprints.model = "n".into(), r#"fingerprints.model was "m", now "n""#),
            (|h| h.tokens["context_length"] = 64.into(), "tokens.context_length was 128, now 64"),
            (|h| h.sites[0].dtype = StoredDtype::Float32, r#"sites.0.dtype was "float16", now "float32""#),
            (|h| h.sites.clear(), "sites was ["),
            (|h| h.shards.rows_per_shard = Count(65), "shards.rows_per_shard was"),
        ];
        for (change, text) in cases {
            let mut other = header();
            change(&mut other);
            let error = header().compatible(&other).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
