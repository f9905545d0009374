//! Values that the transit engine of Vault encrypts before they are stored.

use base64::Engine as _;
use serde_json::{Value, json};

use super::{
    engine::Engine,
    settings::{Transit, path},
};
use crate::{
    base::{deadline::Deadline, secret::Secret},
    crypto::BASE64,
    keystore::remote::{self, Call, Failed, take},
    web::escape,
};

/// How ciphertexts of transit begin.
const WRAPPED: &str = "vault:v";

impl Engine {
    /// The text to store for `value`.
    pub(crate) fn wrap(&self, value: &Secret, deadline: Deadline) -> Result<Secret, Failed> {
        let Some(transit) = &self.cluster.settings.transit else {
            return Ok(value.clone());
        };
        let plaintext = Secret::new(BASE64.encode(value.expose()).into_bytes());
        self.transform(transit, ("encrypt", "plaintext"), &plaintext, deadline, |data| {
            let text = take(data, "/ciphertext");
            let text = text.as_str().filter(|text| text.starts_with(WRAPPED));
            let text = text.ok_or("the answer is no ciphertext of transit")?;
            Ok(Secret::new(text.as_bytes().to_vec()))
        })
    }

    /// The value that is stored as `text`.
    pub(crate) fn unwrap(&self, text: Secret, deadline: Deadline) -> Result<Secret, Failed> {
        if !text.expose().starts_with(WRAPPED.as_bytes()) {
            return Ok(text);
        }
        let Some(transit) = &self.cluster.settings.transit else {
            let why = "the value is encrypted by transit: set vault.transit";
            return Err(Failed::Other(why.to_owned()));
        };
        self.transform(transit, ("decrypt", "ciphertext"), &text, deadline, |data| {
            let Value::String(plaintext) = take(data, "/plaintext") else {
                return Err("the answer has no plaintext");
            };
            let value = BASE64.decode(plaintext).map_err(|_| "the plaintext is not base64")?;
            Ok(Secret::new(value))
        })
    }

    /// Has transit do this with `text`, which is sent as this member; `read` takes the result from its `data`.
    fn transform(
        &self,
        Transit { engine, key }: &Transit,
        (what, member): (&str, &str),
        text: &Secret,
        deadline: Deadline,
        read: impl FnOnce(&mut Value) -> Result<Secret, &'static str>,
    ) -> Result<Secret, Failed> {
        let path = format!("/v1/{}/{what}/{}", path(engine), escape::segment(key));
        let body = remote::json(&json!({ member: String::from_utf8_lossy(text.expose()) }));
        let answer = self.ask(Call::new("POST", &path).with(&body).hiding(text), deadline)?;
        if answer.status != 200 {
            return Err(self.refusal(&answer, "update"));
        }
        read(&mut take(&mut answer.json()?, "/data")).map_err(|why| answer.unusable(why))
    }
}
