//! `harvestd import`: activations that others computed, into a dataset.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Globals, Outcome, async_runtime, output};
use crate::dataset::config::{CompressionConfig, DatasetConfig, Layout, StoredDtype};
use crate::error::Error;
use crate::hooks::HookPoint;
use crate::import::{self, IdNames, ImportOptions, Imported, NonFinite};
use crate::units::{ByteSize, Count, Percent};

/// Arguments of `import`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd import vit/*.npy out/vit --site vit.blocks.8
  harvestd import s3://acts/esm2.parquet out/esm2 --site esm2.layer.20 --values embedding --ids doc_id=protein
  harvestd import activault/layers.14/ out/acts --site blocks.14.hook_resid_post

Reads .npy, .safetensors, .parquet, .arrow, .feather and folders of them; other files in a folder are passed over, but for
pickles, which are refused. Arrays are [rows, width] or
[samples, positions, width]; a column is a fixed-size list, a list of equal length or raw bytes. Each file becomes a unit.
Token ids, documents and positions are taken from tensors or columns with the usual names (token_id, input_ids, doc_id, pos)
or with those that --ids says. A run that was interrupted goes on when it is started again. docs/replay.md has it all.")]
pub(crate) struct ImportArgs {
    /// Files or folders, then the dataset to write: local paths or URLs
    #[arg(required = true, num_args = 2.., value_names = ["SRC", "DST"])]
    places: Vec<String>,
    /// Name of the site: any, such as blocks.6.hook_resid_post or vit.blocks.8
    #[arg(long)]
    site: String,
    /// The tensor or column with the values [default: the only one that can be meant]
    #[arg(long)]
    values: Option<String>,
    /// Where ids are: token_id=NAME, doc_id=NAME or pos=NAME (`pos=`: do not read the file's); may be repeated
    #[arg(long, value_name = "ID=NAME")]
    ids: Vec<String>,
    /// Number format of raw bytes
    #[arg(long, value_enum)]
    input_dtype: Option<Number>,
    /// Number format to store [default: that of the files]
    #[arg(long, value_enum)]
    dtype: Option<Number>,
    /// Rows in a shard, at most
    #[arg(long, default_value = "262144")]
    rows_per_shard: Count,
    /// Compress with zstd
    #[arg(long)]
    zstd: bool,
    /// What becomes of rows with NaN or an infinity
    #[arg(long, value_enum, default_value_t)]
    non_finite: OnNonFinite,
}

/// What becomes of rows that are not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum OnNonFinite {
    /// They are left out and counted
    #[default]
    Drop,
    /// They end the import with an error
    Fail,
}

/// A number format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Number {
    /// IEEE half precision
    Float16,
    /// IEEE single precision
    Float32,
    /// The upper half of single precision
    Bfloat16,
}

impl From<Number> for StoredDtype {
    fn from(number: Number) -> Self {
        match number {
            Number::Float16 => Self::Float16,
            Number::Float32 => Self::Float32,
            Number::Bfloat16 => Self::Bfloat16,
        }
    }
}

pub(crate) fn execute(args: &ImportArgs, globals: &Globals) -> Outcome {
    let stores = globals.stores()?;
    let Some((to, from)) = args.places.split_last() else {
        return Err(Error::config("name what to import and where to").into());
    };
    let sources = from.iter().map(|place| stores.open(place)).collect::<Result<Vec<_>, _>>()?;
    let destination = stores.open(to)?;
    let options = options(args, &destination.shown)?;
    let runtime = async_runtime()?;
    let shown = destination.shown.clone();
    let imported = runtime.block_on(import::import(&sources, destination, &options, |done, of| {
        tracing::info!(done, of, "files imported");
    }))?;
    if globals.json {
        let mut found = json!(imported);
        found["dataset"] = json!(shown);
        output::print_json(&found);
    } else {
        output::print(&line(&imported, &shown));
    }
    Ok(ExitCode::SUCCESS)
}

fn line(imported: &Imported, shown: &str) -> String {
    let Imported { totals, files, dropped, passed_over } = imported;
    let size = ByteSize(totals.bytes);
    let mut line = format!("{} rows of {files} files in {} shards, {size} -> {shown}", totals.rows, totals.shards);
    let dropped: Vec<String> = dropped.iter().map(|(reason, n)| format!("{} {n}", reason.as_str())).collect();
    if !dropped.is_empty() {
        line += &format!("; rows left out: {}", dropped.join(", "));
    }
    if passed_over.files > 0 {
        line += &format!("; {} other files passed over", passed_over.files);
    }
    line
}

fn options(args: &ImportArgs, url: &str) -> Result<ImportOptions, Error> {
    let point = HookPoint::stored(&args.site).map_err(|_| {
        Error::config(format!(
            "`{}` cannot be a site's name: use letters, digits and . _ - / [ ], and no name of an id column",
            args.site
        ))
    })?;
    if args.rows_per_shard.0 == 0 {
        return Err(Error::config("`--rows-per-shard 0`: a shard has at least one row"));
    }
    let mut ids = IdNames::default();
    for text in &args.ids {
        match text.split_once('=') {
            Some(("token_id", name)) => ids.token_id = Some(name.to_owned()),
            Some(("doc_id", name)) => ids.doc_id = Some(name.to_owned()),
            Some(("pos", name)) => ids.pos = Some(name.to_owned()),
            _ => {
                let problem = format!("`--ids {text}`: write token_id=NAME, doc_id=NAME or pos=NAME");
                return Err(Error::config(problem));
            }
        }
    }
    let dataset = DatasetConfig {
        dtype: args.dtype.map(StoredDtype::from).unwrap_or_default(),
        layout: Layout::default(),
        rows_per_shard: args.rows_per_shard,
        rows_per_group: Count(args.rows_per_shard.0.clamp(1, 16_384)),
        compression: if args.zstd { CompressionConfig::Zstd } else { CompressionConfig::None },
        sample: Percent::from_share(1.0),
        ..DatasetConfig::at(url)
    };
    Ok(ImportOptions {
        point,
        values: args.values.clone(),
        raw_dtype: args.input_dtype.map(StoredDtype::from),
        ids,
        dataset,
        keep_dtype: args.dtype.is_none(),
        non_finite: match args.non_finite {
            OnNonFinite::Drop => NonFinite::Drop,
            OnNonFinite::Fail => NonFinite::Fail,
        },
    })
}
