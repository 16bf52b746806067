use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/corpus");
const IDS: SpecialIds = SpecialIds { bos: Some(0), eos: None, pad: Some(77) };

fn fixture() -> Tokenizer {
    Tokenizer::load(&Path::new(FIXTURES).join("tokenizer.json"), IDS, 290).unwrap()
}

/// The fixture's file asks for truncation, padding, dropout, BOS and EOS: none of them may take effect.
#[test]
fn ids_are_those_of_the_python_library() {
    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        ids: Vec<u32>,
    }
    let golden = std::fs::read(format!("{FIXTURES}/tokenizer.golden.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&golden).unwrap();
    let tokenizer = fixture();
    assert!(cases.len() >= 6);
    for case in cases {
        assert_eq!(tokenizer.encode(&case.text).unwrap(), case.ids, "{:?}", case.text);
    }
}

#[test]
fn special_ids_are_those_of_the_config_and_of_the_file() {
    let tokenizer = fixture();
    assert_eq!(tokenizer.special_ids().collect::<Vec<_>>(), [0, 1, 77]);
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(2));
    assert_eq!(tokenizer.fingerprint().len(), 64);
}

#[test]
fn a_missing_id_is_told_before_anything_runs() {
    let config = TokensConfig { prepend_bos: PrependBos::Yes, ..TokensConfig::default() };
    let tokenizer = fixture();
    assert_eq!(tokenizer.bos_for(&config).unwrap(), Some(0));
    // the fixture's config names no EOS, its post-processor does
    assert_eq!(tokenizer.separator_for(&config).unwrap(), Some(1));
    let error = Tokenizer::none(IDS, 290).unwrap().separator_for(&config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("separator: none") && error.to_string().contains("eos_token_id"), "{error}");
    let nameless = Tokenizer::none(SpecialIds::default(), 10).unwrap();
    assert!(nameless.bos_for(&config).unwrap_err().to_string().contains("prepend_bos: false"));
    let without = TokensConfig { prepend_bos: PrependBos::No, separator: Separator::None, ..config };
    assert_eq!((nameless.bos_for(&without).unwrap(), nameless.separator_for(&without).unwrap()), (None, None));
}

#[test]
fn ids_outside_the_vocabulary_are_seen() {
    let ids = SpecialIds { bos: Some(50), ..SpecialIds::default() };
    assert!(Tokenizer::none(ids, 50).unwrap_err().to_string().contains("bos_token_id 50"));
    let tokenizer = Tokenizer::none(ids, 51).unwrap();
    assert!(tokenizer.all_in_vocabulary(&[0, 50]) && !tokenizer.all_in_vocabulary(&[0, 51]));
    assert_eq!(tokenizer.encode("text").unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn what_is_no_tokenizer_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    assert!(Tokenizer::load(&path, IDS, 10).unwrap_err().to_string().contains("tokenizer.json"));
    std::fs::write(&path, "{}").unwrap();
    let error = Tokenizer::load(&path, IDS, 10).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}

#[test]
fn auto_is_decided_by_the_model_unless_rows_are_ids() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::copy(Path::new(FIXTURES).join("tokenizer.json"), &path).unwrap();
    let auto = TokensConfig::default();
    for (says, prepends) in [("true", PrependBos::Yes), ("false", PrependBos::No)] {
        std::fs::write(folder.path().join("tokenizer_config.json"), format!(r#"{{"add_bos_token": {says}}}"#)).unwrap();
        let tokenizer = Tokenizer::load(&path, IDS, 290).unwrap();
        let (decided, because) = tokenizer.decided(&auto, false);
        assert_eq!(decided.prepend_bos, prepends);
        assert!(because.contains("tokenizer_config.json"), "{because}");
        assert_eq!(tokenizer.bos_for(&decided).unwrap().is_some(), prepends == PrependBos::Yes);
        assert_eq!(tokenizer.decided(&auto, true).0.prepend_bos, PrependBos::No);
        let forced = TokensConfig { prepend_bos: PrependBos::Yes, ..auto.clone() };
        assert_eq!(tokenizer.decided(&forced, true).0, forced);
    }
    // without a BOS there is nothing to prepend, and no error for what nobody asked for
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"add_bos_token": true}"#).unwrap();
    let nameless = Tokenizer::none(SpecialIds::default(), 290).unwrap();
    assert_eq!(nameless.decided(&auto, false).0.prepend_bos, PrependBos::No);
}

/// The fingerprint of a folder with nothing but `tokenizer.json` stays what it was; what changes tokens changes it.
#[test]
fn the_fingerprint_covers_what_the_configuration_adds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::copy(Path::new(FIXTURES).join("tokenizer.json"), &path).unwrap();
    let mut fingerprints = std::collections::BTreeSet::from([fixture().fingerprint().to_owned()]);
    for config in [r#"{"model_max_length": 5}"#, r#"{"pad_token": "[P]"}"#, r#"{"split_special_tokens": true}"#] {
        std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        fingerprints.insert(Tokenizer::load(&path, IDS, 290).unwrap().fingerprint().to_owned());
    }
    assert_eq!(fingerprints.len(), 3);
}
