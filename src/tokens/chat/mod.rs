//! Conversations to token ids: the model's chat template makes a text of the messages, the tokenizer makes ids of it.
//!
//! Templates are Jinja, written for `transformers`; they are rendered as it renders them ([`template`]), and the text is
//! tokenised without special tokens of the tokenizer's own, since templates write theirs. Nothing depends on the day:
//! `strftime_now` is not defined, and templates then use the date that they have for that case.
//!
//! Which tokens are the assistant's is said by `{% generation %}` tags; templates without them are asked again with the
//! assistant's messages replaced by marks ([`assistant`]).

mod assistant;
pub mod config;
mod python;
mod template;

use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::corpus::Chat;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tokens::special::ModelFiles;
use config::{ChatConfig, Keep};
use template::Template;

/// How conversations become text.
#[derive(Debug)]
pub struct ChatRules {
    template: Template,
    /// For conversations with tools, where the model has a template of its own for them.
    tool_template: Option<Template>,
    /// `bos_token`, `eos_token` and the like, by name.
    variables: Map<String, Value>,
    config: ChatConfig,
    /// Whether the template takes a message's content as a list of parts.
    takes_parts: bool,
    fingerprint: String,
}

/// A conversation as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// What the model reads.
    pub text: String,
    /// Byte ranges of the text that the assistant wrote, ascending; only looked for if the configuration asks.
    pub assistant: Vec<Range<usize>>,
}

impl ChatRules {
    /// The rules for the model in `folder`. The template is tried on a small conversation, so that one that cannot be
    /// used is known before anything runs.
    ///
    /// Errors: no template, or one that is no Jinja, never ends, or does not show what the assistant wrote although
    /// only that is to be kept.
    pub fn new(config: &ChatConfig, folder: &Path, files: &ModelFiles) -> Result<Self> {
        let (source, tools) = sources(config, folder, files)?;
        let mut variables = Map::new();
        for name in ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"] {
            if let Some(token) = files.token(name) {
                variables.insert(name.to_owned(), json!(token));
            }
        }
        let digest = Sha256::digest(format!("{source}\0{}", tools.as_deref().unwrap_or_default()));
        let mut rules = Self {
            template: Template::new(&source)?,
            tool_template: tools.map(|source| Template::new(&source)).transpose()?,
            variables,
            config: config.clone(),
            takes_parts: false,
            fingerprint: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        rules.try_out()?;
        Ok(rules)
    }

    fn try_out(&mut self) -> Result<()> {
        let turn = |role: &str, content: Value| json!({"role": role, "content": content});
        let said = |text: &str| json!([{"type": "text", "text": text}]);
        let parts = Chat { messages: vec![turn("user", said("one")), turn("assistant", said("two"))], tools: None };
        // a template that knows no parts prints them as they are
        self.takes_parts = self
            .text(&parts.messages, &parts)
            .is_ok_and(|r| r.text.contains("one") && r.text.contains("two") && !r.text.contains("type"));
        let messages = ["one", "two", "three", "four"];
        let turns = messages.iter().enumerate().map(|(i, text)| turn(["user", "assistant"][i % 2], json!(text)));
        let chat = Chat { messages: turns.collect(), tools: None };
        let why = if self.config.keep == Keep::Assistant {
            "the chat template cannot be used to keep the assistant's tokens (it has no {% generation %} tags, and its \
             text does not show where a message stands): set `tokens.chat.keep: all`, or give another template"
        } else {
            "the chat template does not render a conversation of two turns"
        };
        let rendered = self.render(&chat).map_err(|e| Error::config(format!("{why}: {e}")))?;
        if self.config.keep == Keep::Assistant && rendered.assistant.is_empty() {
            return Err(Error::config(why));
        }
        Ok(())
    }

    /// The text of a conversation.
    ///
    /// Errors: the template refuses it (roles that do not alternate, for example), or rendering takes too long or gets
    /// too large.
    pub fn render(&self, chat: &Chat) -> Result<Rendered> {
        let messages: Vec<Value> = chat.messages.iter().map(|message| self.prepared(message)).collect();
        let rendered = self.text(&messages, chat)?;
        if self.config.keep == Keep::All {
            return Ok(Rendered { assistant: Vec::new(), ..rendered });
        }
        if self.template_for(chat).marks_generation() {
            return Ok(rendered);
        }
        let render = |messages: &[Value]| self.text(messages, chat).map(|rendered| rendered.text);
        let assistant = assistant::find(&rendered.text, &messages, &render)?;
        Ok(Rendered { assistant, ..rendered })
    }

    /// The text of a small conversation, to see how the template begins.
    pub(crate) fn sample(&self) -> Option<String> {
        let messages = vec![json!({"role": "user", "content": "one"})];
        self.render(&Chat { messages, tools: None }).ok().map(|rendered| rendered.text)
    }

    /// What tells these rules from others: a digest of the templates.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether only what the assistant wrote is kept.
    pub fn keeps_assistant_only(&self) -> bool {
        self.config.keep == Keep::Assistant
    }

    fn template_for(&self, chat: &Chat) -> &Template {
        self.tool_template.as_ref().filter(|_| chat.tools.is_some()).unwrap_or(&self.template)
    }

    fn text(&self, messages: &[Value], chat: &Chat) -> Result<Rendered> {
        let mut context = self.variables.clone();
        context.insert("messages".to_owned(), Value::from(messages));
        context.insert("tools".to_owned(), chat.tools.clone().unwrap_or_default());
        context.insert("documents".to_owned(), Value::Null);
        context.insert("add_generation_prompt".to_owned(), json!(self.config.add_generation_prompt));
        self.template_for(chat).render(context)
    }

    /// A message as templates expect it: keys without a value are left out, and reasoning has both of its names.
    fn prepared(&self, message: &Value) -> Value {
        let Value::Object(message) = message else { return message.clone() };
        let mut fields: Map<String, Value> =
            message.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
        let reasoning = ["reasoning_content", "thinking", "reasoning"].iter().find_map(|key| fields.get(*key)).cloned();
        if let Some(reasoning) = reasoning {
            fields.entry("thinking").or_insert_with(|| reasoning.clone());
            fields.insert("reasoning_content".to_owned(), reasoning);
        }
        if let (false, Some(Value::Array(parts))) = (self.takes_parts, fields.get("content")) {
            let text: String = parts.iter().filter_map(|part| part.get("text")?.as_str()).collect();
            fields.insert("content".to_owned(), Value::String(text));
        }
        Value::Object(fields)
    }
}

/// The template that `config` asks for, and the one for conversations with tools if the model has one.
fn sources(config: &ChatConfig, folder: &Path, files: &ModelFiles) -> Result<(String, Option<String>)> {
    let named = named(folder, files)?;
    let find = |name: &str| named.iter().find(|(n, _)| n == name).map(|(_, source)| source.clone());
    let Some(wanted) = &config.template else {
        let missing = "the corpus is conversations but the model has no chat template: give `tokens.chat.template`";
        return Ok((find("default").ok_or_else(|| Error::config(missing))?, find("tool_use")));
    };
    if wanted.contains("{{") || wanted.contains("{%") {
        return Ok((wanted.clone(), None));
    }
    if let Some(source) = find(wanted) {
        return Ok((source, None));
    }
    let names = named.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let source = std::fs::read_to_string(wanted).or_kind(ErrorKind::Config, || {
        format!(
            "`tokens.chat.template` is `{wanted}`, which is neither a file nor one of the model's templates ({names})"
        )
    })?;
    Ok((source, None))
}

/// The model's templates by name: `chat_template.jinja`, which counts first, and those in `tokenizer_config.json`.
fn named(folder: &Path, files: &ModelFiles) -> Result<Vec<(String, String)>> {
    let file = folder.join("chat_template.jinja");
    match std::fs::read_to_string(&file) {
        Ok(source) => return Ok(vec![("default".to_owned(), source)]),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {}
        Err(error) => return Err(Error::io("read", &file, error)),
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(match files.tokenizer.get("chat_template") {
        Some(Value::String(source)) => vec![("default".to_owned(), source.clone())],
        Some(Value::Array(list)) => {
            list.iter().filter_map(|one| Some((text(one.get("name")?)?, text(one.get("template")?)?))).collect()
        }
        Some(Value::Object(map)) => {
            map.iter().filter_map(|(name, source)| Some((name.clone(), text(source)?))).collect()
        }
        _ => Vec::new(),
    })
}

#[cfg(test)]
mod tests;
