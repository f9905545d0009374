//! What is written to Vault and what it answers.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    base::secret::Secret,
    keystore::{
        KeyName,
        remote::{Answer, clean, escape},
    },
};

/// What an answer to a read holds.
pub(super) enum Members {
    Found(Map<String, Value>),
    Missing,
    /// There is a version, which is marked as deleted or destroyed.
    Deleted,
    Refused,
}

impl Members {
    pub(super) fn of_v1(answer: &Answer) -> Result<Self, String> {
        if is_absent(answer) {
            return Ok(Self::Missing);
        }
        if answer.status != 200 {
            return Ok(Self::Refused);
        }
        match take(&mut answer.json()?, "/data") {
            Value::Object(members) => Ok(Self::Found(members)),
            _ => Err(NO_DATA.to_owned()),
        }
    }

    pub(super) fn of_v2(answer: &Answer) -> Result<Self, String> {
        if ![200, 404].contains(&answer.status) || is_misplaced(answer) {
            return Ok(Self::Refused);
        }
        let mut data = match answer.json::<Value>() {
            Ok(mut json) => take(&mut json, "/data"),
            Err(_) if answer.status == 404 => return Ok(Self::Refused),
            Err(why) => return Err(why),
        };
        match (take(&mut data, "/data"), data.get("metadata").is_some()) {
            (Value::Object(members), true) if answer.status == 200 => Ok(Self::Found(members)),
            (_, true) => Ok(Self::Deleted),
            _ if is_absent(answer) => Ok(Self::Missing),
            _ if answer.status == 404 => Ok(Self::Refused),
            _ if data.is_object() => {
                Err("the engine is not KV version 2: set vault.version to v1".to_owned())
            }
            _ => Err(NO_DATA.to_owned()),
        }
    }
}

/// The version that an answer to a read on version 2 is about, be it deleted or not.
pub(super) fn version(answer: &Answer) -> Option<u64> {
    let json: Value = answer.json().ok()?;
    json.pointer("/data/metadata/version")?.as_u64()
}

/// The value at `pointer` (RFC 6901), or null.
pub(super) fn take(json: &mut Value, pointer: &str) -> Value {
    json.pointer_mut(pointer).map_or(Value::Null, Value::take)
}

const NO_DATA: &str = "the answer has no data";

/// Whether Vault says that there is nothing of this name. A 404 alone does not: whatever stands in
/// front of Vault may answer so.
pub(super) fn is_absent(answer: &Answer) -> bool {
    if answer.status != 404 || is_misplaced(answer) {
        return false;
    }
    match answer.json::<Value>() {
        Ok(json) => {
            let is_empty = |errors: &Value| errors.as_array().is_some_and(Vec::is_empty);
            json.get("errors").is_some_and(is_empty)
                || (json.get("errors").is_none() && json.get("data").is_some())
        }
        Err(_) => false,
    }
}

/// Whether Vault says that it has deleted the key: without a word, or with warnings. Whatever stands in
/// front of Vault may answer 200, with a page to log in for example.
pub(super) fn is_deleted(answer: &Answer) -> bool {
    match answer.status {
        204 => true,
        200 => (answer.json::<Value>()).is_ok_and(|json| json.get("request_id").is_some()),
        _ => is_absent(answer),
    }
}

/// A 404 that is not about the key: nothing is mounted there, or something else.
fn is_misplaced(answer: &Answer) -> bool {
    ["no handler for route", "route entry not found", "namespace not found", "versioned K/V"]
        .iter()
        .any(|words| answer.says(words))
}

/// What lets a token overwrite a secret, in an answer about its capabilities: `update`, or that it is a
/// root token. `None` also if Vault does not tell.
pub(super) fn overwriting(answer: &Answer) -> Option<&'static str> {
    let json: Value = answer.json().ok().filter(|_| answer.status == 200)?;
    let granted = json.pointer("/data/capabilities")?.as_array()?;
    let rights = ["update", "root"];
    rights.into_iter().find(|right| granted.iter().any(|granted| granted == right))
}

/// What Vault says in an answer that is an error; `None` if it is no answer of Vault.
pub(super) fn said(answer: &Answer) -> Option<String> {
    let json: Value = answer.json().ok()?;
    let texts = json.get("errors")?.as_array()?.iter();
    let texts: Vec<_> = texts
        .filter_map(Value::as_str)
        .map(|text| clean(&text.replace('*', " ")))
        .map(|text| text.trim_start_matches("1 error occurred: ").to_owned())
        .collect();
    Some(clean(&texts.join("; ")))
}

/// `text` as a path: each part escaped, empty ones left out.
pub(super) fn path(text: &str) -> String {
    let parts = text.split('/').filter(|part| !part.is_empty());
    parts.map(escape).collect::<Vec<_>>().join("/")
}

#[derive(Serialize)]
pub(super) struct Versioned<'a> {
    pub(super) options: Options,
    pub(super) data: Member<'a>,
}

#[derive(Serialize)]
pub(super) struct Options {
    pub(super) cas: u32,
}

/// `{"<name>":"<value>"}`
pub(super) struct Member<'a>(pub(super) &'a KeyName, pub(super) &'a Secret);

impl Serialize for Member<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = str::from_utf8(self.1.expose())
            .map_err(|_| serde::ser::Error::custom("the value is not text"))?;
        serializer.collect_map([(self.0.as_str(), text)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OpenBao really answered (`testdata/openbao`).
    fn recorded(name: &str) -> Answer {
        let path = format!("{}/testdata/openbao/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let status = json["status"].as_u64().unwrap();
        answer(status as u16, json["body"].as_str().unwrap())
    }

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: Secret::new(body.as_bytes().to_vec()), is_repeat: false }
    }

    #[test]
    fn real_answers_are_understood() {
        let v1 = |name| Members::of_v1(&recorded(name)).unwrap();
        let v2 = |name| Members::of_v2(&recorded(name)).unwrap();
        assert!(matches!(v1("kv1-get"), Members::Found(_)));
        assert!(matches!(v1("kv1-get-missing"), Members::Missing));
        assert!(matches!(v1("kv1-request-at-kv2-root"), Members::Refused));
        assert!(matches!(v1("missing-mount-get-root"), Members::Refused));
        assert!(matches!(v1("policy-without-read"), Members::Refused));
        assert!(matches!(v2("kv2-get"), Members::Found(_)));
        assert!(matches!(v2("kv2-get-missing"), Members::Missing));
        assert!(matches!(v2("kv2-get-soft-deleted"), Members::Deleted));
        assert!(matches!(v2("kv2-get-destroyed"), Members::Deleted));
        assert!(Members::of_v2(&recorded("kv1-get")).is_err());
        assert!(is_absent(&recorded("kv1-list-empty")));
        assert!(is_absent(&recorded("kv2-list-empty")));
        assert!(!is_absent(&recorded("missing-mount-list-root")));
        assert!(!is_absent(&recorded("kv1-list-at-kv2-root")));
        let denied = said(&recorded("policy-without-create"));
        assert_eq!(Some("permission denied"), denied.as_deref());
    }

    #[test]
    fn a_404_of_somebody_else_says_nothing_of_keys() {
        for body in [
            "",
            "404 page not found\n",
            "<html></html>",
            "{}",
            "[]",
            "null",
            "{\"errors\":[\"x\"]}",
        ] {
            let answer = answer(404, body);
            assert!(!is_absent(&answer), "{body}");
            assert!(matches!(Members::of_v1(&answer), Ok(Members::Refused)), "{body}");
            assert!(matches!(Members::of_v2(&answer), Ok(Members::Refused)), "{body}");
        }
    }

    #[test]
    fn a_token_that_may_overwrite_keys_is_known() {
        let found = |name| overwriting(&recorded(name));
        assert_eq!(None, found("capabilities"));
        assert_eq!(Some("update"), found("capabilities-update"));
        assert_eq!(Some("root"), found("capabilities-root"));
        assert_eq!(None, found("capabilities-denied"));
        for body in
            ["", "<html>", "{}", r#"{"data":null}"#, r#"{"data":{"capabilities":"update"}}"#]
        {
            assert_eq!(None, overwriting(&answer(200, body)), "{body}");
        }
    }

    #[test]
    fn only_vault_itself_says_that_a_key_is_deleted() {
        for name in ["kv1-delete", "kv1-delete-missing", "kv2-delete"] {
            assert!(is_deleted(&recorded(name)), "{name}");
        }
        assert!(is_deleted(&recorded("kv1-get-missing")));
        let warned = r#"{"request_id":"x","data":null,"warnings":["w"]}"#;
        assert!(is_deleted(&answer(200, warned)));
        assert!(!is_deleted(&recorded("missing-mount-get-root")));
        for body in ["", "<html>log in</html>", "{}", "[]", r#"{"data":null}"#] {
            assert!(!is_deleted(&answer(200, body)), "{body}");
        }
    }

    #[test]
    fn what_is_no_secret_is_an_error_and_no_panic() {
        for body in
            ["", "{", "[]", "null", "1", "{\"data\":1}", "{\"data\":null}", "{\"data\":[1]}"]
        {
            assert!(Members::of_v1(&answer(200, body)).is_err(), "{body}");
            assert!(Members::of_v2(&answer(200, body)).is_err(), "{body}");
        }
    }
}
