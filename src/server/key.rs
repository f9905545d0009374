//! The key API: create, import, delete, generate, encrypt, decrypt, list.

use std::{borrow::Cow, fmt};

use super::{
    Call, Outcome, Server,
    failure::{Failure, Task},
    pipeline::select,
};
use crate::{
    base::{deadline::Deadline, secret::Secret},
    crypto::{BASE64, MasterKey, Text, ciphertext, stored},
    http::reply::Reply,
    keystore::KeyName,
    log::Cause,
};
use base64::Engine as _;
use serde::{
    Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor},
};

/// The length of a data key, in bytes.
const DATA_KEY: usize = 32;

/// `POST /v1/key/create/<name>`
pub(super) fn create(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    Ok(Outcome::change(name, Task::Create, |server, name, deadline| {
        let key = MasterKey::generate().map_err(|e| {
            server.log.error_from_outside(Cause::Failure, || {
                format!("failed to create key {:?}: {e}", name.as_str())
            });
            Failure::Internal("failed to generate a random key")
        })?;
        store(server, name, &key, deadline)
    }))
}

/// `POST /v1/key/import/<name>`
pub(super) fn import(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let [bytes] = members(call.body, ["bytes"])?;
    let key = MasterKey::from_bytes(bytes.expose()).ok_or(Failure::InvalidKey)?;
    Ok(Outcome::change(name, Task::Create, move |server, name, deadline| {
        store(server, name, &key, deadline)
    }))
}

/// Nothing is cached here: a key that is not durable yet must not encrypt anything.
fn store(
    server: &Server,
    name: &KeyName,
    key: &MasterKey,
    deadline: Deadline,
) -> Result<Reply, Failure> {
    let value = stored::encode(key);
    let created = server.store.create(name, &value, deadline);
    // Another server may have deleted an older key of this name, which the cache still holds. It
    // must not seal anything from now on.
    server.cache.remove(name);
    created.map_err(|e| server.key_store_failure(&e, Task::Create, Some(name)))?;
    Ok(Reply::empty())
}

/// `DELETE /v1/key/delete/<name>`
pub(super) fn delete(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    Ok(Outcome::change(name, Task::Delete, |server, name, deadline| {
        server.cache.remove(name);
        let deleted = server.store.delete(name, deadline);
        // Once more: a request may have fetched the key between the two lines above.
        server.cache.remove(name);
        deleted.map_err(|e| server.key_store_failure(&e, Task::Delete, Some(name)))?;
        Ok(Reply::empty())
    }))
}

/// `POST /v1/key/generate/<name>`
pub(super) fn generate(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let context = members(call.body, ["context"])?;
    Ok(Outcome::key(name, context, |key, [context]| {
        let data_key = Secret::random(DATA_KEY).map_err(|_| NO_RANDOMNESS)?;
        let sealed = seal(key, &data_key, &context)?;
        Ok(object(&[("plaintext", data_key.expose()), ("ciphertext", &sealed)]))
    }))
}

/// `POST /v1/key/encrypt/<name>`
pub(super) fn encrypt(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let secrets = members(call.body, ["plaintext", "context"])?;
    Ok(Outcome::key(name, secrets, |key, [plaintext, context]| {
        Ok(object(&[("ciphertext", &seal(key, &plaintext, &context)?)]))
    }))
}

/// `POST /v1/key/decrypt/<name>`
pub(super) fn decrypt(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let secrets = members(call.body, ["ciphertext", "context"])?;
    Ok(Outcome::key(name, secrets, |key, [sealed, context]| {
        let plaintext = ciphertext::open(key, sealed.expose(), context.expose())
            .map_err(Failure::Ciphertext)?;
        Ok(object(&[("plaintext", plaintext.expose())]))
    }))
}

/// `GET /v1/key/list/<pattern>`
pub(super) fn list(call: &Call<'_>) -> Result<Outcome, Failure> {
    let pattern = call.pattern();
    Ok(Outcome::names(move |server, deadline| {
        let names = server
            .store
            .list(deadline)
            .map_err(|e| server.key_store_failure(&e, Task::List, None))?;
        let names = names.iter().map(String::as_str).collect();
        let mut lines = Vec::new();
        for name in select(pattern.as_ref(), names)? {
            lines.extend_from_slice(b"{\"Name\":");
            let name = serde_json::to_vec(name).map_err(|_| Failure::KeyStore(Task::List))?;
            lines.extend_from_slice(&name);
            lines.extend_from_slice(b"}\n");
        }
        Ok(Reply::json_lines(lines))
    }))
}

const NO_RANDOMNESS: Failure = Failure::Internal("failed to generate random bytes");

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
/// As the clients of the original are used to: names are matched without case, unknown members and
/// whatever follows the object are ignored, missing members and `null` are empty, line breaks inside
/// base64 are skipped (`api.md` 1.3).
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
