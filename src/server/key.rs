//! The key API: create, import, delete, generate, encrypt, decrypt, list.

use super::{
    Call, Outcome, Server,
    failure::{Failure, Task},
    pipeline::select,
};
use crate::{
    base::{deadline::Deadline, secret::Secret},
    crypto::{BASE64, MasterKey, ciphertext, json, stored},
    http::reply::Reply,
    keystore::KeyName,
    log::Cause,
};
use base64::Engine as _;

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
    let [bytes] = json::secrets(call.body, ["bytes"]).ok_or(Failure::InvalidJson)?;
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
    let context = json::secrets(call.body, ["context"]).ok_or(Failure::InvalidJson)?;
    Ok(Outcome::key(name, context, |key, [context]| {
        let data_key = Secret::random(DATA_KEY).map_err(|_| NO_RANDOMNESS)?;
        let sealed = seal(key, &data_key, &context)?;
        Ok(object(&[("plaintext", data_key.expose()), ("ciphertext", &sealed)]))
    }))
}

/// `POST /v1/key/encrypt/<name>`
pub(super) fn encrypt(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let secrets = json::secrets(call.body, ["plaintext", "context"]).ok_or(Failure::InvalidJson)?;
    Ok(Outcome::key(name, secrets, |key, [plaintext, context]| {
        Ok(object(&[("ciphertext", &seal(key, &plaintext, &context)?)]))
    }))
}

/// `POST /v1/key/decrypt/<name>`
pub(super) fn decrypt(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.key_name()?;
    let secrets =
        json::secrets(call.body, ["ciphertext", "context"]).ok_or(Failure::InvalidJson)?;
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
