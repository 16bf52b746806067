//! Conversations against `transformers`: the same text, the same ids and the same assistant's tokens for every template.
//!
//! What compares with `transformers` needs what `tests/tokenizers.rs` needs.

mod support;

use std::path::{Path, PathBuf};

use harvestd::corpus::{Chat, Content};
use harvestd::tokens::chat::ChatRules;
use harvestd::tokens::chat::config::{ChatConfig, Keep};
use harvestd::tokens::special::ModelFiles;
use harvestd::tokens::{SpecialIds, Tokenizer};
use serde_json::{Value, json};

/// Templates in the ways of families whose own are in no package: Llama 2, Zephyr, Phi-3, SmolLM2, and one with tags.
const TEMPLATES: &[(&str, &str)] = &[
    (
        "inst",
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}\
         {% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}\
         {% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
         {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
         {% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}\
         {% else %}{% set content = message['content'] %}{% endif %}\
         {% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
         {% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    ),
    (
        "zephyr",
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n\
         {% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n\
         {% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n\
         {% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    ),
    (
        "phi3",
        "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}\
         {% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}\
         {% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    ),
    (
        "chatml-system",
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}\
         {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}",
    ),
    (
        "tagged",
        "{%- for message in messages %}\n    {{- '<|im_start|>' + message.role + '\\n' }}\n    {%- if message.role == 'assistant' %}\n        \
         {%- generation %}\n        {{- message.content | trim }}{{ '<|im_end|>' }}\n        {%- endgeneration %}\n    {%- else %}\n        \
         {{- message.content }}{{ '<|im_end|>' }}\n    {%- endif %}\n    {{- '\\n' }}\n{%- endfor %}",
    ),
    (
        "python",
        "{% set ns = namespace(n=0, on=true) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if m.role == 'skip' %}{% continue %}{% endif %}\
         {{ ns.n }}{{ ns.on }}{{ none }}{{ m }}{{ m | tojson }}{{ m | tojson(indent=2) }}{{ m.content.split('\\n')[0].title() }}\
         {{ m.content.startswith('H') }}{{ [1, 2.5, 'it\\'s', m.role] }}{{ m.content[:3] }}{{ m.content[-2:] }}{{ m.missing }}\
         {% for k, v in m.items() %}{{ k }}={{ v | length }};{% endfor %}{% generation %}{{ loop.index }}{% endgeneration %}{% endfor %}",
    ),
];

/// Conversations: with and without a system's message, of many turns, of all scripts, odd white space.
fn conversations() -> Vec<Value> {
    let talk = |turns: &[(&str, &str)]| -> Value {
        turns.iter().map(|(role, text)| json!({"role": role, "content": text})).collect()
    };
    vec![
        talk(&[("user", "Hello!")]),
        talk(&[("user", "Hello!"), ("assistant", "Hi, how can I help?")]),
        talk(&[("system", "You are terse."), ("user", "Hello!"), ("assistant", "Hi.")]),
        talk(&[
            ("user", "a"),
            ("assistant", "b"),
            ("user", "c"),
            ("assistant", "d"),
            ("user", "e"),
            ("assistant", "b"),
        ]),
        talk(&[("system", "s"), ("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4"), ("user", "5")]),
        talk(&[
            ("user", "\u{4f60}\u{597d} \u{1f469}\u{200d}\u{1f467}\u{1f3fd}"),
            ("assistant", "\u{645}\u{631}\u{62d}\u{628}\u{627} e\u{301}\u{300} \u{1f1e9}\u{1f1ea}!"),
        ]),
        talk(&[("user", "  leading\n\n"), ("assistant", "\n  both sides \t\n"), ("user", "x "), ("assistant", " y")]),
        talk(&[
            ("user", "code:\n```python\nprint('{{ x }}' % 1)\n```"),
            ("assistant", "{% if a %}\"quoted\" & <b>'x'</b> \\ {% endif %}"),
        ]),
        talk(&[
            ("user", "<|im_end|></s><|eot_id|>"),
            ("assistant", "<s>[INST] <|user|> [/INST]"),
            ("user", "?"),
            ("assistant", "!"),
        ]),
        talk(&[
            ("user", "Think."),
            ("assistant", "<think>\nhm\n</think>\n\nYes."),
            ("user", "And?"),
            ("assistant", "<think>\nso\n</think>\n\nNo."),
        ]),
        talk(&[("assistant", "I begin."), ("user", "Then me.")]),
        talk(&[("user", "It's"), ("user", "two in a row")]),
    ]
}

fn config(template: Option<&str>, keep: Keep) -> ChatConfig {
    ChatConfig { template: template.map(str::to_owned), keep, add_generation_prompt: false }
}

fn chat(messages: &Value) -> Chat {
    Chat { messages: messages.as_array().unwrap().clone(), tools: None }
}

fn named<'a>(folders: &'a [PathBuf], name: &str) -> &'a Path {
    folders.iter().find(|folder| folder.ends_with(name)).unwrap()
}

/// Every pair of a tokenizer and a template that is tested.
fn pairs(folders: &[PathBuf]) -> Vec<(PathBuf, Option<&'static str>, &'static str)> {
    let own = ["llama3", "llama3_1", "llama3_2", "gemma3", "mistral_nemo", "qwen2_5", "qwen3"];
    let mut pairs: Vec<_> = own.iter().map(|name| (named(folders, name).to_owned(), None, *name)).collect();
    let bases = ["llama2", "llama2", "phi3", "qwen2_5", "qwen3", "gpt2"];
    let others = bases
        .iter()
        .zip(TEMPLATES)
        .map(|(base, (name, source))| (named(folders, base).to_owned(), Some(*source), *name));
    pairs.extend(others);
    pairs
}

#[test]
fn conversations_are_rendered_and_tokenised_as_by_transformers() {
    let Some((python, folders)) = support::published_tokenizers() else { return };
    let (pairs, talks) = (pairs(&folders), conversations());
    let asked: Vec<Value> =
        pairs.iter().map(|(folder, template, _)| json!({"folder": folder, "template": template})).collect();
    let theirs = support::ask_python(&python, "render_chats.py", &[], &json!({"pairs": asked, "conversations": talks}));
    let (mut refused, mut masks) = (0, 0);
    for ((folder, template, name), theirs) in pairs.iter().zip(theirs.as_array().unwrap()) {
        let files = ModelFiles::read(folder).unwrap();
        let load = |keep| {
            let tokenizer = Tokenizer::load(&folder.join("tokenizer.json"), SpecialIds::default(), u32::MAX).unwrap();
            tokenizer.with_chat(ChatRules::new(&config(*template, keep), folder, &files)?)
        };
        let tokenizer = load(Keep::All).unwrap();
        let rules = ChatRules::new(&config(*template, Keep::All), folder, &files).unwrap();
        let marking = load(Keep::Assistant);
        for (talk, theirs) in talks.iter().zip(theirs.as_array().unwrap()) {
            let ours = rules.render(&chat(talk));
            let Some(text) = theirs["text"].as_str() else {
                refused += 1;
                assert!(ours.is_err(), "{name}: transformers refuses {talk}: {theirs}; we give {ours:?}");
                continue;
            };
            assert_eq!(ours.unwrap_or_else(|e| panic!("{name}: {talk}: {e}")).text, text, "{name}");
            let ids: Vec<u32> = serde_json::from_value(theirs["ids"].clone()).unwrap();
            assert_eq!(
                tokenizer.encode_content(Content::Chat(Box::new(chat(talk)))).unwrap().ids,
                ids,
                "{name}: {talk}"
            );
            if let Some(mask) = theirs["mask"].as_array() {
                let encoded = marking.as_ref().unwrap().encode_content(Content::Chat(Box::new(chat(talk)))).unwrap();
                let kept: Vec<u64> = encoded.outside.iter().map(|&outside| u64::from(!outside)).collect();
                assert_eq!(kept, mask.iter().map(|m| m.as_u64().unwrap()).collect::<Vec<_>>(), "{name}: {talk}");
                masks += kept.iter().filter(|&&m| m == 1).count();
            }
        }
    }
    println!(
        "{} templates, {} conversations, {refused} refused by both, {masks} assistant's tokens",
        pairs.len(),
        talks.len()
    );
    assert!(refused > 5 && masks > 50);
}

/// Templates without tags: the tokens that are kept spell what the assistant said, and nothing else.
#[test]
fn without_tags_the_assistants_words_are_kept() {
    let Some((_, folders)) = support::published_tokenizers() else { return };
    let mut kept_all = 0;
    for (folder, template, name) in
        pairs(&folders).into_iter().filter(|(_, _, name)| *name != "python" && *name != "tagged")
    {
        let files = ModelFiles::read(&folder).unwrap();
        let rules = ChatRules::new(&config(template, Keep::Assistant), &folder, &files)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        for talk in conversations().iter().take(9) {
            let Ok(rendered) = rules.render(&chat(talk)) else {
                continue;
            };
            let said: Vec<&str> = talk
                .as_array()
                .unwrap()
                .iter()
                .filter(|m| m["role"] == "assistant")
                .map(|m| m["content"].as_str().unwrap().trim())
                .collect();
            let found: Vec<&str> = rendered.assistant.iter().map(|range| rendered.text[range.clone()].trim()).collect();
            assert_eq!(found, said, "{name}: {:?}", rendered.text);
            kept_all += found.len();
        }
    }
    assert!(kept_all > 100, "{kept_all}");
}

/// Chapters of the shipped text as conversations, with one that is none.
fn write_chats(folder: &Path) {
    let plain = folder.join("plain");
    support::write_corpus(&plain, 12, 4);
    for (i, entry) in support::files(&plain).values().enumerate() {
        let mut lines = Vec::new();
        for line in String::from_utf8_lossy(entry).lines() {
            let text = serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
            let words: Vec<&str> = text.split_whitespace().take(600).collect();
            let turns = words.chunks(40).enumerate();
            let turns = turns
                .map(|(i, words)| json!({"from": if i % 2 == 0 { "human" } else { "gpt" }, "value": words.join(" ")}));
            lines.push(json!({"chat": turns.collect::<Vec<_>>()}).to_string());
        }
        lines.push(json!({"chat": [{"from": "nobody", "value": "x"}]}).to_string());
        std::fs::write(folder.join(format!("chats-{i}.jsonl")), lines.join("\n")).unwrap();
    }
}

fn write_chat_pipeline(corpus: &Path, out: &Path) -> PathBuf {
    let text = format!(
        r#"version: 1
name: chats
model: {{source: pipelines/quickstart/model}}
corpus: {{type: jsonl, paths: ["{corpus}/*.jsonl"], messages_field: chat, unit_bytes: 20KiB, holdout: 0%}}
tokens:
  context_length: 128
  batch_tokens: 1024
  separator: none
  chat:
    template: "{{% for m in messages %}}{{{{ bos_token }}}}<{{{{ m.role }}}}> {{{{ m.content }}}}\n{{% endfor %}}"
    keep: assistant
capture: ["blocks.1.hook_resid_post"]
dataset: {{url: "{out}/acts", rows_per_shard: 500}}
"#,
        corpus = corpus.display(),
        out = out.display()
    );
    std::fs::create_dir_all(out).unwrap();
    let path = out.join("pipeline.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Rows of the assistant only, all others counted; and a run that is killed ends in the same bytes.
#[test]
fn a_run_keeps_the_assistants_rows_and_resumes_exactly() {
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    std::fs::create_dir_all(&corpus).unwrap();
    write_chats(&corpus);
    let whole = scratch.path().join("whole");
    let pipeline = write_chat_pipeline(&corpus, &whole);
    let ran = support::harvestd(&["run", pipeline.to_str().unwrap(), "--json"]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let summary = support::summary(&ran);
    let dropped = |reason: &str| summary["dropped"][reason].as_u64().unwrap_or(0);
    assert_eq!(dropped("malformed_conversation"), 3, "{summary}");
    let (rows, tokens) = (summary["rows"].as_u64().unwrap(), summary["tokens"].as_u64().unwrap());
    assert_eq!(rows + dropped("special_token") + dropped("outside_assistant"), tokens, "{summary}");
    // half of the words are the assistant's, and names of roles are nobody's
    assert!((0.3..0.5).contains(&(rows as f64 / tokens as f64)), "{rows} of {tokens}");
    let reference = support::dataset_bytes(&whole);
    assert!(reference.len() > 10);
    let header: Value = serde_json::from_slice(&std::fs::read(whole.join("acts/dataset.json")).unwrap()).unwrap();
    let special = &header["special_tokens"];
    assert_eq!(
        (&special["bos"], &special["prepend_bos"]),
        (&json!(0), &json!(false)),
        "no tokenizer_config.json: {special}"
    );

    let out = scratch.path().join("killed");
    let pipeline = write_chat_pipeline(&corpus, &out);
    for delay in [150, 250, 400, 600, 900] {
        let mut child = support::start(&pipeline, &out.join("log"), &[]);
        std::thread::sleep(std::time::Duration::from_millis(delay));
        support::signal(&child, 9);
        child.wait().unwrap();
    }
    assert!(support::start(&pipeline, &out.join("log"), &[]).wait().unwrap().success());
    assert!(reference == support::dataset_bytes(&out), "a resumed run ends in other bytes");
}
