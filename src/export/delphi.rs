//! The folder that delphi (EleutherAI) explains latents from: its `LatentCache`.
//!
//! ```text
//! SITE/{first}_{last}.safetensors   a range of latents, both ends in it
//!     locations    u16 or u32 [n, 3]   sequence, position, latent after the first; in the order of the text
//!     activations  f16 [n]
//!     tokens       i64 [sequences, context]   the same in every file
//! SITE/config.json                  what was read
//! ```

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::features::About;
use crate::features::cache::{Cache, SPLITS, Split};
use crate::store::upload::{Upload, UploadOptions};
use crate::store::{Location, objects};

/// Values that are turned into bytes at a time.
const VALUES: usize = 1 << 20;

/// Write `cache` below `folder`.
///
/// # Errors
/// `Data` if there is no sequence of full length; what the store gives.
pub async fn write(cache: &Cache, about: &About, folder: &Location) -> Result<()> {
    if cache.n_sequences() == 0 {
        let (context, short) = (cache.context(), cache.short());
        return Err(Error::data(format!(
            "delphi reads sequences of one length: none of {short} has `tokens.context_length` ({context}) tokens"
        )));
    }
    if cache.short() > 0 || cache.clamped() > 0 {
        let (short, clamped) = (cache.short(), cache.clamped());
        tracing::warn!(
            short,
            clamped,
            "left out of delphi's cache: sequences that are too short; brought to the largest half: activations"
        );
    }
    // a folder's name is a module's, and lists of sites are none
    let folder = folder.child(&about.reads.replace(", ", "+"));
    for split in cache.splits() {
        let name = format!("{}_{}.safetensors", split.first, split.end - 1);
        let mut upload = Upload::new(folder.child(&name), UploadOptions::default());
        match write_split(cache, split, &mut upload).await {
            Ok(()) => upload.finish().await?,
            Err(error) => {
                upload.abort().await;
                return Err(error);
            }
        }
    }
    let config = serde_json::to_vec_pretty(&config(cache, about)).map_err(|e| Error::internal(e.to_string()))?;
    objects::replace(&folder.child("config.json"), config.into()).await
}

/// delphi's `CacheConfig` and the model's name.
fn config(cache: &Cache, about: &About) -> Value {
    json!({
        "dataset_repo": about.pipeline, "dataset_split": about.documents, "dataset_name": "", "dataset_column": "text",
        "batch_size": 1, "cache_ctx_len": cache.context(), "ctx_len": cache.context(),
        "n_tokens": cache.ids().len(), "n_splits": SPLITS, "model_name": about.model,
    })
}

async fn write_split(cache: &Cache, split: &Split, upload: &mut Upload) -> Result<()> {
    let n = split.locations.len();
    let fits = split.locations.iter().flatten().all(|&x| x <= u32::from(u16::MAX));
    let (dtype, size) = if fits { ("U16", 2) } else { ("U32", 4) };
    let (locations, activations, tokens) = (n * 3 * size, n * 2, cache.ids().len() * 8);
    let tensor = |dtype: &str, shape: &[usize], start: usize, bytes: usize| json!({"dtype": dtype, "shape": shape, "data_offsets": [start, start + bytes]});
    // tokens first: whole words stay aligned
    let header = json!({
        "tokens": tensor("I64", &[cache.n_sequences(), cache.context()], 0, tokens),
        "locations": tensor(dtype, &[n, 3], tokens, locations),
        "activations": tensor("F16", &[n], tokens + locations, activations),
    });
    let mut header = header.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    upload.write(bytes.into()).await?;
    for ids in cache.ids().chunks(VALUES) {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect();
        upload.write(bytes.into()).await?;
    }
    for locations in split.locations.chunks(VALUES) {
        let values = locations.iter().flatten();
        let bytes: Vec<u8> = match fits {
            true => values.flat_map(|&x| (x as u16).to_le_bytes()).collect(),
            false => values.flat_map(|&x| x.to_le_bytes()).collect(),
        };
        upload.write(bytes.into()).await?;
    }
    for activations in split.activations.chunks(VALUES) {
        let bytes: Vec<u8> = activations.iter().flat_map(|x| x.to_le_bytes()).collect();
        upload.write(bytes.into()).await?;
    }
    Ok(())
}
