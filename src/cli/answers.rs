//! What servers of all generations say: their lists, policies and versions, in one form.
//!
//! The same path has other answers in other generations, and nothing but the answer itself tells which.
//! What is none of them is an error: taken for another form, it would look like an empty list.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

/// What a server lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Keys,
    Policies,
    Identities,
}

/// An entry of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name of a key or a policy, or an identity.
    pub(crate) name: String,
    /// The policy of an identity, if the list says it: the newest generation does not.
    pub(crate) policy: Option<String>,
    pub(crate) is_admin: bool,
}

/// An answer with a list, or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    /// Where the list goes on; `None` at its end.
    pub(crate) continue_at: Option<String>,
    /// It is the newest generation's, where patterns are prefixes.
    pub(crate) is_newest: bool,
}

impl List {
    /// The word in the paths of the API, and for one entry.
    pub(crate) fn api(self) -> &'static str {
        match self {
            Self::Keys => "key",
            Self::Policies => "policy",
            Self::Identities => "identity",
        }
    }

    /// Reads an answer. `is_ndjson`: its type is a stream of JSON values.
    ///
    /// # Errors
    /// Why it is no such list.
    pub(crate) fn read(self, answer: &[u8], is_ndjson: bool) -> Result<Page, String> {
        let none = |why: String| format!("the server sent no list: {why}");
        let wrong = |e: serde_json::Error| none(e.to_string());
        // 0.15 and later list policies and identities as 0.14 lists keys.
        if is_ndjson {
            let lines = serde_json::Deserializer::from_slice(answer).into_iter::<Line>();
            let entries = lines.map(|line| line.map_err(wrong)?.entry());
            return Ok(Page::whole(entries.collect::<Result<_, _>>()?));
        }
        let value: Value = serde_json::from_slice(answer).map_err(wrong)?;
        let names = |value: &Value| -> Option<Vec<Entry>> {
            let names = value.as_array()?.iter();
            names
                .map(|name| Some(Entry { name: name.as_str()?.to_owned(), ..Entry::default() }))
                .collect()
        };
        if let (Self::Policies, Some(entries)) = (self, names(&value)) {
            return Ok(Page::whole(entries));
        }
        let member = if self == Self::Identities { "identities" } else { "names" };
        let page = value.get(member).and_then(names);
        if let Some(entries) = page {
            let continue_at = value["continue_at"].as_str().filter(|name| !name.is_empty());
            let continue_at = continue_at.map(str::to_owned);
            return Ok(Page { entries, continue_at, is_newest: true });
        }
        if self == Self::Identities
            && let Ok(policies) = serde_json::from_value::<BTreeMap<String, String>>(value)
        {
            let entry = |(name, policy)| Entry { name, policy: Some(policy), is_admin: false };
            return Ok(Page::whole(policies.into_iter().map(entry).collect()));
        }
        Err(none(format!("its answer has another form than those of {}s", self.api())))
    }
}

impl Page {
    fn whole(entries: Vec<Entry>) -> Self {
        Self { entries, continue_at: None, is_newest: false }
    }
}

/// A line of a list.
#[derive(Deserialize)]
struct Line {
    #[serde(alias = "Name", alias = "identity")]
    name: Option<String>,
    policy: Option<String>,
    #[serde(default)]
    admin: bool,
    /// What ended the list, in its last line.
    error: Option<String>,
}

impl Line {
    fn entry(self) -> Result<Entry, String> {
        match self {
            Self { error: Some(error), .. } => Err(error),
            Self { name: Some(name), policy, admin, .. } => {
                let policy = policy.filter(|policy| !policy.is_empty());
                Ok(Entry { name, policy, is_admin: admin })
            }
            _ => Err("the server sent no list: a line without a name".to_owned()),
        }
    }
}

/// The form of a policy, which decides what its patterns mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `paths`, up to 0.14: globs.
    Paths,
    /// Arrays `allow` and `deny`, 0.15 to 2023: globs.
    Arrays,
    /// Maps `allow` and `deny`, since then: a trailing `*` crosses slashes, the rest is literal.
    Maps,
}

/// A policy as a server shows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) form: Form,
    /// The patterns that it allows, in their order.
    pub(crate) allow: Vec<String>,
    /// Those that it denies, which count more.
    pub(crate) deny: Vec<String>,
    /// RFC 3339; empty if the server does not say it.
    pub(crate) created_at: String,
    /// An identity; empty if the server does not say it.
    pub(crate) created_by: String,
}

impl Document {
    /// Reads the answer with a policy.
    ///
    /// # Errors
    /// Why it is none.
    pub(crate) fn read(answer: &[u8]) -> Result<Self, String> {
        let wrong = |why: &str| format!("the server sent no policy: {why}");
        let value: Value = serde_json::from_slice(answer).map_err(|e| wrong(&e.to_string()))?;
        let (paths, allow, deny) = (&value["paths"], &value["allow"], &value["deny"]);
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let form = match (allow, deny) {
            _ if paths.is_array() => Form::Paths,
            (Value::Object(_), _) | (_, Value::Object(_)) => Form::Maps,
            (Value::Array(_), _) | (_, Value::Array(_)) => Form::Arrays,
            // Maps that are empty are left out.
            _ if value["created_at"].is_string() => Form::Maps,
            _ => return Err(wrong("its answer has neither paths nor allow or deny")),
        };
        let all = if form == Form::Paths { paths } else { allow };
        let (Some(allow), Some(deny)) = (patterns(all), patterns(deny)) else {
            return Err(wrong("its patterns are no texts"));
        };
        let (created_at, created_by) = (text("created_at"), text("created_by"));
        Ok(Self { form, allow, deny, created_at, created_by })
    }

    /// As JSON, in the form in which the server has it.
    pub(crate) fn to_json(&self) -> String {
        let Self { allow, deny, .. } = self;
        let map = |patterns: &[String]| -> Value {
            patterns.iter().map(|pattern| (pattern.clone(), json!({}))).collect()
        };
        let (allow, deny) = match self.form {
            Form::Paths => return json!({ "paths": allow }).to_string(),
            Form::Arrays => (json!(allow), json!(deny)),
            Form::Maps => (map(allow), map(deny)),
        };
        let mut text = format!("{{\"allow\":{allow},\"deny\":{deny}");
        for (name, value) in [("created_at", &self.created_at), ("created_by", &self.created_by)] {
            if !value.is_empty() {
                text += &format!(",\"{name}\":{}", json!(value));
            }
        }
        text + "}"
    }
}

/// The patterns in a list, or the members of a map; none in nothing.
fn patterns(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(all) => all.iter().map(|pattern| Some(pattern.as_str()?.to_owned())).collect(),
        Value::Object(all) => Some(all.keys().cloned().collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: List, answer: &str, is_ndjson: bool) -> Vec<String> {
        let page = list.read(answer.as_bytes(), is_ndjson).unwrap();
        page.entries.into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn what_is_no_list_is_never_an_empty_one() {
        for list in [List::Keys, List::Policies, List::Identities] {
            for (answer, is_ndjson) in [
                ("", false),
                ("null", false),
                ("1", false),
                ("{\"a\":{}}", false),
                ("{\"names\":null}", false),
                ("{\"names\":[1],\"identities\":[1]}", false),
                ("[{}]", false),
                ("{}", true),
                ("{\"names\":[]}", true),
                ("{\"name\":\"a\"}\n{\"error\":\"it broke\"}", true),
            ] {
                assert!(list.read(answer.as_bytes(), is_ndjson).is_err(), "{list:?}: {answer}");
            }
        }
        assert!(List::Keys.read(b"[]", false).is_err());
        assert!(List::Keys.read(b"{}", false).is_err());
        assert!(List::Policies.read(b"{}", false).is_err());
        assert!(List::Identities.read(b"[]", false).is_err());
        assert!(List::Identities.read(b"{\"names\":[]}", false).is_err());
    }

    #[test]
    fn lists_of_all_generations_are_read() {
        assert_eq!(
            ["a", "b"],
            *names(List::Keys, "{\"Name\":\"a\"}\n{\"name\":\"b\",\"id\":\"\"}", true)
        );
        assert_eq!(["p"], *names(List::Policies, "[\"p\"]", false));
        assert_eq!(["p"], *names(List::Policies, "{\"name\":\"p\",\"created_by\":\"x\"}", true));
        let page = List::Identities.read(b"{\"x\":\"p\"}", false).unwrap();
        assert_eq!(Some("p"), page.entries[0].policy.as_deref());
        let line = b"{\"identity\":\"x\",\"admin\":true,\"policy\":\"\"}";
        let page = List::Identities.read(line, true).unwrap();
        let admin = Entry { name: "x".to_owned(), policy: None, is_admin: true };
        assert_eq!(vec![admin], page.entries);
        let page = List::Keys.read(b"{\"names\":[\"a\"],\"continue_at\":\"b\"}", false).unwrap();
        assert_eq!((Some("b"), true), (page.continue_at.as_deref(), page.is_newest));
        let page = List::Policies.read(b"{\"names\":[],\"continue_at\":\"\"}", false).unwrap();
        assert_eq!((None, true), (page.continue_at, page.is_newest));
    }

    #[test]
    fn policies_of_all_generations_are_read_and_printed_as_they_are() {
        for (answer, form) in [
            ("{\"paths\":[\"/b\",\"/a\"]}", Form::Paths),
            (
                "{\"allow\":[\"/b\"],\"deny\":[\"/a\"],\"created_at\":\"t\",\"created_by\":\"x\"}",
                Form::Arrays,
            ),
            ("{\"allow\":{\"/b*\":{}},\"deny\":{},\"created_at\":\"t\"}", Form::Maps),
        ] {
            let document = Document::read(answer.as_bytes()).unwrap();
            assert_eq!(form, document.form);
            assert_eq!(answer, document.to_json());
        }
        let empty = Document::read(b"{\"name\":\"p\",\"created_at\":\"t\"}").unwrap();
        assert_eq!((Form::Maps, true), (empty.form, empty.allow.is_empty()));
        for answer in
            ["", "null", "{}", "[]", "{\"names\":[]}", "{\"allow\":[1]}", "{\"paths\":null}"]
        {
            assert!(Document::read(answer.as_bytes()).is_err(), "{answer}");
        }
    }
}
