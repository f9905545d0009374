//! The key API: create, import, delete, generate, encrypt, decrypt, list.

use std::sync::atomic::Ordering;

use base64::Engine as _;

use super::{
    call::{Call, KeyUse, Outcome, select},
    changes::{Change, Job},
    core::Core,
    failure::{Failure, Task},
};
use crate::{
    base::{deadline::Deadline, secret::Secret},
    crypto::{
        BASE64, MasterKey,
        ciphertext::{self, Format},
        json, stored,
    },
    http::reply::Reply,
    keystore::KeyName,
    log::Cause,
};

/// The length of a data key, in bytes.
const DATA_KEY: usize = 32;

const NO_RANDOMNESS: Failure = Failure::Internal("failed to generate random bytes");

/// `POST /v1/key/create/<name>`
pub fn create(call: &Call<'_>) -> Result<Outcome, Failure> {
    let core = call.core;
    let job: Job = Box::new(|name, deadline| {
        let key = MasterKey::generate().map_err(|e| {
            core.log.error_from_outside(Cause::Failure, || {
                format!("failed to create key {:?}: {e}", name.as_str())
            });
            Failure::Internal("failed to generate a random key")
        })?;
        store(core, name, &key, deadline)
    });
    Ok(Outcome::Change(Change { name: call.key_name()?, task: Task::Create, job }))
}

/// `POST /v1/key/import/<name>`
pub fn import(call: &Call<'_>) -> Result<Outcome, Failure> {
    let (core, name) = (call.core, call.key_name()?);
    let [bytes] = json::secrets(call.body, ["bytes"]).ok_or(Failure::InvalidJson)?;
    let key = MasterKey::from_bytes(bytes.expose()).ok_or(Failure::InvalidKey)?;
    let job: Job = Box::new(move |name, deadline| store(core, name, &key, deadline));
    Ok(Outcome::Change(Change { name, task: Task::Create, job }))
}

/// Nothing is cached here: a key that is not durable yet must not encrypt anything.
fn store(
    core: &Core,
    name: &KeyName,
    key: &MasterKey,
    deadline: Deadline,
) -> Result<Reply, Failure> {
    let created = core.store.create(name, &stored::encode(key), deadline);
    // An older key of this name, which another server has deleted, must not stay in the cache.
    core.cache.remove(name);
    core.called(created, Task::Create, Some(name))?;
    Ok(Reply::empty())
}

/// `DELETE /v1/key/delete/<name>`
pub fn delete(call: &Call<'_>) -> Result<Outcome, Failure> {
    let core = call.core;
    let job: Job = Box::new(|name, deadline| {
        core.cache.remove(name);
        let deleted = core.store.delete(name, deadline);
        // Once more: a request may have fetched the key between the two lines above.
        core.cache.remove(name);
        core.called(deleted, Task::Delete, Some(name))?;
        Ok(Reply::empty())
    });
    Ok(Outcome::Change(Change { name: call.key_name()?, task: Task::Delete, job }))
}

/// `POST /v1/key/generate/<name>`
pub fn generate(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let [context] = json::secrets(call.body, ["context"]).ok_or(Failure::InvalidJson)?;
    let secrets = [Secret::new(Vec::new()), context];
    let then = |key: &MasterKey, [_, context]: &[Secret; 2]| {
        let (data_key, sealed) =
            ciphertext::seal_fresh(key, DATA_KEY, context.expose(), Format::Json)
                .map_err(|_| NO_RANDOMNESS)?;
        Ok(object(&[("plaintext", data_key.expose()), ("ciphertext", &sealed)]))
    };
    Ok(Outcome::Key(name, KeyUse { secrets, then }))
}

/// `POST /v1/key/encrypt/<name>`
pub fn encrypt(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let secrets = json::secrets(call.body, ["plaintext", "context"]).ok_or(Failure::InvalidJson)?;
    let then = |key: &MasterKey, [plaintext, context]: &[Secret; 2]| {
        Ok(object(&[("ciphertext", &seal(key, plaintext, context)?)]))
    };
    Ok(Outcome::Key(name, KeyUse { secrets, then }))
}

/// `POST /v1/key/decrypt/<name>`
pub fn decrypt(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let secrets =
        json::secrets(call.body, ["ciphertext", "context"]).ok_or(Failure::InvalidJson)?;
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
        let names = core.called(core.store.list(deadline), Task::List, None)?;
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
    ciphertext::seal(key, plaintext.expose(), context.expose(), Format::Json)
        .map_err(|_| NO_RANDOMNESS)
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
