//! Corpora that grow: files that appear are appended as units, and what was there stays what it was.
//!
//! What was found is written down before it is read, in a *log* beside what the run produces: one object for each *instalment*
//! of files (`0000000001.json`, ...), put if absent, with each file's name, size, version and where it may be cut. So the units
//! of a corpus are a function of its log alone: whoever reads it, whenever, has the same units with the same numbers, whatever
//! happened to the files since. Of several runs that find files at the same time one writes the instalment, and the others
//! take it. An instalment's units come after those of the one before ([`crate::tokens::schedule`]).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::corpus::config::CorpusConfig;
use crate::corpus::listing::{self, SourceFile};
use crate::corpus::units::{Cut, FileShape};
use crate::corpus::{Corpus, shapes, warn_of_oversized};
use crate::error::{Error, Result};
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;
use crate::store::objects::{self, Created};
use crate::store::{Location, Stores};
use crate::units::HumanDuration;

/// Version of the log.
const FORMAT: u32 = 1;
/// Between two looks, where nothing else is said.
const EVERY: Duration = Duration::from_secs(60);
/// Files of one instalment, at most: what is written down stays small.
const FILES_MAX: usize = 10_000;

/// Whether new files are looked for, and how often: `false`, `true`, or a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Follow(Option<Duration>);

impl Follow {
    /// Time between two looks; `None` if the corpus is what is there when a run begins.
    pub fn every(self) -> Option<Duration> {
        self.0
    }

    /// Whether it is the default.
    pub fn is_off(&self) -> bool {
        self.0.is_none()
    }
}

impl From<Duration> for Follow {
    fn from(every: Duration) -> Self {
        Self(Some(every))
    }
}

impl Serialize for Follow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            None => serializer.serialize_bool(false),
            Some(every) if every == EVERY => serializer.serialize_bool(true),
            Some(every) => HumanDuration(every).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Follow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl de::Visitor<'_> for Word {
            type Value = Follow;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("true, false or a time such as 30s")
            }

            fn visit_bool<E: de::Error>(self, yes: bool) -> Result<Follow, E> {
                Ok(Follow(yes.then_some(EVERY)))
            }

            // variables (`${X}`) come as text
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Follow, E> {
                match word {
                    "true" => Ok(Follow(Some(EVERY))),
                    "false" => Ok(Follow(None)),
                    _ => match word.parse::<HumanDuration>().map_err(E::custom)?.0 {
                        every if every.is_zero() => Err(E::custom("must be true, false or a time longer than 0")),
                        every => Ok(Follow(Some(every))),
                    },
                }
            }
        }
        deserializer.deserialize_any(Word)
    }
}

impl JsonSchema for Follow {
    fn schema_name() -> Cow<'static, str> {
        "Follow".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["boolean", "string"], "pattern": "^(true|false|[0-9.]+ ?[a-z]+)$",
            "x-rule": "must be true, false or a time such as 30s", "description": "Whether new files are looked for, and how often."})
    }
}

/// An instalment as it is written down.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Instalment {
    format: u32,
    /// When it was found, RFC 3339 in UTC. For people.
    found: String,
    files: Vec<LoggedFile>,
}

/// A file of it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct LoggedFile {
    name: String,
    bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    cut: Cut,
}

/// Looks for files, and writes them down.
pub struct Follower {
    config: CorpusConfig,
    stores: Stores,
    log: Location,
    clock: Clock,
    every: Duration,
    /// Instalments that are read.
    instalments: u64,
    /// Names of their files.
    known: HashSet<String>,
}

/// A corpus, and what makes it grow.
pub struct Followed {
    /// As far as it was written down.
    pub corpus: Corpus,
    /// Makes it grow.
    pub follower: Follower,
}

impl Follower {
    /// Read the log, and wait for the first file if there was none yet. Told to end meanwhile, this is
    /// [`Error::closed`].
    ///
    /// # Errors
    /// `Data` for a log that is damaged, those of listing and of stores.
    pub async fn open(
        config: &CorpusConfig,
        stores: &Stores,
        log: Location,
        clock: &Clock,
        shutdown: &Shutdown,
    ) -> Result<Followed> {
        let every = config.follow().every().ok_or_else(|| Error::internal("a corpus that is not followed"))?;
        let (config, stores, clock) = (config.clone(), stores.clone(), clock.clone());
        let mut follower = Self { config, stores, log, clock, every, instalments: 0, known: HashSet::new() };
        let mut corpus = follower.read_all().await?;
        let mut said = false;
        while corpus.n_units() == 0 {
            if let Some(grown) = follower.look(&corpus).await? {
                corpus = grown;
                break;
            }
            if !std::mem::replace(&mut said, true) {
                tracing::info!(paths = follower.config.paths().join(" "), "waiting for the first file of the corpus");
            }
            tokio::select! {
                () = shutdown.draining() => return Err(Error::closed("the corpus")),
                () = tokio::time::sleep(every) => {}
            }
        }
        Ok(Followed { corpus, follower })
    }

    /// Time between two looks.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// The corpus with the next instalment of files, if there is one.
    ///
    /// # Errors
    /// Those of listing and of stores; after one, this may be asked again.
    pub async fn look(&mut self, corpus: &Corpus) -> Result<Option<Corpus>> {
        let number = self.instalments + 1;
        let place = self.log.child(&name_of(number));
        let (instalment, listed) = match objects::read(&place).await? {
            // another run found it, or this one before it was killed
            Some(bytes) => (read(&place, &bytes)?, Vec::new()),
            None => {
                let new = self.list().await?;
                if new.is_empty() {
                    return Ok(None);
                }
                let instalment = self.describe(corpus, &new).await?;
                match objects::create(&place, to_json(&instalment).into()).await? {
                    Created::Yes => (instalment, new),
                    Created::No(bytes) => (read(&place, &bytes)?, Vec::new()),
                }
            }
        };
        let grown = self.append(corpus, instalment, &by_name(listed))?;
        let (files, units) = (grown.files().len() - corpus.files().len(), grown.n_units() - corpus.n_units());
        tracing::info!(files, units, instalment = number, "new files of the corpus");
        Ok(Some(grown))
    }

    /// Everything that was written down.
    async fn read_all(&mut self) -> Result<Corpus> {
        let mut numbers: Vec<u64> = objects::list(&self.log)
            .await?
            .iter()
            .filter_map(|object| object.location.filename()?.strip_suffix(".json")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        if let Some(missing) = (1..).zip(&numbers).find_map(|(wanted, &number)| (number != wanted).then_some(wanted)) {
            let what = format!("`{}` is missing, but later ones are there", self.log.child(&name_of(missing)).shown);
            return Err(Error::data(format!("the log of the corpus's files has a gap: {what}; put it back")));
        }
        let mut corpus = Corpus::empty(&self.config)?;
        if numbers.is_empty() {
            return Ok(corpus);
        }
        let listed = by_name(listing::list_there(self.config.paths(), &self.stores).await?);
        for number in numbers {
            let place = self.log.child(&name_of(number));
            let gone = || Error::data(format!("`{}` is gone", place.shown));
            let bytes = objects::read(&place).await?.ok_or_else(gone)?;
            corpus = self.append(&corpus, read(&place, &bytes)?, &listed)?;
        }
        Ok(corpus)
    }

    /// Files that are there, whole, and not known.
    async fn list(&self) -> Result<Vec<SourceFile>> {
        let mut found = listing::list_there(self.config.paths(), &self.stores).await?;
        // object stores show whole objects only; a local file may still be written
        let settled = self.clock.since_epoch().saturating_sub(self.every);
        found.retain(|file| {
            let whole = file.location.local.is_none() || file.modified <= settled;
            whole && !self.known.contains(&file.location.shown)
        });
        found.truncate(FILES_MAX);
        Ok(found)
    }

    async fn describe(&self, corpus: &Corpus, files: &[SourceFile]) -> Result<Instalment> {
        warn_of_oversized(&self.config, files);
        let shapes = shapes(&self.config, corpus.field(), files, corpus.fetcher()).await?;
        let logged = |(file, shape): (&SourceFile, FileShape)| LoggedFile {
            name: file.location.shown.clone(),
            bytes: file.bytes,
            version: file.version.clone(),
            cut: shape.cut,
        };
        let files = files.iter().zip(shapes).map(logged).collect();
        Ok(Instalment { format: FORMAT, found: self.clock.timestamp(), files })
    }

    /// The corpus with the units of `instalment`.
    fn append(
        &mut self,
        corpus: &Corpus,
        instalment: Instalment,
        listed: &HashMap<String, SourceFile>,
    ) -> Result<Corpus> {
        let (mut files, mut shapes) = (Vec::new(), Vec::new());
        for LoggedFile { name, bytes, version, cut } in instalment.files {
            let location = match listed.get(&name) {
                Some(file) => file.location.clone(),
                None => self.stores.open(&name)?,
            };
            self.known.insert(name);
            files.push(SourceFile { location, bytes, version, modified: Duration::ZERO });
            shapes.push(FileShape { bytes, cut });
        }
        self.instalments += 1;
        corpus.grown(files, &shapes)
    }
}

fn by_name(files: Vec<SourceFile>) -> HashMap<String, SourceFile> {
    files.into_iter().map(|file| (file.location.shown.clone(), file)).collect()
}

fn name_of(instalment: u64) -> String {
    format!("{instalment:010}.json")
}

fn to_json(instalment: &Instalment) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(instalment).expect("strings and numbers serialise");
    text.push(b'\n');
    text
}

fn read(place: &Location, bytes: &[u8]) -> Result<Instalment> {
    let damaged = |what: String| Error::data(format!("`{}` is not a list of files: {what}", place.shown));
    let instalment: Instalment = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    if instalment.format != FORMAT {
        let found = instalment.format;
        return Err(damaged(format!("format {found} is not known; this version reads {FORMAT}")));
    }
    Ok(instalment)
}

impl Corpus {
    /// A corpus without files.
    fn empty(config: &CorpusConfig) -> Result<Self> {
        Self::of(config, Vec::new(), Vec::new())
    }

    /// This one and the units of more files, which get the next numbers. What identifies the corpus is its first instalment.
    fn grown(&self, files: Vec<SourceFile>, shapes: &[FileShape]) -> Result<Self> {
        let unit_bytes = self.config.unit_bytes().0;
        let more = crate::corpus::units::split(shapes, unit_bytes)?;
        let (n_files, n_units) = (self.files.len() as u32, self.n_units());
        let fingerprint = match self.files.is_empty() {
            true => listing::fingerprint(&files),
            false => self.fingerprint.clone(),
        };
        let mut units = self.units.clone();
        let mut instalments = self.instalments.clone();
        instalments.push(more.len() as u32);
        units.extend(more.into_iter().map(|mut unit| {
            unit.index += n_units;
            unit.spans.iter_mut().for_each(|span| span.file += n_files);
            unit
        }));
        crate::corpus::units::check_number(units.len() as u64)?;
        Ok(Self {
            config: self.config.clone(),
            field: self.field.clone(),
            files: self.files.iter().cloned().chain(files).collect(),
            units,
            instalments,
            fingerprint,
            fetcher: self.fetcher.clone(),
            document_bytes_max: self.document_bytes_max,
        })
    }
}

/// Makes the stream of a followed corpus go on when it is at its end.
pub struct Growth {
    /// Looks for files.
    pub follower: Follower,
    /// Where looking is done.
    pub io: tokio::runtime::Handle,
}

impl Growth {
    /// Wait for more of `corpus`, blocking the thread, until there is some or `stop` says so.
    ///
    /// # Errors
    /// Those that will not pass: a store that does not answer is asked again.
    pub fn wait(&mut self, corpus: &Corpus, stop: &dyn Fn() -> bool) -> Result<Option<Arc<Corpus>>> {
        const STOP_EVERY: Duration = Duration::from_millis(100);
        loop {
            match self.io.block_on(self.follower.look(corpus)) {
                Ok(Some(grown)) => return Ok(Some(Arc::new(grown))),
                Ok(None) => {}
                Err(error) if error.kind().retryable() => {
                    tracing::warn!(%error, "cannot look for new files of the corpus, trying again");
                }
                Err(error) => return Err(error.context("look for new files of the corpus")),
            }
            let mut left = self.follower.every();
            while !left.is_zero() {
                if stop() {
                    return Ok(None);
                }
                let part = left.min(STOP_EVERY);
                std::thread::sleep(part);
                left -= part;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::config::TextDocument;
    use crate::error::ErrorKind;
    use crate::units::{ByteSize, Percent};

    fn config(folder: &std::path::Path) -> CorpusConfig {
        CorpusConfig::Text {
            paths: vec![format!("{}/*.txt", folder.display())],
            document: TextDocument::Line,
            unit_bytes: ByteSize(100),
            holdout: Percent::from_share(0.0),
            follow: Duration::from_millis(1).into(),
        }
    }

    async fn opened(folder: &std::path::Path) -> Result<Followed> {
        let log = Location::open(&folder.join("log").display().to_string())?;
        let (clock, shutdown) = (Clock::system(), Shutdown::new(Duration::ZERO));
        Follower::open(&config(folder), &Stores::default(), log, &clock, &shutdown).await
    }

    fn write(folder: &std::path::Path, name: &str, bytes: usize) {
        std::fs::write(folder.join(name), "x".repeat(bytes)).unwrap();
        // older than two looks
        std::thread::sleep(Duration::from_millis(5));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn units_are_appended_and_stay_what_they_were() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path();
        write(folder, "m.txt", 250);
        let Followed { corpus, mut follower } = opened(folder).await.unwrap();
        assert_eq!((corpus.n_units(), corpus.instalments()), (3, &[3][..]));
        assert!(follower.look(&corpus).await.unwrap().is_none());
        // one that sorts before, and one that is small
        write(folder, "a.txt", 120);
        write(folder, "z.txt", 10);
        let grown = follower.look(&corpus).await.unwrap().unwrap();
        assert_eq!((grown.n_units(), grown.instalments()), (6, &[3, 3][..]));
        assert_eq!(grown.units()[..3], corpus.units()[..]);
        assert_eq!(grown.files()[1].location.shown, format!("{}/a.txt", folder.display()));
        assert!(grown.units().iter().enumerate().all(|(i, unit)| unit.index as usize == i));
        assert_eq!(grown.fingerprint(), corpus.fingerprint());
        // what is gone keeps its number; what is new gets the next one
        std::fs::remove_file(folder.join("m.txt")).unwrap();
        write(folder, "b.txt", 10);
        let Followed { corpus: again, mut follower } = opened(folder).await.unwrap();
        assert_eq!((again.units(), again.fingerprint()), (grown.units(), grown.fingerprint()));
        assert_eq!(follower.look(&again).await.unwrap().unwrap().n_units(), 7);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_two_that_find_files_one_decides() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path();
        write(folder, "a.txt", 10);
        let (mut one, mut two) = (opened(folder).await.unwrap(), opened(folder).await.unwrap());
        write(folder, "c.txt", 10);
        let first = one.follower.look(&one.corpus).await.unwrap().unwrap();
        write(folder, "b.txt", 10);
        let second = two.follower.look(&two.corpus).await.unwrap().unwrap();
        assert_eq!((first.units(), first.files().len()), (second.units(), second.files().len()));
        let second = two.follower.look(&second).await.unwrap().unwrap();
        let first = one.follower.look(&first).await.unwrap().unwrap();
        assert_eq!((first.units(), first.n_units()), (second.units(), 3));
        // a log with a gap is not guessed
        std::fs::remove_file(folder.join("log").join(name_of(2))).unwrap();
        let error = opened(folder).await.err().unwrap();
        assert!(error.kind() == ErrorKind::Data && error.to_string().contains("0000000002.json"), "{error}");
        std::fs::write(folder.join("log").join(name_of(2)), "{}").unwrap();
        assert_eq!(opened(folder).await.err().unwrap().kind(), ErrorKind::Data);
    }

    #[test]
    fn it_is_written_as_a_word_or_a_time() {
        let of = |text: &str| serde_json::from_str::<Follow>(text).map(Follow::every);
        assert_eq!(of("true").unwrap(), Some(EVERY));
        assert_eq!((of("false").unwrap(), of("\"false\"").unwrap()), (None, None));
        assert_eq!(of("\"30s\"").unwrap(), Some(Duration::from_secs(30)));
        assert!(of("\"often\"").is_err() && of("3").is_err() && of("\"0s\"").is_err());
        for text in ["true", "false", "\"30s\""] {
            assert_eq!(serde_json::to_string(&serde_json::from_str::<Follow>(text).unwrap()).unwrap(), text);
        }
    }
}
