//! Values that the transit engine of Vault encrypts before they are stored (`backends.md` 2.5).

use base64::Engine as _;
use serde::Serialize;
use serde_json::Value;

use super::{
    MAX_ANSWER, Transit, Vault,
    answer::{path, take},
    site::Failed,
};
use crate::{
    base::{deadline::Deadline, secret::Secret},
    crypto::BASE64,
    keystore::remote::{escape, json},
};

/// Where transit begins a ciphertext.
const WRAPPED: &str = "vault:v";

impl Vault {
    /// The text to store for `value`.
    pub(super) fn wrap(&self, value: &Secret, deadline: Deadline) -> Result<Secret, Failed> {
        #[derive(Serialize)]
        struct Plain<'a> {
            plaintext: &'a str,
        }
        let Some(Transit { engine, key }) = &self.site.settings.transit else {
            return Ok(value.clone());
        };
        let url = format!("/v1/{}/encrypt/{}", path(engine), escape(key));
        let plaintext = BASE64.encode(value.expose());
        let body = json(&Plain { plaintext: &plaintext }).map_err(Failed::Other)?;
        let answer = self.ask("POST", &url, Some(&body), MAX_ANSWER, deadline)?;
        if answer.status != 200 {
            return Err(self.site.refusal("POST", &url, &answer, "update"));
        }
        let json = answer.json::<Value>();
        let mut json = json.map_err(|why| self.site.unusable("POST", &url, &why))?;
        let text = match take(&mut json, "/data/ciphertext") {
            Value::String(text) => text,
            _ => String::new(),
        };
        if !text.starts_with(WRAPPED) {
            let why = "the answer is no ciphertext of transit";
            return Err(self.site.unusable("POST", &url, why));
        }
        Ok(Secret::new(text.into_bytes()))
    }

    /// The value that is stored as `text`.
    pub(super) fn unwrap(&self, text: Secret, deadline: Deadline) -> Result<Secret, Failed> {
        #[derive(Serialize)]
        struct Wrapped<'a> {
            ciphertext: &'a str,
        }
        if !text.expose().starts_with(WRAPPED.as_bytes()) {
            return Ok(text);
        }
        let Some(Transit { engine, key }) = &self.site.settings.transit else {
            return Err(Failed::Other(
                "the value is encrypted by transit: set vault.transit".to_owned(),
            ));
        };
        let url = format!("/v1/{}/decrypt/{}", path(engine), escape(key));
        let ciphertext = String::from_utf8_lossy(text.expose());
        let body = json(&Wrapped { ciphertext: &ciphertext }).map_err(Failed::Other)?;
        let answer = self.ask("POST", &url, Some(&body), MAX_ANSWER, deadline)?;
        if answer.status != 200 {
            return Err(self.site.refusal("POST", &url, &answer, "update"));
        }
        let unusable = |why: &str| self.site.unusable("POST", &url, why);
        let mut json: Value = answer.json().map_err(|why| unusable(&why))?;
        let Value::String(plaintext) = take(&mut json, "/data/plaintext") else {
            return Err(unusable("the answer has no plaintext"));
        };
        BASE64
            .decode(plaintext.as_bytes())
            .map(Secret::new)
            .map_err(|_| unusable("the plaintext is not base64"))
    }
}
