//! Answers of Vault and KeySecure, and the JSON bodies of clients.

use serde_json::Value;

use super::cursor::Cursor;
use crate::{
    crypto::json,
    keystore::{
        keysecure::appliance,
        remote::{Answer, Failed},
        vault::answer::{self, Members, Rights},
    },
};

/// A status and a body. What is no JSON, such as a page of a proxy, never says that a key is gone or deleted.
pub fn answers(data: &[u8]) {
    let mut cursor = Cursor(data);
    let status = cursor.one_of(&[200, 204, 400, 403, 404, 500, 503]);
    bodies(cursor.0);
    let Ok(text) = std::str::from_utf8(cursor.0) else { return };
    let answer = Answer::fake(status, text);
    let value = serde_json::from_str::<Value>(text);
    let is_object = value.as_ref().is_ok_and(Value::is_object);
    for members in [Members::of_v1(&answer), Members::of_v2(&answer)] {
        match members {
            Ok(Members::Found(_)) => assert!(status == 200 && is_object),
            Ok(Members::Missing) => assert!(status == 404 && is_object, "{text}"),
            Ok(Members::Deleted) => assert!([200, 404].contains(&status) && is_object, "{text}"),
            Ok(Members::Refused) => assert_ne!(200, status),
            Err(failed) => check_error(&failed),
        }
    }
    assert!(!answer::is_deleted(&answer) || status == 204 || is_object, "{text}");
    assert!(!answer::is_absent(&answer) || status == 404);
    assert!(answer::version(&answer).is_none() || is_object);
    let rights = Rights::of(&answer);
    assert!(!rights.has("a", "root") || status == 200 && is_object && rights.are_known("a"));
    let said = answer::said(&answer).unwrap_or_default();
    assert!(said.chars().count() <= 203 && !said.contains(char::is_control), "{said:?}");
    match appliance::lease(&answer) {
        Ok(lease) => {
            let token = lease.token.expect("a login gives one");
            assert!(token.expose().starts_with(b"Bearer "));
            assert!(token.expose()[7..].iter().all(u8::is_ascii_graphic));
        }
        Err(failed) => {
            check_error(&failed);
            let token = value.ok().and_then(|value| Some(value.get("jwt")?.as_str()?.to_owned()));
            let token = token.filter(|token| token.len() >= 8);
            let told = token.is_some_and(|token| words(&failed).contains(&token));
            assert!(!told, "an error shows the token");
        }
    }
}

fn words(failed: &Failed) -> String {
    match failed {
        Failed::Other(text) => text.clone(),
        _ => String::new(),
    }
}

/// Errors are one line, which is not long.
fn check_error(failed: &Failed) {
    let text = words(failed);
    assert!(text.len() < 2000 && !text.contains(char::is_control), "{text:?}");
}

/// The members of an object, against those that another parser finds.
fn bodies(input: &[u8]) {
    let names = ["plaintext", "context"];
    let first = serde_json::Deserializer::from_slice(input).into_iter::<Value>().next();
    let Some((found, is_all)) = json::texts(input, names) else { return };
    // Our names may come in any case, and twice.
    match first {
        Some(Ok(Value::Null)) => assert_eq!(["", ""], found),
        Some(Ok(Value::Object(members))) => {
            for (name, found) in names.iter().zip(&found) {
                let mut same = members.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
                match (same.next(), same.next()) {
                    (None, _) => assert_eq!("", *found),
                    (Some((_, Value::String(text))), None) => assert_eq!(text, found),
                    (Some((_, value)), None) => assert!(value.is_null() && found.is_empty()),
                    _ => {}
                }
            }
        }
        // The other parser wants whole numbers and deep nesting to make sense, too.
        other => assert!(!matches!(other, Some(Ok(_))), "it is no object"),
    }
    assert!(!is_all || serde_json::from_slice::<serde::de::IgnoredAny>(input).is_ok());
    if let Some(secrets) = json::secrets(input, names) {
        for (secret, text) in secrets.iter().zip(&found) {
            assert!(secret.expose().len() <= text.len() / 4 * 3, "more bytes than the text has");
        }
    }
}
