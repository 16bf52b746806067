//! Conversations against `transformers`: the same text, the same ids and the same assistant's tokens for every template.
//!
//! Needs what `tests/tokenizers.rs` needs.

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
