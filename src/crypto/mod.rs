//! Master keys, the ciphertexts made with them, and how both look as bytes.
//!
//! Writes the formats of KES 0.14 (stored keys K1, ciphertexts C1) and of the newest generation (K4, C4), and
//! reads those of all versions: K1 to K4, C1 to C4. Knows nothing of key stores, HTTP or policies.

pub mod ciphertext;
pub mod json;
mod key;
pub mod stored;

pub(crate) use json::BASE64;
pub use key::{Algorithm, KEY_SIZE, MasterKey};

#[cfg(test)]
mod testdata {
    //! The known answers in `testdata/`, read as JSON.

    use base64::{Engine, prelude::BASE64_STANDARD};
    use serde_json::Value;

    /// The JSON file `testdata/<name>`.
    pub(super) fn read(name: &str) -> Value {
        let path = format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// The text of a member.
    pub(super) fn text<'a>(case: &'a Value, member: &str) -> &'a str {
        case[member].as_str().unwrap()
    }

    /// The bytes of a member in base64.
    pub(super) fn base64(case: &Value, member: &str) -> Vec<u8> {
        BASE64_STANDARD.decode(text(case, member)).unwrap()
    }

    /// The bytes of a member in hex.
    pub(super) fn hex(case: &Value, member: &str) -> Vec<u8> {
        text(case, member)
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }
}
