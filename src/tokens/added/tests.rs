use serde_json::json;

use super::*;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/corpus/tokenizer.json");

/// The fixture's tokenizer, which asks for truncation and padding.
fn plain() -> tokenizers::Tokenizer {
    let mut tokenizer = tokenizers::Tokenizer::from_file(FIXTURE).unwrap();
    tokenizer.with_truncation(None).unwrap().with_padding(None);
    tokenizer
}

/// The fixture's tokenizer with a `tokenizer_config.json`, and what the latter changed.
fn with(config: Value) -> (tokenizers::Tokenizer, Vec<AddedToken>) {
    let mut tokenizer = plain();
    let files = ModelFiles { tokenizer: config.as_object().unwrap().clone(), ..ModelFiles::default() };
    let changed = apply(&mut tokenizer, &files).unwrap();
    (tokenizer, changed)
}

fn ids(tokenizer: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec()
}

#[test]
fn what_is_known_already_changes_nothing() {
    let own = plain().get_added_tokens_decoder();
    let decoder: serde_json::Map<String, Value> =
        own.iter().map(|(id, token)| (id.to_string(), serde_json::to_value(token).unwrap())).collect();
    let bos = own.values().find(|t| t.special).unwrap().content.clone();
    let (_, changed) = with(json!({"added_tokens_decoder": decoder, "bos_token": bos, "unk_token": null}));
    assert!(changed.is_empty(), "{changed:?}");
}

/// A special token that only the configuration names is one token in text, as in `transformers`.
#[test]
fn a_named_token_becomes_one_id() {
    let plain = plain();
    let (tokenizer, changed) = with(json!({"pad_token": "[PAD]", "extra_special_tokens": {"image_token": "[IMG]"}}));
    assert_eq!(changed.iter().map(|t| t.content.as_str()).collect::<Vec<_>>(), ["[PAD]", "[IMG]"]);
    assert!(changed.iter().all(|t| t.special && !t.normalized));
    assert!(ids(&plain, "[PAD]").len() > 1);
    let next = plain.get_vocab_size(true) as u32;
    assert_eq!(ids(&tokenizer, "[PAD][IMG]"), [next, next + 1]);
}

/// The flags of `added_tokens_decoder` count over those of `tokenizer.json`: `rstrip` eats the space after the token.
#[test]
fn flags_of_the_configuration_count() {
    let plain = plain();
    let own = plain.get_added_tokens_decoder();
    let (id, token) = own.iter().find(|(_, t)| t.special).unwrap();
    let mut stripping = serde_json::to_value(token).unwrap();
    stripping["rstrip"] = json!(true);
    let (tokenizer, changed) = with(json!({"added_tokens_decoder": {id.to_string(): stripping}}));
    assert_eq!(changed.len(), 1);
    let text = format!("{}   ", token.content);
    assert_eq!(ids(&tokenizer, &text), [*id]);
    assert!(ids(&plain, &text).len() > 1);
}

#[test]
fn special_text_can_stay_text() {
    let own = plain().get_added_tokens_decoder();
    let token = own.into_values().find(|t| t.special).unwrap().content;
    let (tokenizer, _) = with(json!({"split_special_tokens": true}));
    assert!(ids(&tokenizer, &token).len() > 1);
}

#[test]
fn what_is_no_token_is_an_error() {
    for decoder in [json!({"x": {"content": "a"}}), json!({"5": {"special": true}}), json!({"5": 5})] {
        let mut tokenizer = plain();
        let config = json!({"added_tokens_decoder": decoder}).as_object().unwrap().clone();
        let files = ModelFiles { tokenizer: config, ..ModelFiles::default() };
        let error = apply(&mut tokenizer, &files).unwrap_err();
        assert!(error.to_string().contains("added_tokens_decoder"), "{error}");
    }
}
