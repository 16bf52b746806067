//! Conversations: rows that hold a list of messages.
//!
//! A message is `{role, content}`, or ShareGPT's `{from, value}`, which becomes the former. Its content is text, or a list
//! of parts that are text. Other keys (`tool_calls`, `reasoning_content`) stay for the chat template to read.

use serde_json::{Map, Value};

use crate::accounting::DropReason;
use crate::corpus::document::{Content, Item};

/// A conversation. Never empty; every message is an object with a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chat {
    /// The messages, in order.
    pub messages: Vec<Value>,
    /// Descriptions of the tools that the assistant may call.
    pub tools: Option<Value>,
}

impl Chat {
    /// As JSON: what the conversation's identity is made of.
    pub(crate) fn to_json(&self) -> String {
        serde_json::json!({"messages": self.messages, "tools": self.tools}).to_string()
    }
}

/// The conversation of a row's fields, or the reason why there is none. Lists may be written as JSON in text, as some
/// Parquet files have them.
pub(crate) fn conversation(messages: Option<Value>, tools: Option<Value>) -> Item {
    let dropped = |reason| Item::Dropped(reason, 1);
    let messages = match messages.map(parsed) {
        None | Some(Value::Null) => return dropped(DropReason::MissingField),
        Some(Value::Array(messages)) if messages.is_empty() => return dropped(DropReason::EmptyDocument),
        Some(Value::Array(messages)) => messages,
        Some(_) => return dropped(DropReason::WrongType),
    };
    let messages: Option<Vec<Value>> = messages.into_iter().map(message).collect();
    let tools = tools.map(parsed).filter(|tools| tools.as_array().is_some_and(|tools| !tools.is_empty()));
    match messages {
        Some(messages) => Item::from_content(Content::Chat(Box::new(Chat { messages, tools }))),
        None => dropped(DropReason::MalformedConversation),
    }
}

fn parsed(value: Value) -> Value {
    match &value {
        Value::String(text) => serde_json::from_str(text).unwrap_or(value),
        _ => value,
    }
}

/// A message with `role` and `content`; `None` if it cannot be read as one.
fn message(value: Value) -> Option<Value> {
    let Value::Object(mut fields) = value else { return None };
    if !fields.contains_key("role") {
        let role = sharegpt_role(fields.remove("from")?.as_str()?)?;
        let content = fields.remove("value")?;
        let mut renamed = Map::new();
        renamed.insert("role".to_owned(), role.into());
        renamed.insert("content".to_owned(), content);
        renamed.extend(fields);
        fields = renamed;
    }
    let has_role = fields.get("role").and_then(Value::as_str).is_some_and(|role| !role.is_empty());
    let calls_tools = fields.get("tool_calls").is_some_and(|calls| !calls.is_null());
    let has_content = match fields.get("content") {
        Some(Value::String(_)) => true,
        Some(Value::Array(parts)) => parts.iter().all(|part| part.get("text").is_some_and(Value::is_string)),
        Some(Value::Null) | None => calls_tools,
        Some(_) => false,
    };
    (has_role && has_content).then_some(Value::Object(fields))
}

fn sharegpt_role(from: &str) -> Option<&'static str> {
    Some(match from {
        "human" | "user" => "user",
        "gpt" | "assistant" | "chatgpt" | "model" | "bing" | "bard" => "assistant",
        "system" => "system",
        "tool" | "function_response" | "observation" => "tool",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(messages: Value) -> Item {
        conversation(Some(messages), None)
    }

    #[test]
    fn both_spellings_are_the_same_conversation() {
        let plain = read(json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]));
        assert!(matches!(plain, Item::Document(_)));
        assert_eq!(read(json!([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}])), plain);
        assert_eq!(read(json!(r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#)), plain);
        let tools = conversation(Some(json!([{"role": "user", "content": "a"}])), Some(json!([{"name": "f"}])));
        assert_ne!(
            tools,
            read(json!([{"role": "user", "content": "a"}])),
            "tools are part of a conversation's identity"
        );
    }

    #[test]
    fn what_is_no_conversation_has_its_reason() {
        let dropped = |reason| Item::Dropped(reason, 1);
        assert_eq!(conversation(None, None), dropped(DropReason::MissingField));
        assert_eq!(read(Value::Null), dropped(DropReason::MissingField));
        assert_eq!(read(json!([])), dropped(DropReason::EmptyDocument));
        for wrong in [json!("hello"), json!(5), json!({"role": "user"})] {
            assert_eq!(read(wrong), dropped(DropReason::WrongType));
        }
        for wrong in [
            json!("hello"),
            json!({"content": "a"}),
            json!({"role": "", "content": "a"}),
            json!({"role": 1, "content": "a"}),
            json!({"role": "user"}),
            json!({"role": "user", "content": null}),
            json!({"role": "user", "content": 5}),
            json!({"role": "user", "content": [{"type": "image"}]}),
            json!({"from": "nobody", "value": "a"}),
            json!({"from": "human"}),
        ] {
            assert_eq!(read(json!([wrong])), dropped(DropReason::MalformedConversation));
        }
        let parts = json!([{"role": "user", "content": [{"type": "text", "text": "a"}]}]);
        assert!(matches!(read(parts), Item::Document(_)));
        let call = json!([{"role": "assistant", "content": null, "tool_calls": [{}]}]);
        assert!(matches!(read(call), Item::Document(_)));
    }
}
