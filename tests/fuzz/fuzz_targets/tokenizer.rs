//! A `tokenizer.json`, and a text that it cuts. Panics of the library are errors of ours.
#![no_main]

use harvestd::tokens::special::ModelFiles;
use harvestd::tokens::{SpecialIds, Tokenizer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |bytes: &[u8]| {
    if let Ok(tokenizer) = Tokenizer::from_json(bytes, &ModelFiles::default(), SpecialIds::default(), 1 << 20) {
        let _ = tokenizer.encode("Hello, world 123 \u{e9}\u{4e2d}\n\n<s>");
    }
});
