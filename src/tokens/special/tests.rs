use serde_json::json;

use super::*;

fn files(config: Value, generation: Value, tokenizer: Value) -> ModelFiles {
    let object = |value: Value| value.as_object().unwrap().clone();
    let (config, generation, tokenizer) = (object(config), object(generation), object(tokenizer));
    ModelFiles { config, generation, tokenizer, ..ModelFiles::default() }
}

fn id_of(token: &str) -> Option<u32> {
    token.strip_prefix("<t").and_then(|rest| rest.strip_suffix('>')).and_then(|n| n.parse().ok())
}

fn adds(before: &[u32], after: &[u32]) -> Around {
    Around { known: true, before: before.to_vec(), after: after.to_vec() }
}

#[test]
fn ids_come_from_the_first_file_that_has_them() {
    let none = json!({});
    let config = json!({"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": -1});
    let generation = json!({"bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 4});
    let tokenizer = json!({"bos_token": {"content": "<t1>", "lstrip": false}, "eos_token": "<t2>", "pad_token": null});
    let all = files(config, generation.clone(), tokenizer.clone());
    let (found, warnings) = ids(&all, SpecialIds::default(), &adds(&[1], &[]), &id_of);
    assert_eq!(found, SpecialIds { bos: Some(1), eos: Some(2), pad: Some(4) });
    assert!(warnings.is_empty(), "one EOS in common is agreement: {warnings:?}");

    let (found, _) = ids(&files(none.clone(), none.clone(), tokenizer), SpecialIds::default(), &adds(&[], &[]), &id_of);
    assert_eq!(found, SpecialIds { bos: Some(1), eos: Some(2), pad: None });
    let (found, _) = ids(&files(none.clone(), none.clone(), none), SpecialIds::default(), &adds(&[7], &[8]), &id_of);
    assert_eq!(found, SpecialIds { bos: Some(7), eos: Some(8), pad: None });
    // what the model's configuration was understood to say counts first
    let spec = SpecialIds { bos: Some(9), ..SpecialIds::default() };
    assert_eq!(ids(&files(json!({}), generation, json!({})), spec, &adds(&[], &[]), &id_of).0.bos, Some(9));
}

/// Instruct models often end their turns with another token than their configuration says: rows differ by it.
#[test]
fn a_disagreement_names_both_files() {
    let said = files(json!({"eos_token_id": 2}), json!({"eos_token_id": [5, 6]}), json!({"eos_token": "<t7>"}));
    let (found, warnings) = ids(&said, SpecialIds::default(), &adds(&[], &[]), &id_of);
    assert_eq!(found.eos, Some(2));
    assert_eq!(
        warnings,
        [
            "eos: config.json says token 2, generation_config.json says 5; 2 is taken",
            "eos: config.json says token 2, tokenizer_config.json says 7; 2 is taken",
        ]
    );
}

#[test]
fn bos_is_prepended_as_the_files_say() {
    let of = |tokenizer: Value, family: &str, around: &Around| {
        bos_custom(&files(json!({"model_type": family}), json!({}), tokenizer), around)
    };
    let silent = Around::default();
    // the configuration of the tokenizer comes first, and a post-processor that does otherwise is worth a warning
    let (custom, warning) = of(json!({"add_bos_token": false}), "llama", &adds(&[1], &[]));
    assert!(!custom.prepends && warning.unwrap().contains("tokenizer.json adds token 1"));
    let (custom, warning) = of(json!({"add_bos_token": true}), "llama", &adds(&[1], &[]));
    assert!(custom.prepends && warning.is_none() && custom.because.contains("add_bos_token is true"));
    // a llama with a post-processor that adds nothing, as SmolLM2: nothing is added
    assert!(!of(json!({}), "llama", &adds(&[], &[])).0.prepends);
    assert!(of(json!({"add_bos_token": null}), "gpt2", &adds(&[1], &[])).0.prepends);
    // nobody says: the family's custom
    for (family, prepends) in [
        ("llama", true),
        ("gemma", true),
        ("gemma2", true),
        ("gemma3_text", true),
        ("mistral", true),
        ("mixtral", true),
        ("gpt2", false),
        ("gpt_neo", false),
        ("gpt_neox", false),
        ("qwen2", false),
        ("qwen3", false),
        ("olmo2", false),
        ("phi", false),
        ("phi3", false),
    ] {
        let (custom, warning) = of(json!({}), family, &silent);
        assert_eq!(custom.prepends, prepends, "{family}");
        assert!(custom.because.contains(family) && warning.is_none());
    }
}

#[test]
fn older_folders_name_tokens_in_their_map() {
    let map = json!({"bos_token": {"content": "<old>"}});
    let mut said = files(json!({}), json!({}), json!({"bos_token": "<new>"}));
    assert_eq!(said.token("bos_token"), Some("<new>"));
    said.special_map = map.as_object().unwrap().clone();
    assert_eq!(said.token("bos_token"), Some("<old>"));
    said.tokenizer.insert("added_tokens_decoder".into(), json!({}));
    assert_eq!(said.token("bos_token"), Some("<new>"));
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let folder = tempfile::tempdir().unwrap();
    assert!(ModelFiles::read(folder.path()).unwrap().tokenizer.is_empty());
    for text in ["[1]", "{"] {
        std::fs::write(folder.path().join("tokenizer_config.json"), text).unwrap();
        let error = ModelFiles::read(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(error.to_string().contains("tokenizer_config.json"), "{error}");
    }
}
