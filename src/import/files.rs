//! Which files are imported, what they are, and how they are told apart.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use serde::Serialize;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};
use crate::import::ranges::RangeReader;
use crate::import::{ImportOptions, Sequences, arrow_file, npy, safetensors, tables};
use crate::store::{self, Location, objects};

/// Pieces of a file that are compared, from its beginning to its end in equal steps.
const PIECES: u64 = 8;
/// Bytes of a piece; a file that is not larger than all of them is compared whole.
const PIECE_BYTES: u64 = 128 << 10;
/// Files that are looked at together.
const FILES_AT_A_TIME: usize = 16;
/// Names of files that were passed over that are kept.
const NAMES_KEPT: usize = 20;

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
    /// Its path below the folder that all sources are in.
    pub(super) name: String,
    pub(super) bytes: u64,
    /// A checksum of pieces of it.
    pub(super) checksum: u128,
    format: Format,
}

/// Files in the folders that were named that are of no format that is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// How many.
    pub files: u64,
    /// The first of them.
    pub names: Vec<String>,
}

impl InputFile {
    fn new(place: Location, bytes: u64, format: Format) -> Self {
        Self { place, name: String::new(), bytes, checksum: 0, format }
    }

    /// Open it. Must be called within a runtime, on a thread that may block.
    pub(super) fn open(&self, options: &ImportOptions) -> Result<Box<dyn Sequences>> {
        let io = tokio::runtime::Handle::current();
        let file = std::sync::Arc::new(RangeReader::new(self.place.clone(), self.bytes, io));
        Ok(match self.format {
            Format::Npy => Box::new(npy::open(file, options)?),
            Format::Safetensors => Box::new(safetensors::open(file, options)?),
            Format::Parquet => Box::new(tables::parquet(file, options)?),
            Format::ArrowFile => Box::new(tables::arrow(arrow_file::ArrowFile::open(file)?, options)?),
        })
    }

    /// The names of its store, its folders and itself.
    fn path(&self) -> Vec<String> {
        path(&self.place)
    }

    /// XXH3-128 of pieces at equal distances, first and last bytes included. To read everything for it would double what an
    /// import costs, and files that were computed anew differ everywhere.
    async fn with_checksum(mut self) -> Result<Self> {
        let ranges: Vec<_> = if self.bytes <= PIECES * PIECE_BYTES {
            std::iter::once(0..self.bytes).filter(|range| !range.is_empty()).collect()
        } else {
            let last = self.bytes - PIECE_BYTES;
            (0..PIECES)
                .map(|i| (u128::from(last) * u128::from(i) / u128::from(PIECES - 1)) as u64)
                .map(|from| from..from + PIECE_BYTES)
                .collect()
        };
        let read = self.place.store.get_ranges(&self.place.path, &ranges).await;
        let pieces = read.map_err(|e| store::error("read", &self.place.shown, e))?;
        let mut digest = Xxh3::new();
        pieces.iter().for_each(|piece| digest.update(piece));
        self.checksum = digest.digest128();
        Ok(self)
    }
}

/// All files of `sources`: those that are files, and those in folders, by the numbers in their names.
///
/// # Errors
/// `Config` for a file that is named twice; `Data` for pickles, archives, and a source without any file that is read.
pub(super) async fn find(sources: &[Location]) -> Result<(Vec<InputFile>, PassedOver)> {
    let (mut found, mut passed_over) = (Vec::new(), PassedOver::default());
    let mut folders = Vec::new();
    for source in sources {
        if let Some(format) = format_of(&source.shown)? {
            match source.store.head(&source.path).await {
                Ok(meta) => {
                    let file = InputFile::new(source.clone(), meta.size, format);
                    let mut folder = file.path();
                    folder.pop();
                    folders.push(folder);
                    found.push(file);
                    continue;
                }
                // a folder may be called anything
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(store::error("read", &source.shown, error)),
            }
        }
        let mut inside = in_folder(source, &mut passed_over).await?;
        if inside.is_empty() {
            let what = "holds no .npy, .safetensors, .parquet, .arrow or .feather file";
            return Err(Error::data(format!("`{}` {what}", source.shown)));
        }
        inside.sort_by_cached_key(|file| natural(file.place.path.as_ref()));
        found.extend(inside);
        folders.push(path(source));
    }
    u32::try_from(found.len()).map_err(|_| Error::data("there are too many files"))?;
    name(&mut found, &folders)?;
    let with_checksums = found.into_iter().map(InputFile::with_checksum).collect::<Vec<_>>();
    let found = futures::stream::iter(with_checksums).buffered(FILES_AT_A_TIME).try_collect().await?;
    Ok((found, passed_over))
}

async fn in_folder(folder: &Location, passed_over: &mut PassedOver) -> Result<Vec<InputFile>> {
    let mut inside = Vec::new();
    for object in objects::list(folder).await? {
        let Some(parts) = object.location.prefix_match(&folder.path) else { continue };
        let name = parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
        let place = Location {
            // as the store calls it: to join the name to the folder's would encode it once more
            path: object.location.clone(),
            shown: format!("{}/{}", folder.shown, legible(&name, folder)),
            local: folder.local.as_ref().map(|local| local.join(legible(&name, folder))),
            ..folder.clone()
        };
        match format_of(&place.shown)? {
            Some(format) => inside.push(InputFile::new(place, object.size, format)),
            None => {
                passed_over.files += 1;
                if passed_over.names.len() < NAMES_KEPT {
                    passed_over.names.push(place.shown);
                }
            }
        }
    }
    Ok(inside)
}

/// `name` as it is on disk: local stores escape what paths of objects may not contain.
fn legible(name: &str, folder: &Location) -> String {
    match folder.local {
        Some(_) => percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned(),
        None => name.to_owned(),
    }
}

fn path(place: &Location) -> Vec<String> {
    let folders = place.path.parts().map(|part| part.as_ref().to_owned());
    std::iter::once(place.backend.name.clone()).chain(folders).collect()
}

/// Name each file by its path below the folder that all of `folders` are in: what is called the same in two folders is
/// told apart, and the same files in another place are the same.
fn name(files: &mut [InputFile], folders: &[Vec<String>]) -> Result<()> {
    let Some((first, others)) = folders.split_first() else { return Ok(()) };
    let common = others.iter().fold(first.len(), |n, other| {
        let same = first.iter().zip(other).take_while(|(a, b)| a == b).count();
        n.min(same)
    });
    for file in files.iter_mut() {
        file.name = file.path()[common..].join("/");
    }
    let mut names = HashSet::new();
    match files.iter().find(|file| !names.insert(&file.name)) {
        Some(twice) => Err(Error::config(format!("`{}` is named twice", twice.place.shown))),
        None => Ok(()),
    }
}

/// The format by the name's ending; none for what is not data, an error for what must not be read.
fn format_of(name: &str) -> Result<Option<Format>> {
    let ending = name.rsplit('/').next().and_then(|file| file.rsplit_once('.')).map(|(_, ending)| ending);
    match ending.map(str::to_ascii_lowercase).as_deref() {
        Some("npy") => Ok(Some(Format::Npy)),
        Some("safetensors") => Ok(Some(Format::Safetensors)),
        Some("parquet") => Ok(Some(Format::Parquet)),
        Some("arrow" | "feather") => Ok(Some(Format::ArrowFile)),
        Some("pt" | "pth" | "pkl" | "pickle") => Err(Error::data(format!(
            "`{name}` is a pickle, which can run anything when it is read, and is not read: save it as safetensors with \
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
        for other in ["acts/metadata.json", "acts.d/x", "index.bin", "README"] {
            assert_eq!(format_of(other).unwrap(), None, "{other}");
        }
    }

    async fn put(name: &str, bytes: Vec<u8>) {
        let place = Location::open(&format!("memory://import-files/{name}")).unwrap();
        objects::replace(&place, bytes.into()).await.unwrap();
    }

    async fn found(sources: &[&str]) -> Result<(Vec<InputFile>, PassedOver)> {
        let open = |name: &&str| Location::open(&format!("memory://import-files/{name}")).unwrap();
        find(&sources.iter().map(open).collect::<Vec<_>>()).await
    }

    #[tokio::test]
    async fn files_are_known_by_path_size_and_content() {
        for name in ["a/x.npy", "a/y.npy", "b/x.npy", "b/README", "b/deep/index.bin"] {
            put(name, vec![7; 3 << 20]).await;
        }
        let names = |found: &(Vec<InputFile>, _)| found.0.iter().map(|f| f.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found(&["a/x.npy"]).await.unwrap()), ["x.npy"]);
        assert_eq!(names(&found(&["a/x.npy", "a/y.npy"]).await.unwrap()), ["x.npy", "y.npy"]);
        assert_eq!(names(&found(&["a/x.npy", "b/x.npy"]).await.unwrap()), ["a/x.npy", "b/x.npy"]);
        let both = found(&["a", "b"]).await.unwrap();
        assert_eq!(names(&both), ["a/x.npy", "a/y.npy", "b/x.npy"]);
        assert_eq!((both.1.files, both.1.names.len()), (2, 2), "{:?}", both.1);
        assert!(both.1.names.iter().any(|name| name.ends_with("b/deep/index.bin")), "{:?}", both.1);
        for twice in [["a/x.npy", "a/x.npy"], ["a", "a/y.npy"]] {
            let error = found(&twice).await.unwrap_err().to_string();
            assert!(error.contains("named twice"), "{error}");
        }
        // the same size, other content: at the beginning, in the middle, at the end
        let before = both.0[0].checksum;
        assert_eq!(before, both.0[1].checksum);
        for at in [0, (3 << 20) - 1, ((3 << 20) - (128 << 10)) * 3 / 7 + 5] {
            let mut bytes = vec![7; 3 << 20];
            bytes[at] = 8;
            put("a/x.npy", bytes).await;
            assert!(found(&["a"]).await.unwrap().0[0].checksum != before, "{at}");
        }
        // names that paths of objects hold only escaped
        for name in ["odd/ü.npy", "odd/a b%25/x~[1].npy"] {
            put(name, vec![1; 100]).await;
        }
        assert_eq!(found(&["odd"]).await.unwrap().0.len(), 2);
        put("b/x.pkl", Vec::new()).await;
        assert!(found(&["b"]).await.unwrap_err().to_string().contains("x.pkl` is a pickle"));
    }
}
