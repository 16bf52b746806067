//! Trained coders in stores: folders that SAELens, sparsify or this program wrote.

use crate::error::{Error, Result};
use crate::sae::export::{CONFIG_FILE, ExportedCoder};
use crate::sae::formats::{self, READ_FILES};
use crate::store::Location;
use crate::store::objects;

/// Below a trainer's checkpoints, the coder as SAELens reads it.
pub(super) const EXPORT_FOLDER: &str = "saelens";

/// The coder in `folder`: one that was exported, or that of a trainer whose checkpoints are there.
///
/// # Errors
/// `Data` if there is none, or one that cannot be read; what the store gives.
pub async fn read(folder: &Location) -> Result<ExportedCoder> {
    if let Some(coder) = find(folder).await? {
        return Ok(coder);
    }
    // where a trainer keeps its checkpoints
    find(&folder.child(EXPORT_FOLDER)).await?.ok_or_else(|| {
        Error::data(format!(
            "`{}` holds no coder of SAELens or sparsify ({CONFIG_FILE}), and neither does its `{EXPORT_FOLDER}`, where a \
             trainer's coder is written if SAELens has a form of it",
            folder.shown
        ))
    })
}

/// The coder in `folder`, if there is one.
///
/// # Errors
/// As [`read`].
pub async fn find(folder: &Location) -> Result<Option<ExportedCoder>> {
    let mut files = Vec::new();
    for name in READ_FILES {
        match objects::read(&folder.child(name)).await? {
            Some(bytes) => files.push((name.to_owned(), bytes.into())),
            // the configuration is asked for first
            None if files.is_empty() => return Ok(None),
            None => {}
        }
    }
    formats::read(&files).map(Some)
}
