//! A policy as JSON, in files and in the API. Its members differ by generation: `{"paths":[...]}` up to
//! 0.14, `{"allow":[...],"deny":[...]}` in 2022, and `{"allow":{"<rule>":{},...},"deny":{...}}` since.

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::Value;

use super::{Policy, rule::Rule};

/// The members that hold rules.
const MEMBERS: [&str; 3] = ["paths", "allow", "deny"];

impl Policy {
    /// Reads the members of a JSON object: `paths`, or `allow` and `deny`. Their names match without case,
    /// `null` is empty, and nothing else may stand beside them.
    ///
    /// # Errors
    /// A sentence about what is wrong.
    pub fn from_members(
        members: impl IntoIterator<Item = (String, Value)>,
    ) -> Result<Self, String> {
        let mut found = [const { None::<Vec<Rule>> }; MEMBERS.len()];
        for (member, value) in members {
            let known = MEMBERS.iter().position(|known| known.eq_ignore_ascii_case(&member));
            let Some(at) = known else {
                return Err(format!(
                    "unknown member {member:?}: a policy is {{\"paths\":[...]}}, or \
                     {{\"allow\":[...],\"deny\":[...]}}"
                ));
            };
            let name = MEMBERS[at];
            if found[at].replace(rules(name, value)?).is_some() {
                return Err(format!("\"{name}\" is there twice"));
            }
        }
        match found {
            [Some(_), Some(_), _] => {
                Err("\"paths\" and \"allow\" are both there: \"allow\" is the newer name"
                    .to_owned())
            }
            [paths, allow, deny] => Ok(Self {
                allow: paths.or(allow).unwrap_or_default(),
                deny: deny.unwrap_or_default(),
            }),
        }
    }

    /// Reads the policy in the answer of a server of any generation, which may say more about it.
    ///
    /// # Errors
    /// A sentence about what is wrong.
    pub fn from_answer(answer: Value) -> Result<Self, String> {
        let Value::Object(members) = answer else {
            return Err("it is no JSON object".to_owned());
        };
        let is_ours = |name: &str| MEMBERS.iter().any(|known| known.eq_ignore_ascii_case(name));
        // Empty members are omitted, but not all of those that only describe.
        if !members.keys().any(|name| is_ours(name) || name == "created_at") {
            return Err("it has no member \"paths\", \"allow\" or \"deny\"".to_owned());
        }
        Self::from_members(members.into_iter().filter(|(name, _)| is_ours(name)))
    }
}

/// The rules in the member `name`: a list of patterns, or an object whose names are rules of the newest
/// generation.
fn rules(name: &str, value: Value) -> Result<Vec<Rule>, String> {
    if let (Value::Object(rules), true) = (&value, name != "paths") {
        return Ok(rules.keys().map(|rule| Rule::prefix(rule)).collect());
    }
    let patterns: Option<Vec<Option<String>>> = serde_json::from_value(value)
        .map_err(|e| format!("\"{name}\" is no list of paths: {e}"))?;
    let rule = |pattern: Option<String>| {
        let pattern = pattern.unwrap_or_default();
        Rule::glob(&pattern).map_err(|e| format!("{pattern:?}: {e}"))
    };
    patterns.unwrap_or_default().into_iter().map(rule).collect()
}

/// `{"paths":[...]}`, in the order of the rules. Only what this shape can't hold is beside it, or in the newer
/// shape: clients that do not know it fail rather than show a policy that allows something else.
impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let are_globs = |rules: &[Rule]| rules.iter().all(|rule| matches!(rule, Rule::Glob(_)));
        let mut document = to.serialize_map(None)?;
        match are_globs(&self.allow) {
            true => document.serialize_entry("paths", &RuleList(&self.allow))?,
            false => document.serialize_entry("allow", &RuleMap(&self.allow))?,
        }
        match are_globs(&self.deny) {
            true if self.deny.is_empty() => {}
            true => document.serialize_entry("deny", &RuleList(&self.deny))?,
            false => document.serialize_entry("deny", &RuleMap(&self.deny))?,
        }
        document.end()
    }
}

/// Rules as JSON in the shape of 2022: `["<rule>",...]`, in their order.
pub struct RuleList<'a>(pub &'a [Rule]);

impl Serialize for RuleList<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(Rule::as_str))
    }
}

/// Rules as JSON in the shape of the newest generation: `{"<rule>":{},...}`, sorted.
pub struct RuleMap<'a>(pub &'a [Rule]);

impl Serialize for RuleMap<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut rules: Vec<_> = self.0.iter().map(Rule::as_str).collect();
        rules.sort_unstable();
        rules.dedup();
        to.collect_map(rules.into_iter().map(|rule| (rule, serde_json::Map::new())))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(document: &Value) -> Result<Policy, String> {
        Policy::from_members(document.as_object().unwrap().clone())
    }

    #[test]
    fn a_policy_is_read_in_the_shape_of_every_generation() {
        let glob = |text| Rule::glob(text).unwrap();
        for (document, allow, deny) in [
            (json!({}), vec![], vec![]),
            (json!({"paths": null}), vec![], vec![]),
            (json!({"PATHS": ["/a/*", null]}), vec![glob("/a/*"), glob("")], vec![]),
            (json!({"allow": ["/a"], "deny": ["/b"]}), vec![glob("/a")], vec![glob("/b")]),
            (json!({"allow": null, "deny": []}), vec![], vec![]),
            (
                json!({"allow": {"/a*": {}, "/b": {}}, "deny": {"/a/[": {}}}),
                vec![Rule::prefix("/a*"), Rule::prefix("/b")],
                vec![Rule::prefix("/a/[")],
            ),
        ] {
            assert_eq!(Ok(Policy { allow, deny }), read(&document), "{document}");
        }
    }

    #[test]
    fn the_error_says_what_is_wrong_with_a_policy() {
        for (document, why) in [
            (json!({"path": []}), "unknown member \"path\": a policy is "),
            (json!({"paths": "/a"}), "\"paths\" is no list of paths: "),
            (json!({"paths": {"/a": {}}}), "\"paths\" is no list of paths: "),
            (json!({"deny": [1]}), "\"deny\" is no list of paths: "),
            (json!({"allow": ["/a["]}), "\"/a[\": syntax error in pattern: "),
            (json!({"allow": [], "Allow": []}), "\"allow\" is there twice"),
            (json!({"allow": [], "paths": []}), "\"paths\" and \"allow\" are both there: "),
        ] {
            let error = read(&document).unwrap_err();
            assert!(error.starts_with(why), "{document}: {error}");
        }
    }

    #[test]
    fn an_answer_may_say_more_but_must_have_rules() {
        let allow = Policy { allow: vec![Rule::prefix("/a*")], deny: Vec::new() };
        let answer = json!({"name": "p", "allow": {"/a*": {}}, "created_by": "admin"});
        assert_eq!(Ok(allow), Policy::from_answer(answer));
        let empty = json!({"name": "p", "created_at": "2024-01-12T10:39:20Z"});
        assert_eq!(Ok(Policy::default()), Policy::from_answer(empty));
        for answer in [json!([]), json!({}), json!({"message": "not found"})] {
            assert!(Policy::from_answer(answer).is_err());
        }
    }

    #[test]
    fn a_policy_is_written_in_the_shape_of_every_generation() {
        let mut policy = read(&json!({"allow": ["/b", "/a", "/b"]})).unwrap();
        assert_eq!(r#"{"paths":["/b","/a","/b"]}"#, serde_json::to_string(&policy).unwrap());
        assert_eq!(json!(["/b", "/a", "/b"]), json!(RuleList(&policy.allow)));
        assert_eq!(json!({"/a": {}, "/b": {}}), json!(RuleMap(&policy.allow)));
        policy.deny = vec![Rule::glob("/a*").unwrap()];
        assert_eq!(
            json!({"paths": ["/b", "/a", "/b"], "deny": ["/a*"]}),
            serde_json::to_value(&policy).unwrap()
        );
    }

    #[test]
    fn a_written_policy_is_read_as_it_was() {
        for document in [
            json!({"paths": ["/a/*"]}),
            json!({"allow": ["/a/*"], "deny": ["/a/[bc]"]}),
            json!({"allow": {"/a/*": {}, "/b": {}}, "deny": {"/a/[": {}}}),
            json!({"allow": ["/a/*"], "deny": {"/a/*": {}}}),
            json!({"deny": {"*": {}}}),
        ] {
            let policy = read(&document).unwrap();
            assert_eq!(Ok(&policy), read(&json!(policy)).as_ref(), "{document}");
        }
    }
}
