//! What cannot be reached from outside: small limits, and stores that fail.

use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use super::*;
use crate::accounting::{DropCounts, DropReason};
use crate::units::{ByteSize, Percent};

/// Passes on to a store in memory, after so many failures.
#[derive(Debug)]
struct Flaky {
    inner: object_store::memory::InMemory,
    failures_left: AtomicU32,
}

impl std::fmt::Display for Flaky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("flaky")
    }
}

type Answer<'a, T> = BoxFuture<'a, object_store::Result<T>>;

impl ObjectStore for Flaky {
    fn get_opts<'s, 'p, 'f>(&'s self, path: &'p Path, options: GetOptions) -> Answer<'f, GetResult>
    where
        's: 'f,
        'p: 'f,
    {
        Box::pin(async move {
            let left = self.failures_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if left.is_ok() && options.range.is_some() {
                return Err(object_store::Error::Generic { store: "flaky", source: "connection reset".into() });
            }
            self.inner.get_opts(path, options).await
        })
    }

    fn put_opts<'s, 'p, 'f>(&'s self, path: &'p Path, payload: PutPayload, o: PutOptions) -> Answer<'f, PutResult>
    where
        's: 'f,
        'p: 'f,
    {
        self.inner.put_opts(path, payload, o)
    }

    fn put_multipart_opts<'s, 'p, 'f>(
        &'s self,
        path: &'p Path,
        options: PutMultipartOptions,
    ) -> Answer<'f, Box<dyn MultipartUpload>>
    where
        's: 'f,
        'p: 'f,
    {
        self.inner.put_multipart_opts(path, options)
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_delimiter<'s, 'p, 'f>(&'s self, prefix: Option<&'p Path>) -> Answer<'f, ListResult>
    where
        's: 'f,
        'p: 'f,
    {
        self.inner.list_with_delimiter(prefix)
    }

    fn copy_opts<'s, 'a, 'b, 'f>(&'s self, from: &'a Path, to: &'b Path, options: CopyOptions) -> Answer<'f, ()>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
    {
        self.inner.copy_opts(from, to, options)
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn jsonl(path: &str) -> CorpusConfig {
    CorpusConfig::Jsonl {
        paths: vec![path.to_owned()],
        field: None,
        tokens_field: None,
        messages_field: None,
        unit_bytes: ByteSize(1 << 20),
        holdout: Percent::from_share(0.0),
        follow: Default::default(),
    }
}

/// A corpus of one object in memory.
fn corpus(runtime: &tokio::runtime::Runtime, name: &str, content: &[u8]) -> Corpus {
    let url = format!("memory://corpus-unit-tests/{name}");
    let place = crate::store::Location::open(&url).unwrap();
    runtime.block_on(async {
        place.store.put(&place.path, PutPayload::from(content.to_vec())).await.unwrap();
        Corpus::open(&jsonl(&url)).await.unwrap()
    })
}

fn read(corpus: Corpus) -> Result<(Vec<String>, DropCounts)> {
    let (mut texts, mut dropped) = (Vec::new(), DropCounts::new());
    for item in Arc::new(corpus).read_unit(0) {
        match item? {
            Item::Document(Document { content: Content::Text(text), .. }) => texts.push(text),
            Item::Document(document) => panic!("{document:?} is not text"),
            Item::Dropped(reason, n) => dropped.add(reason, n),
        }
    }
    Ok((texts, dropped))
}

/// The corpus with its only file in a store that fails so many times.
fn on_flaky_store(runtime: &tokio::runtime::Runtime, mut corpus: Corpus, content: &[u8], failures: u32) -> Corpus {
    let inner = object_store::memory::InMemory::new();
    let store = Arc::new(Flaky { inner, failures_left: AtomicU32::new(failures) });
    let file = &mut corpus.files[0];
    runtime.block_on(store.put(&file.location.path, PutPayload::from(content.to_vec()))).unwrap();
    file.location.store = store;
    file.version = None;
    corpus
}

const TWO: &[u8] = b"{\"text\": \"one\"}\n{\"text\": \"two\"}\n";

#[test]
fn a_store_that_recovers_is_asked_again() {
    let runtime = runtime();
    let corpus = on_flaky_store(&runtime, corpus(&runtime, "recovers", TWO), TWO, 2);
    assert_eq!(read(corpus).unwrap(), (vec!["one".to_owned(), "two".to_owned()], DropCounts::new()));
}

#[test]
fn a_store_that_does_not_answer_is_an_error_and_no_end_of_file() {
    let runtime = runtime();
    let corpus = on_flaky_store(&runtime, corpus(&runtime, "down", TWO), TWO, u32::MAX);
    let error = read(corpus).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("corpus-unit-tests/down"), "{error}");
}

#[test]
fn a_store_failure_behind_a_decoder_is_no_damaged_file() {
    let runtime = runtime();
    for name in ["down.jsonl.gz", "down.jsonl.zst", "down.jsonl"] {
        let corpus = on_flaky_store(&runtime, corpus(&runtime, name, TWO), TWO, u32::MAX);
        assert_eq!(read(corpus).unwrap_err().kind(), ErrorKind::Unavailable, "{name}");
    }
}

#[test]
fn a_runtime_that_is_gone_is_an_error_and_no_end_of_file() {
    let runtime = runtime();
    let corpus = corpus(&runtime, "gone", TWO);
    drop(runtime);
    assert_eq!(read(corpus).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn lines_beyond_the_limit_are_dropped_without_being_held() {
    let runtime = runtime();
    let fits = format!("{{\"text\": \"{}\"}}", "a".repeat(88));
    assert_eq!(fits.len(), 100);
    for end in ["\n", "\r\n"] {
        let too_long = fits.replace("aa", "aab");
        let content = [&too_long, &fits, &"x".repeat(5000), &fits, &too_long[..101]].map(String::from).join(end);
        let mut corpus = corpus(&runtime, "long", content.as_bytes());
        corpus.document_bytes_max = 100;
        let (texts, dropped) = read(corpus).unwrap();
        assert_eq!(texts.len(), 2);
        assert_eq!(dropped.iter().collect::<Vec<_>>(), [(DropReason::OversizedDocument, 3)]);
    }
}

#[test]
fn text_beyond_the_limit_is_dropped_in_every_form() {
    let runtime = runtime();
    let content = format!("ab\n{}\ncd\n\nef\n\n{}\n\n{}", "y".repeat(50), "gh\n".repeat(20), "z".repeat(10));
    for (document, kept, oversized) in
        [(TextDocument::File, 0, 1), (TextDocument::Line, 24, 1), (TextDocument::Paragraph, 2, 2)]
    {
        let mut corpus = corpus(&runtime, "text", content.as_bytes());
        let (unit_bytes, holdout) = (ByteSize(1 << 20), Percent::from_share(0.0));
        corpus.config =
            CorpusConfig::Text { paths: Vec::new(), document, unit_bytes, holdout, follow: Default::default() };
        corpus.document_bytes_max = 20;
        let (texts, dropped) = read(corpus).unwrap();
        assert_eq!((texts.len(), dropped.get(DropReason::OversizedDocument)), (kept, oversized), "{document:?}");
    }
}

#[test]
fn progress_runs_from_nothing_to_all() {
    let runtime = runtime();
    let content = "{\"text\": \"some text\"}\n".repeat(100_000);
    let corpus = Arc::new(corpus(&runtime, "progress", content.as_bytes()));
    let mut reader = corpus.read_unit(0);
    assert_eq!(reader.progress(), 0.0);
    let mut last = 0.0;
    while reader.next().transpose().unwrap().is_some() {
        assert!(reader.progress() >= last && reader.progress() <= 1.0);
        last = reader.progress();
    }
    assert_eq!(reader.progress(), 1.0);
}
