//! Policies as JSON, against the conditions spelled out.

use serde_json::{Map, Value, json};

use super::globs::{is_greedy, prefix_reference, reference};
use crate::policy::Policy;

/// Longer rules take the reference too long, in bytes.
const MAX_RULE: usize = 200;

/// An object. If it is a policy, it decides as its rules do, and is written so that it is read as the same.
pub fn document(data: &[u8]) {
    let Ok(members) = serde_json::from_slice::<Map<String, Value>>(data) else { return };
    let wanted = plain(&members);
    let found = Policy::from_members(members.clone());
    assert_eq!(wanted.is_some(), found.is_ok(), "{members:?}");
    let is_ours = |name: &String| MEMBERS.contains(&name.to_ascii_lowercase().as_str());
    let mut answer = members.clone();
    answer.insert("created_at".to_owned(), json!("now"));
    let ours = members.iter().filter(|(name, _)| is_ours(name));
    let ours: Map<_, _> = ours.map(|(name, value)| (name.clone(), value.clone())).collect();
    assert_eq!(Policy::from_members(ours).ok(), Policy::from_answer(Value::Object(answer)).ok());
    let (Some(wanted), Ok(policy)) = (wanted, found) else { return };

    let written = json!(policy);
    let again = written.as_object().expect("it is an object").clone();
    assert_eq!(Ok(&sorted(&policy)), Policy::from_members(again).map(|it| sorted(&it)).as_ref());
    let is_long = |text: &String| text.len() > MAX_RULE || is_greedy(text);
    if wanted.iter().any(|(_, text, is_glob)| *is_glob && is_long(text)) {
        return;
    }
    // What one rule means is a path for the others.
    let texts = wanted.iter().map(|(_, text, _)| text.as_str());
    for path in texts.chain(["/v1/key/create/my-key", "/", ""]).take(8) {
        let any = |denies: bool| {
            let mut rules = wanted.iter().filter(|rule| rule.0 == denies);
            rules.any(|(_, text, is_glob)| match is_glob {
                true => reference(text, path) == Some(true),
                false => prefix_reference(text, path),
            })
        };
        assert_eq!(any(false) && !any(true), policy.allows(path), "{path:?}: {written}");
        assert_eq!(any(true), policy.denies(path), "{path:?}: {written}");
    }
}

const MEMBERS: [&str; 3] = ["paths", "allow", "deny"];

/// The rules: whether each denies, its text, and whether it is a pattern. `None` if it is no policy.
fn plain(members: &Map<String, Value>) -> Option<Vec<(bool, String, bool)>> {
    let (mut rules, mut seen) = (Vec::new(), Vec::new());
    for (name, value) in members {
        let name = name.to_ascii_lowercase();
        if !MEMBERS.contains(&&*name) || seen.contains(&name) {
            return None;
        }
        let denies = name == "deny";
        match value {
            Value::Null => {}
            Value::Array(texts) => {
                for text in texts {
                    let text = if text.is_null() { "" } else { text.as_str()? };
                    reference(text, "")?;
                    rules.push((denies, text.to_owned(), true));
                }
            }
            Value::Object(texts) if name != "paths" => {
                rules.extend(texts.keys().map(|text| (denies, text.clone(), false)));
            }
            _ => return None,
        }
        seen.push(name);
    }
    let both = ["paths", "allow"].iter().all(|name| seen.iter().any(|seen| seen == name));
    (!both).then_some(rules)
}

/// Rules of the newest shape have no order.
fn sorted(policy: &Policy) -> [Vec<String>; 2] {
    [&policy.allow, &policy.deny].map(|rules| {
        let mut rules: Vec<_> = rules.iter().map(|rule| format!("{rule:?}")).collect();
        rules.sort();
        rules.dedup();
        rules
    })
}
