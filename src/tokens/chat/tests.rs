use serde_json::json;

use super::*;

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}";

fn rules(template: &str, keep: Keep) -> Result<ChatRules> {
    let config = ChatConfig { template: Some(template.to_owned()), keep, add_generation_prompt: false };
    ChatRules::new(&config, Path::new("/nonexistent"), &ModelFiles::default())
}

fn chat(turns: &[(&str, &str)]) -> Chat {
    Chat { messages: turns.iter().map(|(role, text)| json!({"role": role, "content": text})).collect(), tools: None }
}

/// The assistant's text, as the rules find it.
fn assistant(template: &str, chat: &Chat) -> Result<Vec<String>> {
    let rendered = rules(template, Keep::Assistant)?.render(chat)?;
    Ok(rendered.assistant.iter().map(|range| rendered.text[range.clone()].to_owned()).collect())
}

#[test]
fn generation_tags_say_what_is_the_assistants() {
    let template = "{%- for m in messages %}\n  {%- if m.role == 'assistant' %}A:{% generation %}{{ m.content }}{{ eos }}{{ loop.index }}.{% endgeneration %}\n\
        {%- else %}U:{{ m.content }}{% endif %}{% endfor -%}";
    let chat = chat(&[("user", "x"), ("assistant", "yy"), ("user", "z"), ("assistant", "w\u{e9}")]);
    assert_eq!(assistant(template, &chat).unwrap(), ["yy2.", "w\u{e9}4."]);
    let all = rules(template, Keep::All).unwrap().render(&chat).unwrap();
    assert_eq!((all.text.as_str(), all.assistant.len()), ("U:xA:yy2.U:zA:w\u{e9}4.", 0));
}

#[test]
fn without_tags_messages_are_found_where_they_stand() {
    let talk =
        chat(&[("system", "s"), ("user", "one"), ("assistant", "  one \n"), ("user", "b"), ("assistant", "one")]);
    assert_eq!(assistant(CHATML, &talk).unwrap(), ["one", "one"]);
    // what a model thought is left out of all turns but the last
    let thinking = "{% for m in messages %}[{{ m.role }}]{% if not loop.last and '</think>' in m.content %}\
        {{ m.content.split('</think>')[-1].lstrip('\\n') }}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    let talk = chat(&[
        ("user", "a"),
        ("assistant", "<think>x</think>\n\nb"),
        ("user", "c"),
        ("assistant", "<think>y</think>d"),
    ]);
    assert_eq!(assistant(thinking, &talk).unwrap(), ["b", "<think>y</think>d"]);
}

#[test]
fn a_template_that_hides_the_assistants_text_is_refused_before_anything_runs() {
    let upper = "{% for m in messages %}{{ m.content | upper }}{% endfor %}";
    let error = rules(upper, Keep::Assistant).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("generation") && error.to_string().contains("keep: all"), "{error}");
    assert!(rules(upper, Keep::All).is_ok());
}

#[test]
fn what_a_template_refuses_is_an_error_with_its_words() {
    let alternating = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
        {{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}";
    let rules = rules(alternating, Keep::All).unwrap();
    let error = rules.render(&chat(&[("assistant", "a")])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("roles must alternate"), "{error}");
}

/// Templates come from strangers: none of these may hang, fill the memory or crash.
#[test]
fn hostile_templates_are_errors() {
    for hostile in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = b %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'a' * 99999999999 }}",
        "{% include 'chat' %}",
        "{{ range(999999999) | list }}",
        "{% for m in messages %}{{ m.content",
        "{{ strftime_now('%Y') }}",
    ] {
        let error = rules(hostile, Keep::All).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{hostile}: {error}");
    }
}

#[test]
fn parts_of_text_are_joined_for_templates_that_know_none() {
    let parts = json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]);
    let chat = Chat { messages: parts.as_array().unwrap().clone(), tools: None };
    assert_eq!(rules(CHATML, Keep::All).unwrap().render(&chat).unwrap().text, "<|im_start|>user\nab<|im_end|>\n");
    let knows = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}\
        {% for p in m.content %}({{ p.text }}){% endfor %}{% endif %}{% endfor %}";
    assert_eq!(rules(knows, Keep::All).unwrap().render(&chat).unwrap().text, "(a)(b)");
}

#[test]
fn templates_are_found_by_name_file_or_text() {
    let folder = tempfile::tempdir().unwrap();
    let list = json!([{"name": "default", "template": "D{{ messages[0].content }}"},
        {"name": "tool_use", "template": "T{{ messages[0].content }}"}, {"name": "rag", "template": "R"}]);
    let mut files = ModelFiles::default();
    files.tokenizer.insert("chat_template".to_owned(), list);
    let render = |template: Option<&str>, files: &ModelFiles, tools: Option<Value>| {
        let config = ChatConfig { template: template.map(str::to_owned), ..ChatConfig::default() };
        let chat = Chat { tools, ..chat(&[("user", "x")]) };
        ChatRules::new(&config, folder.path(), files)?.render(&chat).map(|rendered| rendered.text)
    };
    assert_eq!(render(None, &files, None).unwrap(), "Dx");
    assert_eq!(render(None, &files, Some(json!([{}]))).unwrap(), "Tx");
    assert_eq!(render(Some("rag"), &files, None).unwrap(), "R");
    let path = folder.path().join("own.jinja");
    std::fs::write(&path, "F{{ messages[0].role }}").unwrap();
    assert_eq!(render(path.to_str(), &files, None).unwrap(), "Fuser");
    let error = render(Some("nope"), &files, None).unwrap_err();
    assert!(error.to_string().contains("default, tool_use, rag"), "{error}");
    std::fs::write(folder.path().join("chat_template.jinja"), "J").unwrap();
    assert_eq!(render(None, &files, None).unwrap(), "J");
    let none = ChatRules::new(&ChatConfig::default(), Path::new("/nonexistent"), &ModelFiles::default()).unwrap_err();
    assert!(none.to_string().contains("tokens.chat.template"), "{none}");
}
