//! Which files are imported, and what they are.

use object_store::ObjectStoreExt;

use crate::error::{Error, Result};
use crate::import::ranges::RangeReader;
use crate::import::{ImportOptions, Sequences, npy, safetensors, tables};
use crate::store::{self, Location, objects};

/// What a file's name says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Npy,
    Safetensors,
    Parquet,
    ArrowFile,
}

/// One file: one unit.
#[derive(Clone, Debug)]
pub(super) struct InputFile {
    pub(super) place: Location,
    /// Below what was named.
    pub(super) name: String,
    pub(super) bytes: u64,
    format: Format,
}

impl InputFile {
    /// Open it. Must be called within a runtime, on a thread that may block.
    pub(super) fn open(&self, options: &ImportOptions) -> Result<Box<dyn Sequences>> {
        let io = tokio::runtime::Handle::current();
        let file = std::sync::Arc::new(RangeReader::new(self.place.clone(), self.bytes, io));
        Ok(match self.format {
            Format::Npy => Box::new(npy::open(file, options)?),
            Format::Safetensors => Box::new(safetensors::open(file, options)?),
            Format::Parquet => Box::new(tables::parquet(file, options)?),
            Format::ArrowFile => Box::new(tables::arrow(file, options)?),
        })
    }
}

/// All files of `sources`: those that are files, and those in folders, by the numbers in their names.
pub(super) async fn find(sources: &[Location]) -> Result<Vec<InputFile>> {
    let mut found = Vec::new();
    for source in sources {
        if let Some(format) = format_of(&source.shown)? {
            match source.store.head(&source.path).await {
                Ok(meta) => {
                    let name = source.path.filename().unwrap_or_default().to_owned();
                    found.push(InputFile { place: source.clone(), name, bytes: meta.size, format });
                    continue;
                }
                // a folder may be called anything
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(store::error("read", &source.shown, error)),
            }
        }
        let mut inside = in_folder(source).await?;
        if inside.is_empty() {
            let what = "holds no .npy, .safetensors, .parquet or .arrow file";
            return Err(Error::data(format!("`{}` {what}", source.shown)));
        }
        inside.sort_by_cached_key(|file| natural(&file.name));
        found.extend(inside);
    }
    u32::try_from(found.len()).map_err(|_| Error::data("there are too many files"))?;
    Ok(found)
}

async fn in_folder(folder: &Location) -> Result<Vec<InputFile>> {
    let mut inside = Vec::new();
    for object in objects::list(folder).await? {
        let whole = object.location.as_ref();
        let name = whole.strip_prefix(folder.path.as_ref()).unwrap_or(whole).trim_start_matches('/').to_owned();
        if let Some(format) = format_of(&name)? {
            inside.push(InputFile { place: folder.child(&name), name, bytes: object.size, format });
        }
    }
    Ok(inside)
}

/// The format by the name's ending; none for what is not data, an error for what must not be read.
fn format_of(name: &str) -> Result<Option<Format>> {
    let ending = name.rsplit('/').next().and_then(|file| file.rsplit_once('.')).map(|(_, ending)| ending);
    match ending.map(str::to_ascii_lowercase).as_deref() {
        Some("npy") => Ok(Some(Format::Npy)),
        Some("safetensors") => Ok(Some(Format::Safetensors)),
        Some("parquet") => Ok(Some(Format::Parquet)),
        Some("arrow" | "feather") => Ok(Some(Format::ArrowFile)),
        Some("pt" | "pth" | "pkl" | "pickle" | "bin") => Err(Error::data(format!(
            "`{name}` is a pickle, which can run anything when it is read: save it as safetensors with \
             `safetensors.torch.save_file(torch.load(f, weights_only=True), f.replace('.pt', '.safetensors'))`"
        ))),
        Some("npz") => Err(Error::data(format!("`{name}` is an archive: save each array with `numpy.save`"))),
        _ => Ok(None),
    }
}

/// Names in the order of the numbers in them: `2` before `10`.
fn natural(name: &str) -> Vec<(u8, u128, String)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let is_digit = first.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != is_digit).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        match part.parse::<u128>() {
            Ok(number) if is_digit => parts.push((0, number, part.to_owned())),
            _ => parts.push((1, 0, part.to_owned())),
        }
        rest = after;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count() {
        let mut names = ["b/10.npy", "b/9.npy", "a/100.npy", "b/9a.npy", "b/010.npy"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["a/100.npy", "b/9.npy", "b/9a.npy", "b/010.npy", "b/10.npy"]);
    }

    #[test]
    fn pickles_are_refused_with_what_to_do() {
        let error = format_of("acts/000.pt").unwrap_err().to_string();
        assert!(error.contains("pickle") && error.contains("save_file"), "{error}");
        assert_eq!(format_of("acts/metadata.json").unwrap(), None);
        assert_eq!(format_of("acts.d/x").unwrap(), None);
    }
}
