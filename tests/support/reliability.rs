//! What tests that inject faults share: the list of faults, the rows of a dataset to compare, and the table of
//! `docs/reliability.md`, whose figures come from here.
//!
//! `UPDATE_DOCS=1 HARVESTD_LONG_TESTS=1 cargo test --release` (and the same with `--features failpoints --test failpoints`)
//! writes the table anew: each test its own row.

use std::collections::BTreeMap;
use std::path::Path;

use harvestd::catalog::Catalog;
use harvestd::dataset::decoder::decode_all;
use harvestd::store::{Location, objects};

/// A fault that a test injects, and where: a row of the table.
pub struct Fault {
    /// Its name in the table.
    pub name: &'static str,
    /// What happens to a run.
    pub what: &'static str,
    /// The test that injects it.
    pub test: &'static str,
}

const fn fault(name: &'static str, what: &'static str, test: &'static str) -> Fault {
    Fault { name, what, test }
}

/// Every fault, in the order of the table. A test that injects a new one adds it here.
#[rustfmt::skip]
pub const FAULTS: &[Fault] = &[
    fault("kill at a stage border", "`kill -9` where one stage hands over to the next, or one request follows another", "failpoints"),
    fault("kill at random", "`kill -9` at any moment, again and again, until a run ends", "crash_resume"),
    fault("two processes", "two runs write one dataset at the same time (`shared: true`)", "reliability"),
    fault("four processes, killed", "four runs write one dataset; each is killed and started again at random", "reliability"),
    fault("disk full", "no space is left while shards are written; then there is", "reliability"),
    fault("read-only folder", "the dataset cannot be written to; then it can", "reliability"),
    fault("folder gone", "the dataset's folder is moved away while a run writes, and back", "reliability"),
    fault("store: 500 and 503", "S3 answers 500 or 503, one to four times in a row, to a quarter of the requests", "stores"),
    fault("store: slow start", "S3 answers 503 for a second, and slowly for another", "stores"),
    fault("store: no answer", "S3 does not answer a sixteenth of the requests, half of which it did", "stores"),
    fault("store: truncated bodies", "the connection closes in the midst of a third of the bodies", "stores"),
    fault("store: reset before", "the connection closes before a fifth of the requests is done", "stores"),
    fault("store: reset after", "the connection closes after a fifth of the requests was done: the answer is lost", "stores"),
    fault("store: 412 after success", "half of the conditional writes that were done are answered by 412", "stores"),
    fault("store: 409", "half of the conditional writes are answered by 409, whether they were done or not", "stores"),
    fault("store: clock refused", "S3 refuses a twentieth of the requests for the machine's clock (403)", "stores"),
    fault("store: anything", "any of these, at random", "stores"),
    fault("store: conditions ignored", "a server that writes over everything; a single writer says `conditional_put: none`", "stores"),
    fault("store: loses what it accepted", "every fourth shard is gone after the server said that it has it", "stores"),
    fault("simulated workers", "workers over a store with lost answers, errors, delays, stale listings, crashes", "reliability"),
];

/// How the rows of a dataset differ from those of an undisturbed run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Rows that are missing, or hold other values.
    pub lost: u64,
    /// Rows that are there more than once.
    pub twice: u64,
    /// Rows that an undisturbed run does not have.
    pub foreign: u64,
}

/// A row's place: unit, sequence, position.
type Place = (u32, u32, u32);

/// The rows of a dataset: the bits of everything that is stored of a row, for each time it is stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows(BTreeMap<Place, Vec<u128>>);

impl Rows {
    /// All rows that a reader of the dataset at `location` sees.
    pub async fn read(location: &Location) -> Self {
        let catalog = Catalog::open(location.clone()).await.unwrap();
        let mut all = Self::default();
        for commit in catalog.commits().await.unwrap() {
            let bytes = objects::read(&location.child(&commit.object)).await.unwrap();
            let bytes = bytes.unwrap_or_else(|| panic!("`{}` is committed and missing", commit.object));
            let (footer, rows) = decode_all(&bytes).unwrap();
            for i in 0..rows.seq.len() {
                let mut content: Vec<u8> = rows.doc_id[i].to_le_bytes().to_vec();
                content.extend(rows.token_id[i].to_le_bytes());
                for (site, values) in footer.sites().iter().zip(&rows.sites) {
                    content.extend(values[i * site.width..][..site.width].iter().flat_map(|x| x.to_le_bytes()));
                }
                let place = (rows.unit[i], rows.seq[i], rows.pos[i]);
                all.0.entry(place).or_default().push(xxhash_rust::xxh3::xxh3_128(&content));
            }
        }
        all
    }

    /// All rows of a dataset in a local folder.
    pub fn of_folder(folder: &Path) -> Self {
        let location = Location::open(folder.to_str().unwrap()).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(Self::read(&location))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// How `self` differs from the rows of an undisturbed run.
    pub fn against(&self, undisturbed: &Self) -> Difference {
        let mut difference = Difference::default();
        for (place, wanted) in &undisturbed.0 {
            match self.0.get(place) {
                None => difference.lost += 1,
                Some(found) => {
                    difference.lost += u64::from(!found.contains(&wanted[0]));
                    difference.twice += found.len() as u64 - 1;
                }
            }
        }
        difference.foreign = self.0.keys().filter(|place| !undisturbed.0.contains_key(place)).count() as u64;
        difference
    }
}

impl Difference {
    /// Of several runs.
    pub fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.twice += other.twice;
        self.foreign += other.foreign;
    }
}

/// What a test found: after `runs` runs with this fault, each repaired by running again, the rows differed by so much in
/// all. Fails unless they did not; with `UPDATE_DOCS` set it writes the fault's row of the table.
pub fn record(name: &str, runs: u64, difference: Difference) {
    let fault = FAULTS.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("`{name}` is not in FAULTS"));
    eprintln!("{name}: {runs} runs, {difference:?}");
    assert_eq!(difference, Difference::default(), "{name}, after {runs} runs");
    assert!(runs > 0, "{name} was never injected");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        // several tests, in several processes, write rows of one file
        let lock = std::fs::File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("reliability.lock")).unwrap();
        lock.lock().unwrap();
        let mut table = Table::read();
        table.rows.insert(name.to_owned(), row(fault, runs, difference));
        table.write();
    }
}

/// A row of the table, as it stands in the document.
pub fn row(fault: &Fault, runs: u64, difference: Difference) -> String {
    let Difference { lost, twice, .. } = difference;
    format!("| {} | {} | `{}` | {runs} | {lost} | {twice} |", fault.name, fault.what, fault.test)
}

/// The document, with its table taken apart.
pub struct Table {
    before: String,
    /// Name of the fault -> its row.
    pub rows: BTreeMap<String, String>,
    after: String,
}

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reliability.md");
const BEGIN: &str = "|---|---|---|---|---|---|\n";
const END: &str = "\n\n<!-- end of the table -->";

impl Table {
    /// As it stands in the document.
    pub fn read() -> Self {
        let text = std::fs::read_to_string(DOCUMENT).unwrap();
        let from = text.find(BEGIN).expect("the document has the table") + BEGIN.len();
        let to = text.find(END).expect("the table ends").max(from);
        let rows = text[from..to].lines().filter(|line| line.starts_with('|')).map(|line| {
            let name = line.trim_start_matches("| ").split(" | ").next().unwrap_or_default();
            (name.to_owned(), line.to_owned())
        });
        Self { rows: rows.collect(), before: text[..from].to_owned(), after: text[to..].to_owned() }
    }

    fn write(&self) {
        let known = FAULTS.iter().filter_map(|fault| self.rows.get(fault.name)).cloned().collect::<Vec<_>>();
        std::fs::write(DOCUMENT, format!("{}{}{}", self.before, known.join("\n"), self.after)).unwrap();
    }
}
