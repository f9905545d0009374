//! What servers of all generations say: their lists, policies and versions, in one form.
//!
//! The same path has other answers in other generations, and nothing but the answer itself tells which.
//! What is none of them is an error: taken for another form, it would look like an empty list.

use serde_json::Value;

use crate::policy::Policy;

/// Whether a server says in its `status` that it can't use its key store.
pub(crate) fn lacks_key_store(status: &Value) -> bool {
    ["keystore_unreachable", "keystore_unavailable"].iter().any(|name| status[name] == true)
}

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
            let lines = serde_json::Deserializer::from_slice(answer).into_iter();
            let entries = lines.map(|line| Entry::read(&line.map_err(wrong)?));
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
        let entry = |(name, policy): (String, Value)| match policy {
            Value::String(policy) => Some(Entry { name, policy: Some(policy), is_admin: false }),
            _ => None,
        };
        if let (Self::Identities, Value::Object(policies)) = (self, value)
            && let Some(entries) = policies.into_iter().map(entry).collect()
        {
            return Ok(Page::whole(entries));
        }
        Err(none(format!("its answer has another form than those of {}s", self.api())))
    }
}

impl Page {
    fn whole(entries: Vec<Entry>) -> Self {
        Self { entries, continue_at: None, is_newest: false }
    }
}

impl Entry {
    /// Reads a line of a list. The last one may be the error that ended it.
    fn read(line: &Value) -> Result<Self, String> {
        let text = |member| line[member].as_str().map(str::to_owned);
        if let Some(error) = text("error") {
            return Err(error);
        }
        let Some(name) = ["name", "Name", "identity"].into_iter().find_map(text) else {
            return Err("the server sent no list: a line without a name".to_owned());
        };
        let policy = text("policy").filter(|policy| !policy.is_empty());
        Ok(Self { name, policy, is_admin: line["admin"] == true })
    }
}

/// A policy as a server shows it.
#[derive(Debug)]
pub(crate) struct Document {
    /// The JSON that the server sent: its form tells the generation of the policy.
    pub(crate) json: String,
    pub(crate) policy: Policy,
}

impl Document {
    /// Reads the answer with a policy.
    ///
    /// # Errors
    /// Why it is none.
    pub(crate) fn read(answer: &[u8]) -> Result<Self, String> {
        let wrong = |why: String| format!("the server sent no policy: {why}");
        let json = String::from_utf8_lossy(answer).trim_end().to_owned();
        let value: Value = serde_json::from_str(&json).map_err(|e| wrong(e.to_string()))?;
        let policy = Policy::from_answer(value).map_err(wrong)?;
        Ok(Self { json, policy })
    }
}

/// An identity as a server describes it.
#[derive(Debug, Default)]
pub(crate) struct Described {
    /// The JSON that the server sent.
    pub(crate) json: String,
    pub(crate) is_admin: bool,
    /// The name of its policy; empty if it has none, or the server does not say it.
    pub(crate) policy_name: String,
    /// Its policy, where the server adds it.
    pub(crate) policy: Option<Policy>,
    /// RFC 3339; empty if the server does not say it.
    pub(crate) created_at: String,
    /// An identity; empty if the server does not say it.
    pub(crate) created_by: String,
}

impl Described {
    /// Reads the answer with an identity.
    ///
    /// # Errors
    /// Why it is none.
    pub(crate) fn read(answer: &[u8]) -> Result<Self, String> {
        let wrong = |why: String| format!("the server sent no identity: {why}");
        let json = String::from_utf8_lossy(answer).trim_end().to_owned();
        let value: Value = serde_json::from_str(&json).map_err(|e| wrong(e.to_string()))?;
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let is_admin = value["admin"].as_bool().unwrap_or_default();
        let (policy_name, policy) = match &value["policy"] {
            Value::String(name) => {
                let is_here = value["allow"].is_object() || value["deny"].is_object();
                (name.clone(), is_here.then(|| value.clone()))
            }
            policy @ Value::Object(_) => {
                let name = policy["name"].as_str().map(str::to_owned);
                (name.unwrap_or_else(|| text("policy_name")), Some(policy.clone()))
            }
            _ => (text("policy_name"), None),
        };
        if !is_admin && policy_name.is_empty() && policy.is_none() {
            return Err(wrong("its answer has neither admin nor policy".to_owned()));
        }
        let policy = policy.map(Policy::from_answer).transpose().map_err(wrong)?;
        let (created_at, created_by) = (text("created_at"), text("created_by"));
        Ok(Self { json, is_admin, policy_name, policy, created_at, created_by })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Rule;

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
    fn policies_of_all_generations_are_read() {
        for (answer, allow) in [
            ("{\"paths\":[\"/b\",\"/a\"]}\n", &["/b", "/a"][..]),
            ("{\"allow\":[\"/b\"],\"deny\":[],\"created_by\":\"x\"}", &["/b"]),
            ("{\"name\":\"p\",\"allow\":{\"/b*\":{}},\"created_by\":\"x\"}", &["/b*"]),
            ("{\"name\":\"p\",\"created_at\":\"t\",\"created_by\":\"x\"}", &[]),
        ] {
            let document = Document::read(answer.as_bytes()).unwrap();
            let found: Vec<_> = document.policy.allow.iter().map(Rule::as_str).collect();
            assert_eq!(allow, found);
            assert_eq!(answer.trim_end(), document.json);
        }
        for answer in ["", "null", "{}", "[]", "{\"names\":[]}", "{\"allow\":[1]}"] {
            assert!(Document::read(answer.as_bytes()).is_err(), "{answer}");
        }
    }

    #[test]
    fn identities_of_all_generations_are_read() {
        for (answer, is_admin, policy, rules) in [
            ("{\"identity\":\"x\",\"admin\":true,\"created_at\":\"t\"}", true, "", None),
            ("{\"policy\":\"p\",\"created_at\":\"t\"}", false, "p", None),
            ("{\"identity\":\"x\",\"policy\":\"p\",\"allow\":{\"/a\":{}}}", false, "p", Some(1)),
            ("{\"identity\":\"x\",\"policy\":{\"name\":\"p\",\"allow\":{}}}", false, "p", Some(0)),
            // 2022
            (
                "{\"identity\":\"x\",\"admin\":false,\"policy_name\":\"p\",\
                 \"policy\":{\"allow\":[\"/a\"],\"deny\":[]}}",
                false,
                "p",
                Some(1),
            ),
        ] {
            let found = Described::read(answer.as_bytes()).unwrap();
            assert_eq!((is_admin, policy), (found.is_admin, &*found.policy_name), "{answer}");
            assert_eq!(rules, found.policy.map(|policy| policy.allow.len()), "{answer}");
        }
        for answer in ["", "null", "{}", "[]", "{\"identity\":\"x\"}", "{\"policy\":1}"] {
            assert!(Described::read(answer.as_bytes()).is_err(), "{answer}");
        }
    }
}
