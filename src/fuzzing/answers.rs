//! Answers of Vault and KeySecure, and the JSON bodies of clients.

use std::time::Duration;

use serde_json::{Value, json};

use super::{bodies::bodies, cursor::Cursor};
use crate::{
    base::secret::Secret,
    keystore::{
        keysecure::appliance,
        remote::{Answer, Failed},
        token::{Lease, MAX_LIFETIME, Refusal},
        vault::answer::{self, Members, Rights},
    },
};

const STATUSES: &[u16] =
    &[200, 204, 400, 403, 404, 500, 503, 409, 401, 201, 202, 299, 301, 405, 413, 422, 429, 502];

/// What is sent to a key store. `$1` in an answer repeats it, `$2` its end.
const SECRET: &str = "refresh-0123456789abcdef.ghijklmnop";

/// A status and a body.
pub fn answers(data: &[u8]) {
    let mut cursor = Cursor(data);
    let choice = cursor.byte();
    bodies(cursor.0, 1 + usize::from(choice >> 6));
    let Ok(text) = std::str::from_utf8(cursor.0) else { return };
    let text = text.replace("$1", SECRET).replace("$2", &SECRET[SECRET.len() - 9..]);
    let status = STATUSES[usize::from(choice) % STATUSES.len()];
    let hidden = Secret::new(SECRET.as_bytes().to_vec());
    let answer = Answer { hidden, ..Answer::fake(status, &text) };
    let json = serde_json::from_str(&text).unwrap_or(Value::Null);
    vault(&answer, &json, &text);
    rights(&answer, &json);
    vault_login(&answer, &json);
    keysecure(&answer, &json);
    keysecure_login(&answer, &json);
}

/// What is found, missing and deleted, against the conditions spelled out on the JSON.
fn vault(answer: &Answer, json: &Value, text: &str) {
    let status = answer.status;
    let elsewhere =
        ["no handler for route", "route entry not found", "namespace not found", "versioned K/V"];
    let is_elsewhere = status >= 400 && elsewhere.iter().any(|words| text.contains(words));
    let has = |name| json.get(name).is_some();
    let is_nothing = json.get("errors") == Some(&json!([]))
        || !has("errors") && has("data") && has("request_id");
    let is_absent = status == 404 && !is_elsewhere && is_nothing;
    assert_eq!(is_absent, answer::is_absent(answer), "{text}");
    let is_deleted = status == 204 || status == 200 && has("request_id") || is_absent;
    assert_eq!(is_deleted, answer::is_deleted(answer), "{text}");
    let newest = json.pointer("/data/metadata/version").and_then(Value::as_u64);
    assert_eq!(newest, answer::version(answer), "{text}");

    let v1 = match (status, &json["data"]) {
        _ if is_absent => "missing".to_owned(),
        (200, data) if data.is_object() => data.to_string(),
        (200, _) => "an error".to_owned(),
        _ => "refused".to_owned(),
    };
    assert_eq!(v1, shown(Members::of_v1(answer)), "{status} {text}");
    let has_metadata = json["data"].get("metadata").is_some();
    let v2 = match (status, &json["data"]["data"]) {
        (200 | 404, _) if is_elsewhere => "refused".to_owned(),
        (200, data) if has_metadata && data.is_object() => data.to_string(),
        (200 | 404, _) if has_metadata => "deleted".to_owned(),
        _ if is_absent => "missing".to_owned(),
        (200, _) => "an error".to_owned(),
        _ => "refused".to_owned(),
    };
    assert_eq!(v2, shown(Members::of_v2(answer)), "{status} {text}");
}

fn shown(members: Result<Members, Failed>) -> String {
    match members {
        Ok(Members::Found(members)) => Value::Object(members).to_string(),
        Ok(Members::Missing) => "missing".to_owned(),
        Ok(Members::Deleted) => "deleted".to_owned(),
        Ok(Members::Refused) => "refused".to_owned(),
        Err(failed) => {
            check_error(&failed);
            "an error".to_owned()
        }
    }
}

/// What a token may do is what Vault lists for the path, with status 200.
fn rights(answer: &Answer, json: &Value) {
    let rights = Rights::of(answer);
    let none = serde_json::Map::new();
    let paths = json["data"].as_object().unwrap_or(&none);
    for path in paths.keys().map(String::as_str).chain(["/"]) {
        let granted = paths.get(path).and_then(Value::as_array).filter(|_| answer.status == 200);
        assert_eq!(granted.is_some(), rights.are_known(path), "{path}: {json}");
        let is_granted = |right: &str| granted.is_some_and(|all| all.contains(&json!(right)));
        for right in ["create", "read", "update"] {
            let may = is_granted(right) || is_granted("root");
            assert_eq!(may, rights.has(path, right), "{right} on {path}: {json}");
        }
    }
}

/// A login gives the token in the answer, or fails; credentials are wrong only if Vault says so.
fn vault_login(answer: &Answer, json: &Value) {
    let has_errors = json["errors"].is_array();
    let said = answer::said(answer);
    assert_eq!(has_errors, said.is_some(), "{json}");
    let quoted = answer::quoted(answer);
    check_line(&quoted, 203);
    check_refusal(answer, &quoted);
    if answer.status < 300 && !has_errors {
        assert_eq!("", quoted, "it may hold a value");
    }
    for is_counted in [false, true] {
        let wanted = match answer.status {
            400 if has_errors && is_counted => Refusal::Counted,
            400 | 401 | 403 if has_errors => Refusal::Yes,
            _ => Refusal::No,
        };
        let refusal = answer::refusal(answer, is_counted);
        assert_eq!(wanted, refusal, "{} {json}", answer.status);
    }
    if answer.status == 200 {
        let auth = &json["auth"];
        let seconds = auth["lease_duration"].as_u64().filter(|seconds| *seconds > 0);
        let token = auth["client_token"].as_str();
        match answer::lease(answer) {
            Ok(lease) => check_lease(
                &lease,
                token,
                seconds.map(Duration::from_secs),
                auth["renewable"] == json!(true),
            ),
            Err(failed) => {
                check_error(&failed);
                assert!(json.is_null(), "{json}");
            }
        }
    }
}

fn check_lease(lease: &Lease, token: Option<&str>, lifetime: Option<Duration>, renewable: bool) {
    assert_eq!(token.map(str::as_bytes), lease.token.as_ref().map(Secret::expose), "the token");
    assert_eq!(lifetime.map(|lifetime| lifetime.min(MAX_LIFETIME)), lease.lifetime);
    assert_eq!(renewable, lease.is_renewable);
}

/// The error for an answer that `said` this does not repeat what is secret.
fn check_refusal(answer: &Answer, said: &str) {
    let failed = answer.refusal(said, "");
    let Failed::Other(why) = &failed else { panic!("{failed:?}") };
    let mut parts = SECRET.as_bytes().windows(8);
    let is_in = |part| memchr::memmem::find(why.as_bytes(), part).is_some();
    assert!(!parts.any(is_in), "an error repeats what is secret: {why}");
}

/// A key is absent or exists only if the appliance says so.
fn keysecure(answer: &Answer, json: &Value) {
    let is_own = json["codeDesc"].is_string() && json["code"].is_i64();
    for status in [404, 409] {
        let says = answer.status == status && is_own;
        assert_eq!(says, appliance::says(answer, status), "{} {json}", answer.status);
    }
    let said = appliance::said(answer);
    // A number follows what is cut.
    check_line(&said, 203 + 23);
    check_refusal(answer, &said);
    if answer.status < 300 {
        assert_eq!("", said, "it may hold a value");
    }
}

/// A login gives the token in the answer, or fails, and the error does not show it.
fn keysecure_login(answer: &Answer, json: &Value) {
    let jwt = json["jwt"].as_str().unwrap_or_default();
    let seconds = json["duration"].as_i64().and_then(|seconds| u64::try_from(seconds).ok());
    let seconds = seconds.filter(|seconds| *seconds > 0);
    let is_header = jwt.bytes().all(|byte| (0x21..0x7f).contains(&byte));
    let is_usable =
        !jwt.is_empty() && is_header && json["token_type"] == "Bearer" && seconds.is_some();
    match appliance::lease(answer) {
        Ok(lease) => {
            assert!(is_usable, "{json}");
            let lifetime = seconds.map(Duration::from_secs);
            check_lease(&lease, Some(&format!("Bearer {jwt}")), lifetime, false);
        }
        Err(failed) => {
            check_error(&failed);
            assert!(!is_usable, "{json}");
            // Shorter ones, and words, may be a part of the text.
            let is_telling =
                is_header && jwt.len() >= 8 && jwt.contains(|c: char| c.is_ascii_digit());
            assert!(!is_telling || !words(&failed).contains(jwt), "an error shows the token");
        }
    }
}

fn words(failed: &Failed) -> &str {
    match failed {
        Failed::Other(text) => text,
        _ => "",
    }
}

/// Errors are one line, which is not long.
fn check_error(failed: &Failed) {
    check_line(words(failed), 2000);
}

fn check_line(text: &str, max: usize) {
    assert!(text.chars().count() <= max && !text.contains(char::is_control), "{text:?}");
}
