//! The key API: create, import, describe, delete, generate, encrypt, decrypt, HMAC, list.

use std::sync::atomic::Ordering;

use base64::Engine as _;

use super::{
    call::{Call, KeyUse, Outcome, select},
    changes::{Change, Job},
    core::Core,
    failure::{Failure, Task},
    object::Object,
    wanted::{self, new_key, with_origin},
};
use crate::{
    base::{deadline::Deadline, glob::Pattern, name, secret::Secret},
    crypto::{
        Algorithm, BASE64, MasterKey,
        ciphertext::{self, Format},
        json, stored,
    },
    http::reply::Reply,
    keystore::{self, KeyName},
    log::Cause,
};

/// The length of a data key, in bytes.
const DATA_KEY: usize = 32;
/// Ciphertexts at once, at most.
const MAX_CIPHERTEXTS: usize = 1000;
/// Names in an answer of the newest generation, at most.
const PAGE: usize = 1024;
/// The time of creation that stands for none.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

const NO_RANDOMNESS: Failure = Failure::Internal("failed to generate random bytes");

/// `POST /v1/key/create/<name>`
pub fn create(call: &Call<'_>) -> Result<Outcome, Failure> {
    let (core, maker) = (call.core, maker(call));
    let job: Job = Box::new(move |name, deadline| {
        let key = new_key(maker.as_deref()).map_err(|e| no_key(core, name, &e))?;
        store(core, name, &key, deadline)
    });
    Ok(Outcome::Change(Change { name: call.key_name()?, task: Task::Create, job }))
}

/// `POST /v1/key/import/<name>`
pub fn import(call: &Call<'_>) -> Result<Outcome, Failure> {
    let (core, name, maker) = (call.core, call.key_name()?, maker(call));
    let key = imported(call)?;
    let job: Job = Box::new(move |name, deadline| {
        let key = with_origin(key, maker.as_deref()).map_err(|e| no_key(core, name, &e))?;
        store(core, name, &key, deadline)
    });
    Ok(Outcome::Change(Change { name, task: Task::Create, job }))
}

/// The key in the body of an import: `bytes`, as clients of 0.14 send it, or `key` and `cipher`.
fn imported(call: &Call<'_>) -> Result<MasterKey, Failure> {
    let [bytes, key] = json::secrets(call.body, ["bytes", "key"]).ok_or(Failure::InvalidImport)?;
    let ([cipher], _) = json::texts(call.body, ["cipher"]).ok_or(Failure::InvalidImport)?;
    let bytes = if key.is_empty() { bytes } else { key };
    let algorithm = match Algorithm::from_stored_name(&cipher) {
        None if !cipher.is_empty() || bytes.is_empty() && call.is_newest() => {
            return Err(Failure::UnknownAlgorithm((*cipher).into()));
        }
        algorithm => algorithm,
    };
    let name = algorithm.unwrap_or(Algorithm::Aes256).name();
    let key = MasterKey::from_bytes(bytes.expose()).ok_or(Failure::InvalidKey(name))?;
    Ok(match algorithm {
        Some(algorithm) => key.with_algorithm(algorithm),
        None => key,
    })
}

/// The identity that the key names as its maker.
fn maker(call: &Call<'_>) -> Option<String> {
    wanted::maker(call.state.generation, call.identity).map(str::to_owned)
}

fn no_key(core: &Core, name: &KeyName, error: &getrandom::Error) -> Failure {
    core.log.error_from_outside(Cause::Failure, || {
        format!("failed to create key {:?}: {error}", name.as_str())
    });
    Failure::Internal("failed to generate a random key")
}

fn store(
    core: &Core,
    name: &KeyName,
    key: &MasterKey,
    deadline: Deadline,
) -> Result<Reply, Failure> {
    let created = core.store.create(name, &stored::encode(key), deadline);
    core.has_created(name, &created);
    core.called(created, Task::Create, Some(name))?;
    Ok(Reply::empty())
}

/// `DELETE /v1/key/delete/<name>`
pub fn delete(call: &Call<'_>) -> Result<Outcome, Failure> {
    let (core, is_newest) = (call.core, call.is_newest());
    let job: Job = Box::new(move |name, deadline| {
        core.cache.remove(name);
        let deleted = match core.store.delete(name, deadline) {
            // For clients of 0.14 it is enough that the key is gone.
            Err(keystore::Error::NotFound) if !is_newest => Ok(()),
            deleted => deleted,
        };
        // Once more: a request may have fetched the key between the two lines above.
        core.cache.remove(name);
        core.called(deleted, Task::Delete, Some(name))?;
        Ok(Reply::empty())
    });
    Ok(Outcome::Change(Change { name: call.key_name()?, task: Task::Delete, job }))
}

/// `GET /v1/key/describe/<name>`
pub fn describe(call: &Call<'_>) -> Result<Outcome, Failure> {
    let then = |key: &MasterKey, with: &KeyUse| {
        let algorithm = key.algorithm().unwrap_or(Algorithm::Aes256);
        let object = Object::new()
            .text("name", with.name.as_str())
            .text("algorithm", algorithm.name())
            .text("created_at", key.created_at().unwrap_or(NO_TIME))
            .text_if_any("created_by", key.created_by().unwrap_or_default());
        Ok(object.into_reply())
    };
    Ok(Outcome::Key(using(call, call.key_name()?, <_>::default(), then)))
}

/// `POST /v1/key/generate/<name>`
pub fn generate(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    // An SDK that asks the next server after a failure may have lost the body, and with it the context, but
    // still announces one. A client that announces none has no context.
    let has_none = call.is_newest() && call.announces_no_body;
    let body = if has_none { b"{}" } else { call.body };
    let [context] = json::secrets(body, ["context"]).ok_or(Failure::InvalidJson)?;
    let then = |key: &MasterKey, with: &KeyUse| {
        let ([context, _], format) = (&with.secrets, Format::of(with.generation));
        let (data_key, sealed) = ciphertext::seal_fresh(key, DATA_KEY, context.expose(), format)
            .map_err(|_| NO_RANDOMNESS)?;
        Ok(object(&[("plaintext", data_key.expose()), ("ciphertext", &sealed)]))
    };
    Ok(Outcome::Key(using(call, name, [context, Secret::default()], then)))
}

/// `POST /v1/key/encrypt/<name>`
pub fn encrypt(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let secrets = json::secrets(call.body, ["plaintext", "context"]).ok_or(Failure::InvalidJson)?;
    let then = |key: &MasterKey, with: &KeyUse| {
        let ([plaintext, context], format) = (&with.secrets, Format::of(with.generation));
        let sealed = ciphertext::seal(key, plaintext.expose(), context.expose(), format)
            .map_err(|_| NO_RANDOMNESS)?;
        Ok(object(&[("ciphertext", &sealed)]))
    };
    Ok(Outcome::Key(using(call, name, secrets, then)))
}

const SEALED: [&str; 2] = ["ciphertext", "context"];

/// `POST /v1/key/decrypt/<name>`
pub fn decrypt(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let secrets = json::secrets(call.body, SEALED).ok_or(Failure::InvalidJson)?;
    let then = |key: &MasterKey, with: &KeyUse| {
        Ok(object(&[("plaintext", open(key, &with.secrets)?.expose())]))
    };
    Ok(Outcome::Key(using(call, name, secrets, then)))
}

/// `POST /v1/key/bulk/decrypt/<name>`: all or nothing.
pub fn decrypt_all(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let parts = json::lists_of_secrets(call.body, SEALED, MAX_CIPHERTEXTS + 1);
    let parts = parts.ok_or(Failure::InvalidJson)?;
    if parts.len() > MAX_CIPHERTEXTS {
        return Err(Failure::TooManyCiphertexts);
    }
    let then = |key: &MasterKey, with: &KeyUse| {
        let mut json = vec![b'['];
        for part in &with.parts {
            let object = object(&[("plaintext", open(key, part)?.expose())]).body;
            json.extend_from_slice(object.trim_ascii_end());
            json.push(b',');
        }
        if json.len() > 1 {
            json.pop();
        }
        json.extend_from_slice(b"]\n");
        Ok(Reply::json(json))
    };
    Ok(Outcome::Key(KeyUse { parts, ..using(call, name, <_>::default(), then) }))
}

/// `POST /v1/key/hmac/<name>`
pub fn hmac(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let [message] = json::secrets(call.body, ["message"]).ok_or(Failure::InvalidJson)?;
    let then = |key: &MasterKey, with: &KeyUse| {
        let hmac = key.hmac(with.secrets[0].expose()).ok_or(Failure::NoHmac)?;
        Ok(object(&[("hmac", &hmac)]))
    };
    Ok(Outcome::Key(using(call, name, [message, Secret::default()], then)))
}

/// `GET /v1/key/list/<pattern>`
pub fn list(call: &Call<'_>) -> Result<Outcome, Failure> {
    let core = call.core;
    let names = move |deadline: Deadline| {
        let names = core.called(core.store.list(deadline), Task::List, None)?;
        let size = names.iter().map(|name| LINE.len() + name.len()).sum();
        core.list_size.store(size, Ordering::Relaxed);
        Ok(names)
    };
    let job: super::call::Job = match call.is_newest() {
        true => {
            let (prefix, from) = range(call)?;
            Box::new(move |deadline| Ok(page(names(deadline)?, &prefix, &from)))
        }
        false => {
            let pattern = call.pattern();
            Box::new(move |deadline| lines(&names(deadline)?, pattern.as_ref()))
        }
    };
    Ok(Outcome::Ask(job, core.list_size.load(Ordering::Relaxed)))
}

/// What a line of a list has beside the name.
const LINE: &[u8] = b"{\"Name\":\"\"}\n";

/// The names that `pattern` matches, as lines.
fn lines(names: &[String], pattern: Option<&Pattern>) -> Result<Reply, Failure> {
    let mut lines = Vec::new();
    for name in select(pattern, names.iter().map(String::as_str).collect())? {
        let name = serde_json::to_vec(name).map_err(|_| Failure::KeyStore(Task::List))?;
        for part in [b"{\"Name\":", &*name, b"}\n"] {
            lines.extend_from_slice(part);
        }
    }
    Ok(Reply::json_lines(lines))
}

/// Between what the names of a page start with and the first of them, in `continue_at`. Patterns have one star.
pub(super) const CONTINUED: &str = "**";

/// What the names of a page start with, and the first of them. A client that continues sends nothing but the
/// `continue_at` that it got, so that has both: `my-**my-key-7`.
fn range(call: &Call<'_>) -> Result<(String, String), Failure> {
    Ok(match continued(call.argument) {
        Some((prefix, from)) => (prefix.to_owned(), from.to_owned()),
        None => (call.prefix()?.to_owned(), String::new()),
    })
}

/// The same of an argument that is a `continue_at`.
pub fn continued(argument: &str) -> Option<(&str, &str)> {
    let (prefix, from) = argument.split_once(CONTINUED)?;
    let is_one = !from.is_empty() && from.starts_with(prefix) && name::is_plain_start(prefix);
    is_one.then_some((prefix, from))
}

/// The first names that start with `prefix` and do not come before `from`.
fn page(mut names: Vec<String>, prefix: &str, from: &str) -> Reply {
    names.retain(|name| name.starts_with(prefix) && **name >= *from);
    names.sort_unstable();
    let next = names.get(PAGE).map(|next| format!("{prefix}{CONTINUED}{next}")).unwrap_or_default();
    names.truncate(PAGE);
    Object::new().texts("names", &names).text_if_any("continue_at", &next).into_reply()
}

/// Has `then` use the key `name` with `secrets`.
fn using(
    call: &Call<'_>,
    name: KeyName,
    secrets: [Secret; 2],
    then: fn(&MasterKey, &KeyUse) -> Result<Reply, Failure>,
) -> KeyUse {
    KeyUse { name, generation: call.state.generation, secrets, parts: Vec::new(), then }
}

fn open(key: &MasterKey, [sealed, context]: &[Secret; 2]) -> Result<Secret, Failure> {
    ciphertext::open(key, sealed.expose(), context.expose()).map_err(Failure::Ciphertext)
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
