//! A JSON object as an answer, member by member.

use serde::Serialize;

use crate::http::reply::Reply;

/// An object to which members are added in their order.
pub struct Object(String);

impl Object {
    /// An object without members.
    pub fn new() -> Self {
        Self("{".to_owned())
    }

    /// Adds a member whose value is JSON.
    pub fn json(mut self, name: &str, json: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&quoted(name));
        self.0.push(':');
        self.0.push_str(json);
        self
    }

    /// Adds a value that is always valid JSON.
    pub fn value(self, name: &str, value: &impl Serialize) -> Self {
        self.json(name, &serde_json::to_string(value).unwrap_or_default())
    }

    /// Adds a text.
    pub fn text(self, name: &str, text: &str) -> Self {
        self.json(name, &quoted(text))
    }

    /// Adds a text unless it is empty.
    pub fn text_if_any(self, name: &str, text: &str) -> Self {
        if text.is_empty() { self } else { self.text(name, text) }
    }

    /// Adds an array of texts.
    pub fn texts(self, name: &str, texts: &[impl AsRef<str>]) -> Self {
        let texts: Vec<_> = texts.iter().map(|text| quoted(text.as_ref())).collect();
        self.json(name, &format!("[{}]", texts.join(",")))
    }

    /// The object alone.
    pub fn into_json(mut self) -> String {
        self.0.push('}');
        self.0
    }

    /// Success with the object, and the line end that KES writes after JSON.
    pub fn into_reply(self) -> Reply {
        let mut json = self.into_json();
        json.push('\n');
        Reply::json(json.into_bytes())
    }
}

fn quoted(text: &str) -> String {
    // A string is always valid JSON.
    serde_json::to_string(text).unwrap_or_default()
}
