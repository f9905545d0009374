//! What the answers of Vault mean.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::{
    base::secret::Secret,
    keystore::{
        remote::{Answer, Failed, clean, take},
        token::{Lease, MAX_LIFETIME, Refusal},
    },
};

/// What an answer to a read holds.
pub(crate) enum Members {
    Found(Map<String, Value>),
    Missing,
    /// There is a version, which is marked as deleted or destroyed.
    Deleted,
    Refused,
}

impl Members {
    pub(crate) fn of_v1(answer: &Answer) -> Result<Self, Failed> {
        if is_absent(answer) {
            return Ok(Self::Missing);
        }
        if answer.status != 200 {
            return Ok(Self::Refused);
        }
        match take(&mut answer.json()?, "/data") {
            Value::Object(members) => Ok(Self::Found(members)),
            _ => Err(answer.unusable(NO_DATA)),
        }
    }

    pub(crate) fn of_v2(answer: &Answer) -> Result<Self, Failed> {
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
            _ if data.is_object() => Err(answer.unusable(NOT_VERSION_2)),
            _ => Err(answer.unusable(NO_DATA)),
        }
    }
}

/// The version that an answer to a read on version 2 is about, be it deleted or not.
pub(crate) fn version(answer: &Answer) -> Option<u64> {
    let json: Value = answer.json().ok()?;
    json.pointer("/data/metadata/version")?.as_u64()
}

const NO_DATA: &str = "the answer has no data";
pub(crate) const NOT_VERSION_2: &str = "the engine is not KV version 2: set vault.version to v1";

/// Whether Vault says that there is nothing of this name: without errors, or with warnings. A 404 alone may come from
/// something in front of Vault.
pub(crate) fn is_absent(answer: &Answer) -> bool {
    if answer.status != 404 || is_misplaced(answer) {
        return false;
    }
    answer.json::<Value>().is_ok_and(|json| match json.get("errors") {
        Some(errors) => errors.as_array().is_some_and(Vec::is_empty),
        None => json.get("data").is_some() && json.get("request_id").is_some(),
    })
}

/// Whether Vault says that it has deleted the key: without a word, or with warnings. A 200 alone may be a
/// login page of something in front of Vault.
pub(crate) fn is_deleted(answer: &Answer) -> bool {
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

/// What a token may do, by path; nothing if Vault does not tell.
pub(crate) struct Rights(Value);

impl Rights {
    pub(crate) fn of(answer: &Answer) -> Self {
        let json = if answer.status == 200 { answer.json().ok() } else { None };
        Self(json.map_or(Value::Null, |mut json: Value| take(&mut json, "/data")))
    }

    /// Whether Vault tells.
    pub(crate) fn are_known(&self, path: &str) -> bool {
        self.0[path].is_array()
    }

    /// Whether Vault says that the token may do that; a root token may do all.
    pub(crate) fn has(&self, path: &str, right: &str) -> bool {
        self.find(path, &[right, "root"]).is_some()
    }

    /// The first of these that Vault says the token has.
    pub(crate) fn find<'a>(&self, path: &str, rights: &[&'a str]) -> Option<&'a str> {
        let granted = self.0[path].as_array()?;
        rights.iter().copied().find(|right| granted.iter().any(|granted| granted == right))
    }
}

/// What Vault says in an answer that is an error; `None` if it is no answer of Vault.
pub(crate) fn said(answer: &Answer) -> Option<String> {
    let json: Value = answer.json().ok()?;
    let texts = json.get("errors")?.as_array()?.iter();
    let texts: Vec<_> = texts
        .filter_map(Value::as_str)
        .map(|text| clean(&text.replace('*', " ")))
        .map(|text| text.trim_start_matches("1 error occurred: ").to_owned())
        .collect();
    Some(clean(&texts.join("; ")))
}

/// What an error quotes: what Vault says, or the beginning of what somebody else does. A 2xx answer may hold a
/// value.
pub(crate) fn quoted(answer: &Answer) -> String {
    match said(answer) {
        None if answer.status >= 300 => answer.text(),
        said => said.unwrap_or_default(),
    }
}

/// Reads the answer with status 200 to a login or a renewal, which gives no token.
pub(crate) fn lease(answer: &Answer) -> Result<Lease, Failed> {
    let mut auth = take(&mut answer.json()?, "/auth");
    let lifetime = auth["lease_duration"].as_u64().unwrap_or(0);
    Ok(Lease {
        token: match take(&mut auth, "/client_token") {
            Value::String(token) => Some(Secret::new(token.into_bytes())),
            _ => None,
        },
        lifetime: (lifetime > 0).then(|| Duration::from_secs(lifetime).min(MAX_LIFETIME)),
        is_renewable: auth["renewable"].as_bool().unwrap_or(false),
    })
}

/// What the answer to a login says about the credentials. Wrong ones of AppRole are a 400, which
/// `is_counted`; a role that is locked, or a method that is not there, is a 403.
pub(crate) fn refusal(answer: &Answer, is_counted: bool) -> Refusal {
    match answer.status {
        400 | 401 | 403 if said(answer).is_none() => Refusal::No,
        400 if is_counted => Refusal::Counted,
        400 | 401 | 403 => Refusal::Yes,
        _ => Refusal::No,
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
        Answer::fake(status as u16, json["body"].as_str().unwrap())
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
            "{\"data\":null,\"message\":\"no route\"}",
        ] {
            let answer = Answer::fake(404, body);
            assert!(!is_absent(&answer), "{body}");
            assert!(matches!(Members::of_v1(&answer), Ok(Members::Refused)), "{body}");
            assert!(matches!(Members::of_v2(&answer), Ok(Members::Refused)), "{body}");
        }
    }

    #[test]
    fn a_token_that_may_overwrite_keys_is_known() {
        let found = |name| Rights::of(&recorded(name)).find("kv/any-key", &["update", "root"]);
        assert_eq!(None, found("capabilities"));
        assert_eq!(Some("update"), found("capabilities-update"));
        assert_eq!(Some("root"), found("capabilities-root"));
        assert_eq!(None, found("capabilities-denied"));
        for body in ["", "<html>", "{}", r#"{"data":null}"#, r#"{"data":{"kv/any-key":"update"}}"#]
        {
            let rights = Rights::of(&Answer::fake(200, body));
            assert!(
                !rights.are_known("kv/any-key") && !rights.has("kv/any-key", "update"),
                "{body}"
            );
        }
        let rights = Rights::of(&recorded("capabilities-root"));
        assert!(rights.are_known("kv/any-key") && rights.has("kv/any-key", "update"));
    }

    #[test]
    fn only_vault_itself_says_that_a_key_is_deleted() {
        for name in ["kv1-delete", "kv1-delete-missing", "kv2-delete"] {
            assert!(is_deleted(&recorded(name)), "{name}");
        }
        assert!(is_deleted(&recorded("kv1-get-missing")));
        let warned = r#"{"request_id":"x","data":null,"warnings":["w"]}"#;
        assert!(is_deleted(&Answer::fake(200, warned)));
        assert!(!is_deleted(&recorded("missing-mount-get-root")));
        for body in ["", "<html>log in</html>", "{}", "[]", r#"{"data":null}"#] {
            assert!(!is_deleted(&Answer::fake(200, body)), "{body}");
        }
    }

    #[test]
    fn what_is_no_secret_is_an_error_and_no_panic() {
        for body in
            ["", "{", "[]", "null", "1", "{\"data\":1}", "{\"data\":null}", "{\"data\":[1]}"]
        {
            assert!(Members::of_v1(&Answer::fake(200, body)).is_err(), "{body}");
            assert!(Members::of_v2(&Answer::fake(200, body)).is_err(), "{body}");
        }
    }
}
