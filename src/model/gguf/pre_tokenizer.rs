//! How text is cut before byte-level BPE: llama.cpp's names of it, and what the models' own `tokenizer.json` say.

use serde_json::{Value as Json, json};

use crate::error::{Error, Result};

/// What a `tokenizer.ggml.pre` stands for.
pub(super) struct PreTokenizer {
    /// Of `tokenizer.json`.
    pub(super) normalizer: Json,
    /// Of `tokenizer.json`.
    pub(super) pre_tokenizer: Json,
    /// Whether a piece that is a token is taken whole, though no merges lead to it.
    pub(super) ignore_merges: bool,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Cut as `pre` says. GPT-2's own files and those of tokenizers without a name say `default`.
pub(super) fn pre_tokenizer(pre: &str) -> Result<PreTokenizer> {
    let nfc = || json!({"type": "NFC"});
    let make = |normalizer, pre_tokenizer, ignore_merges| Ok(PreTokenizer { normalizer, pre_tokenizer, ignore_merges });
    match pre {
        "default" | "gpt-2" | "phi-2" => make(Json::Null, byte_level(true), false),
        // the GPT-NeoX tokenizer
        "olmo" | "mpt" => make(nfc(), byte_level(true), false),
        // digits one by one, then as GPT-2
        "smollm" | "starcoder" | "refact" => make(Json::Null, sequence(digits(), byte_level(true)), false),
        "command-r" => make(nfc(), sequence(digits(), byte_level(true)), false),
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => make(Json::Null, split(LLAMA3), true),
        "dbrx" | "smaug-bpe" => make(Json::Null, split(LLAMA3), false),
        "qwen2" => make(nfc(), split(QWEN2), false),
        "tekken" => make(Json::Null, split(TEKKEN), true),
        _ => Err(Error::data(format!(
            "the tokenizer's `tokenizer.ggml.pre` {pre} is not supported: give the model as a folder with tokenizer.json"
        ))),
    }
}

fn byte_level(use_regex: bool) -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn digits() -> Json {
    json!({"type": "Digits", "individual_digits": true})
}

fn sequence(first: Json, second: Json) -> Json {
    json!({"type": "Sequence", "pretokenizers": [first, second]})
}

fn split(regex: &str) -> Json {
    let split = json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    sequence(split, byte_level(false))
}
