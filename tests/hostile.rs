//! Files of models that somebody made to harm: each is an error or a model, never a panic, a hang or a huge allocation.
//!
//! Thousands of seeded mutations of good files. `tests/fuzz/` goes on from here with coverage.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harvestd::model::ModelSource;
use harvestd::model::gguf::Gguf;
use harvestd::model::weights::{Weights, safetensors};
use harvestd::tokens::special::ModelFiles;
use harvestd::tokens::{SpecialIds, Tokenizer};
use serde_json::{Value, json};

/// Knows how much memory is in use, and the most that was.
struct Measuring;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Measuring {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(in_use, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Measuring = Measuring;

/// Tests here measure memory, so one runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Run `work`, which may use `bytes_max` more than there is in use and take `limit`.
fn bounded<T>(what: &str, bytes_max: usize, limit: Duration, work: impl FnOnce() -> T) -> T {
    let before = IN_USE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let start = Instant::now();
    let result = work();
    let (used, took) = (PEAK.load(Ordering::Relaxed) - before, start.elapsed());
    assert!(used <= bytes_max, "{what}: {used} bytes");
    assert!(took <= limit, "{what}: {took:?}");
    result
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn one_of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// `good` with some bytes, numbers or lengths changed, mostly in its first `head` bytes.
    fn mutate(&mut self, good: &[u8], head: usize) -> Vec<u8> {
        const ODD: [u64; 12] =
            [0, 1, 2, 31, 0x7F, 0xFFFF, 1 << 31, u32::MAX as u64, 1 << 40, i64::MAX as u64, u64::MAX - 31, u64::MAX];
        let mut bytes = good.to_vec();
        for _ in 0..1 + self.below(4) {
            let range = if self.below(8) == 0 { bytes.len() } else { head.min(bytes.len()) };
            let at = self.below(range);
            let odd = self.one_of(&ODD).to_le_bytes();
            match self.below(6) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.next() as u8,
                2 => write(&mut bytes, at, &odd),
                3 => write(&mut bytes, at, &odd[..4]),
                4 => bytes.truncate(at.max(1)),
                _ => {
                    let end = (at + self.below(40)).min(bytes.len());
                    let copy = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    write(&mut bytes, to, &copy);
                }
            }
        }
        bytes
    }
}

fn write(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..].iter_mut().zip(what).for_each(|(to, &from)| *to = from);
}

fn fixture(name: &str) -> PathBuf {
    Path::new("tests/fixtures").join(name)
}

/// Everything that is read from a GGUF file; whether all of it could be.
fn read_gguf(bytes: &[u8]) -> harvestd::error::Result<()> {
    let gguf = Gguf::read_from(bytes, bytes.len() as u64)?;
    for info in gguf.infos() {
        let stored = &bytes[info.offset as usize..][..info.bytes as usize];
        if let Ok(encoding) = info.encoding {
            encoding.decode(stored, &mut vec![0.0; info.shape.iter().product()]);
        }
    }
    let config = gguf.config();
    let tensors = gguf.tensors(0);
    gguf.tokenizer_config()?;
    gguf.tokenizer_json()?;
    config.and(tensors).map(drop)
}

#[test]
fn mutated_gguf_files() {
    let _alone = ALONE.lock();
    let mut random = Random(1);
    for (name, head) in [("quants.gguf", 900), ("bytelevel.gguf", 16_000), ("sentencepiece.gguf", 15_000)] {
        let good = std::fs::read(fixture("gguf").join(name)).unwrap();
        let mut readable = 0;
        for case in 0..6000 {
            let bytes = random.mutate(&good, if case % 2 == 0 { 400 } else { head });
            let read = || Gguf::read_from(&bytes[..], bytes.len() as u64).is_ok();
            readable += usize::from(bounded(name, 8 << 20, Duration::from_secs(2), || {
                let _ = read_gguf(&bytes);
                read()
            }));
        }
        // most mutations must get past the first check, or little is tested
        assert!((300..5900).contains(&readable), "{name}: {readable}");
    }
}

#[test]
fn mutated_safetensors_files() {
    let _alone = ALONE.lock();
    let good = std::fs::read(fixture("golden/llama/model.safetensors")).unwrap();
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let mut random = Random(2);
    let mut readable = 0;
    for _ in 0..8000 {
        let bytes = random.mutate(&good, 8 + header);
        let read = || safetensors::read_header(&mut &bytes[..], bytes.len() as u64);
        if let Ok(tensors) = bounded("safetensors", 8 << 20, Duration::from_secs(2), read) {
            readable += 1;
            for info in tensors {
                let Some(encoding) = info.encoding() else { continue };
                let n: usize = info.shape.iter().product();
                let stored = &bytes[info.offset as usize..][..encoding.bytes(n as u64).unwrap() as usize];
                encoding.decode(stored, &mut vec![0.0; n]);
            }
        }
    }
    assert!((200..7900).contains(&readable), "{readable}");
}

/// Through the disk, as a run opens them.
#[test]
fn mutated_files_on_disk() {
    let _alone = ALONE.lock();
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(3);
    for name in ["gguf/quants.gguf", "golden/llama/model.safetensors"] {
        let good = std::fs::read(fixture(name)).unwrap();
        let path = folder.path().join("file.gguf");
        for _ in 0..300 {
            std::fs::write(&path, random.mutate(&good, 900)).unwrap();
            bounded(name, 16 << 20, Duration::from_secs(2), || {
                let _ = ModelSource::open(path.to_str().unwrap());
                if let Ok(mut weights) = Weights::open(std::slice::from_ref(&path)) {
                    weights.tensor("embed_tokens.weight", &[160, 32]);
                    let _ = weights.finish(|_| false);
                }
            });
        }
    }
}

/// Build a tokenizer and use it; whether that was possible.
fn use_tokenizer(json: &[u8]) -> Result<(), String> {
    let tokenizer = Tokenizer::from_json(json, &ModelFiles::default(), SpecialIds::default(), 1 << 20);
    let tokenizer = tokenizer.map_err(|e| e.to_string())?;
    let texts = ["Hello, world 123", "", " \u{e9}\u{4e2d}\u{1F600}\n\n\t<s>", &"ab ".repeat(2000)];
    texts.iter().try_for_each(|text| tokenizer.encode(text).map(drop).map_err(|e| e.to_string()))
}

/// Panics of the library are caught and made errors; here they need not be printed.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = work();
    std::panic::set_hook(hook);
    result
}

fn seed_tokenizer() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("corpus/tokenizer.json")).unwrap()).unwrap()
}

/// Tokenizers that are made to be large, slow or contradictory.
#[test]
fn hostile_tokenizers() {
    let _alone = ALONE.lock();
    let with = |key: &str, value: Value| {
        let mut tokenizer = seed_tokenizer();
        *tokenizer.pointer_mut(key).unwrap() = value;
        tokenizer.to_string()
    };
    let growing = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let long = json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "x".repeat(1 << 20)});
    let prepend = json!({"type": "Prepend", "prepend": "x".repeat(1 << 20)});
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let added = |token: &str, id: u64| {
        json!([{"id": id, "content": token, "single_word": false, "lstrip": true, "rstrip": true, "normalized": true,
            "special": true}])
    };
    let bpe = |vocab: Value, merges: Value| json!({"type": "BPE", "vocab": vocab, "merges": merges});
    let unigram = |vocab: Value, unk: Value| json!({"type": "Unigram", "unk_id": unk, "vocab": vocab});
    let charsmap = json!({"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="});
    let template = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "none", "type_id": 0}}],
        "pair": [], "special_tokens": {}});
    let cases = [
        ("nothing", String::new()),
        ("no object", "[]".to_owned()),
        ("deep", "[".repeat(1 << 20)),
        ("deep normalizer", with("/normalizer", serde_json::from_str(&nested(60)).unwrap())),
        ("growing", with("/normalizer", json!({"type": "Sequence", "normalizers": vec![growing; 60]}))),
        ("long replacement", with("/normalizer", long)),
        ("long prefix", with("/normalizer", prepend)),
        ("charsmap", with("/normalizer", charsmap)),
        ("huge regex", with("/pre_tokenizer", split("(?:a{1000}){1000}{1000}"))),
        ("slow regex", with("/pre_tokenizer", split(r"(?=(a|aa|b|ab| )+c)(a|b| )+$"))),
        ("backreference", with("/pre_tokenizer", split(r"(a|b|ab)*\1\1c"))),
        ("broken regex", with("/pre_tokenizer", split("(("))),
        ("empty added token", with("/added_tokens", added("", 0))),
        ("id of an added token", with("/added_tokens", added("zz", u32::MAX.into()))),
        ("huge id", with("/model", bpe(json!({"a": u32::MAX}), json!([])))),
        ("too huge an id", with("/model", bpe(json!({"a": u64::MAX}), json!([])))),
        ("one id twice", with("/model", bpe(json!({"a": 1, "b": 1}), json!([])))),
        ("merge of nothing", with("/model", bpe(json!({"a": 0}), json!([["a", "b"]])))),
        ("merge without parts", with("/model", bpe(json!({"a": 0}), json!(["a"])))),
        ("merge of the empty", with("/model", bpe(json!({"": 0, "a": 1}), json!([["", ""], ["", "a"]])))),
        ("unigram of nothing", with("/model", unigram(json!([]), json!(null)))),
        ("unigram's unknown", with("/model", unigram(json!([["a", 0.0]]), json!(7)))),
        ("unigram of nan", with("/model", unigram(json!([["a", -1e308], ["ab", 1e308]]), json!(0)))),
        ("unigram of the empty", with("/model", unigram(json!([["", 0.0], ["a", 0.0]]), json!(0)))),
        ("template", with("/post_processor", template)),
        ("no model", with("/model", json!(null))),
    ];
    let harmless = [
        "deep normalizer",
        "slow regex",
        "backreference",
        "empty added token",
        "id of an added token",
        "huge id",
        "one id twice",
        "merge of the empty",
        "unigram of nan",
        "unigram of the empty",
    ];
    for (what, json) in cases {
        let used = || quietly(|| use_tokenizer(json.as_bytes()));
        let result = bounded(what, 192 << 20, Duration::from_secs(20), used);
        // the others are odd, but what they mean is clear
        assert_eq!(result.is_ok(), harmless.contains(&what), "{what}: {result:?}");
    }
}

/// Normalizers in normalizers.
fn nested(depth: usize) -> String {
    let open = r#"{"type":"Sequence","normalizers":["#;
    format!("{}{}{}", open.repeat(depth), r#"{"type":"NFC"}"#, "]}".repeat(depth))
}

/// A node somewhere below `value`.
fn node<'a>(value: &'a mut Value, random: &mut Random) -> &'a mut Value {
    let n = match value {
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    };
    if n == 0 || random.below(5) == 0 {
        return value;
    }
    let at = random.below(n);
    let next = match value {
        Value::Array(items) => items.get_mut(at),
        Value::Object(map) => map.values_mut().nth(at),
        _ => None,
    };
    node(next.expect("an index below the length"), random)
}

#[test]
fn mutated_tokenizers() {
    let _alone = ALONE.lock();
    let mut random = Random(4);
    let gguf = std::fs::read(fixture("gguf/sentencepiece.gguf")).unwrap();
    let gguf = Gguf::read_from(&gguf[..], gguf.len() as u64).unwrap().tokenizer_json().unwrap();
    let mut usable = 0;
    for case in 0..1500 {
        let mut tokenizer = if case % 2 == 0 { seed_tokenizer() } else { gguf.clone() };
        for _ in 0..1 + random.below(3) {
            let odds = [
                json!(null),
                json!(0),
                json!(-1),
                json!(u64::MAX),
                json!(1e308),
                json!(""),
                json!("a"),
                json!("\u{2581}"),
                json!([]),
                json!({}),
                json!(true),
                json!(["a", "b"]),
                json!("\\p{L}*"),
                json!("x".repeat(5000)),
            ];
            let odd = random.one_of(&odds).clone();
            *node(&mut tokenizer, &mut random) = odd;
        }
        let json = tokenizer.to_string();
        let used = || quietly(|| use_tokenizer(json.as_bytes()).is_ok());
        usable += usize::from(bounded("tokenizer", 96 << 20, Duration::from_secs(5), used));
    }
    assert!((20..1450).contains(&usable), "{usable}");
}
