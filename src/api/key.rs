//! The key API: create, import, delete, generate, encrypt, decrypt, list.

use std::{borrow::Cow, fmt, sync::atomic::Ordering};

use base64::Engine as _;
use serde::{
    Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor},
};

use super::{
    call::{Call, KeyUse, Outcome, select},
    core::Core,
    failure::{Failure, Task},
};
use crate::{
    base::{deadline::Deadline, secret::Secret},
    crypto::{BASE64, MasterKey, Text, ciphertext, stored},
    http::reply::Reply,
    keystore::{KeyName, KeyStore as _},
    log::Cause,
};

/// The length of a data key, in bytes.
const DATA_KEY: usize = 32;

const NO_RANDOMNESS: Failure = Failure::Internal("failed to generate random bytes");

/// `POST /v1/key/create/<name>`
pub fn create(call: &Call<'_>) -> Result<Outcome, Failure> {
    let core = call.core;
    Ok(Outcome::change(call.key_name()?, Task::Create, |name, deadline| {
        let key = MasterKey::generate().map_err(|e| {
            core.log.error_from_outside(Cause::Failure, || {
                format!("failed to create key {:?}: {e}", name.as_str())
            });
            Failure::Internal("failed to generate a random key")
        })?;
        store(core, name, &key, deadline)
    }))
}

/// `POST /v1/key/import/<name>`
pub fn import(call: &Call<'_>) -> Result<Outcome, Failure> {
    let (core, name) = (call.core, call.key_name()?);
    let [bytes] = members(call.body, ["bytes"])?;
    let key = MasterKey::from_bytes(bytes.expose()).ok_or(Failure::InvalidKey)?;
    Ok(Outcome::change(name, Task::Create, move |name, deadline| store(core, name, &key, deadline)))
}

/// Nothing is cached here: a key that is not durable yet must not encrypt anything.
fn store(
    core: &Core,
    name: &KeyName,
    key: &MasterKey,
    deadline: Deadline,
) -> Result<Reply, Failure> {
    let created = core.store.create(name, &stored::encode(key), deadline);
    // Another server may have deleted an older key of this name, which the cache still holds. It must
    // not seal anything from now on.
    core.cache.remove(name);
    created.map_err(|e| core.key_store_failure(&e, Task::Create, Some(name)))?;
    Ok(Reply::empty())
}

/// `DELETE /v1/key/delete/<name>`
pub fn delete(call: &Call<'_>) -> Result<Outcome, Failure> {
    let core = call.core;
    Ok(Outcome::change(call.key_name()?, Task::Delete, |name, deadline| {
        core.cache.remove(name);
        let deleted = core.store.delete(name, deadline);
        // Once more: a request may have fetched the key between the two lines above.
        core.cache.remove(name);
        deleted.map_err(|e| core.key_store_failure(&e, Task::Delete, Some(name)))?;
        Ok(Reply::empty())
    }))
}

/// `POST /v1/key/generate/<name>`
pub fn generate(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let [context] = members(call.body, ["context"])?;
    let secrets = [Secret::new(Vec::new()), context];
    let then = |key: &MasterKey, [_, context]: &[Secret; 2]| {
        let data_key = Secret::random(DATA_KEY).map_err(|_| NO_RANDOMNESS)?;
        let sealed = seal(key, &data_key, context)?;
        Ok(object(&[("plaintext", data_key.expose()), ("ciphertext", &sealed)]))
    };
    Ok(Outcome::Key(name, KeyUse { secrets, then }))
}

/// `POST /v1/key/encrypt/<name>`
pub fn encrypt(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let secrets = members(call.body, ["plaintext", "context"])?;
    let then = |key: &MasterKey, [plaintext, context]: &[Secret; 2]| {
        Ok(object(&[("ciphertext", &seal(key, plaintext, context)?)]))
    };
    Ok(Outcome::Key(name, KeyUse { secrets, then }))
}

/// `POST /v1/key/decrypt/<name>`
pub fn decrypt(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let secrets = members(call.body, ["ciphertext", "context"])?;
    let then = |key: &MasterKey, [sealed, context]: &[Secret; 2]| {
        let plaintext = ciphertext::open(key, sealed.expose(), context.expose())
            .map_err(Failure::Ciphertext)?;
        Ok(object(&[("plaintext", plaintext.expose())]))
    };
    Ok(Outcome::Key(name, KeyUse { secrets, then }))
}

/// `GET /v1/key/list/<pattern>`
pub fn list(call: &Call<'_>) -> Result<Outcome, Failure> {
    let (core, pattern) = (call.core, call.pattern());
    Ok(Outcome::Names(Box::new(move |deadline| {
        let names =
            core.store.list(deadline).map_err(|e| core.key_store_failure(&e, Task::List, None))?;
        let size = names.iter().map(|name| LINE.len() + name.len()).sum();
        core.list_size.store(size, Ordering::Relaxed);
        let mut lines = Vec::new();
        for name in select(pattern.as_ref(), names.iter().map(String::as_str).collect())? {
            let name = serde_json::to_vec(name).map_err(|_| Failure::KeyStore(Task::List))?;
            for part in [b"{\"Name\":", &*name, b"}\n"] {
                lines.extend_from_slice(part);
            }
        }
        Ok(Reply::json_lines(lines))
    })))
}

/// What a line of a list has beside the name.
const LINE: &[u8] = b"{\"Name\":\"\"}\n";

fn seal(key: &MasterKey, plaintext: &Secret, context: &Secret) -> Result<Vec<u8>, Failure> {
    ciphertext::seal(key, plaintext.expose(), context.expose()).map_err(|_| NO_RANDOMNESS)
}

/// A JSON object of base64 members.
fn object(members: &[(&str, &[u8])]) -> Reply {
    let mut json = String::new();
    for (name, bytes) in members {
        let start = if json.is_empty() { '{' } else { ',' };
        json.extend([start, '"']);
        json.push_str(name);
        json.push_str("\":\"");
        json.push_str(&BASE64.encode(bytes));
        json.push('"');
    }
    json.push_str("}\n");
    Reply::json(json.into_bytes())
}

/// The binary members `names` of the first JSON object in `body`, decoded from base64.
///
/// As clients of KES expect: names match without case, unknown members and all that follows the object
/// are ignored, missing members and `null` are empty, line breaks inside base64 are skipped.
fn members<const N: usize>(body: &[u8], names: [&str; N]) -> Result<[Secret; N], Failure> {
    let mut json = serde_json::Deserializer::from_slice(body);
    Members(names).deserialize(&mut json).map_err(|_| Failure::InvalidJson)
}

/// Reads the members with these names into an array in the same order.
struct Members<'a, const N: usize>([&'a str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Members<'_, N> {
    type Value = [Secret; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Secret; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(std::array::from_fn(|_| Secret::new(Vec::new())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = std::array::from_fn(|_| Secret::new(Vec::new()));
        while let Some(member) = map.next_key::<Text<'de>>()? {
            match self.0.iter().position(|name| name.eq_ignore_ascii_case(member.as_str())) {
                Some(at) => {
                    let text = map.next_value::<Text<'de>>()?;
                    found[at] =
                        decode(text.as_str()).ok_or_else(|| A::Error::custom("invalid base64"))?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

fn decode(text: &str) -> Option<Secret> {
    let text = match memchr::memchr2(b'\r', b'\n', text.as_bytes()) {
        Some(_) => Cow::Owned(text.replace(['\r', '\n'], "")),
        None => Cow::Borrowed(text),
    };
    BASE64.decode(text.as_bytes()).map(Secret::new).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(body: &str) -> Option<Vec<Vec<u8>>> {
        let members = members(body.as_bytes(), ["plaintext", "context"]).ok()?;
        Some(members.iter().map(|member| member.expose().to_vec()).collect())
    }

    #[test]
    fn bodies_are_read_as_the_clients_write_them() {
        let ab = Some(vec![b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(ab, texts(r#"{"plaintext":"YQ==","context":"Yg=="}"#));
        assert_eq!(ab, texts(r#"{"PlainText":"YQ==","CONTEXT":"Yg==","x":[{"y":1}]} trailing"#));
        assert_eq!(ab, texts(r#"{"plaintext":"Y\nQ=\r=","context":"Yg=="}"#));
        // Go ignores what is left over in the last character.
        assert_eq!(ab, texts(r#"{"plaintext":"YR==","context":"Yh=="}"#));
        let empty = Some(vec![vec![], vec![]]);
        assert_eq!(empty, texts("{}"));
        assert_eq!(empty, texts("null"));
        assert_eq!(empty, texts(r#"{"plaintext":null}"#));
    }

    #[test]
    fn bodies_that_are_not_json_of_the_right_shape_are_refused() {
        for body in [
            "",
            " ",
            "{",
            "[]",
            "1",
            "\"a\"",
            r#"{"plaintext":1}"#,
            r#"{"plaintext":["YQ=="]}"#,
            r#"{"plaintext":{"a":1}}"#,
            r#"{"plaintext":true}"#,
            r#"{"plaintext":"YQ"}"#,
            r#"{"plaintext":"!"}"#,
            r#"{"plaintext":"YQ==""#,
            "{\"plaintext\":\"\u{e9}\"}",
        ] {
            assert_eq!(None, texts(body), "{body:?} was taken");
        }
    }
}
