//! What is written to Vault and what it answers.

use std::collections::HashMap;

use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::Value;

use crate::{
    keystore::{
        KeyName,
        remote::{Answer, escape},
    },
    secret::{Secret, Wiped},
};

/// What an answer to a read holds.
pub(super) enum Members {
    Found(HashMap<String, Value>),
    Missing,
    /// There is a version, which is marked as deleted.
    Deleted,
    Refused,
}

impl Members {
    pub(super) fn of_v1(answer: &Answer) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Read {
            data: HashMap<String, Value>,
        }
        match answer.status {
            200 => Ok(Self::Found(answer.json::<Read>()?.data)),
            404 if !is_misplaced(answer) => Ok(Self::Missing),
            _ => Ok(Self::Refused),
        }
    }

    pub(super) fn of_v2(answer: &Answer) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Read {
            data: Version,
        }
        #[derive(Deserialize)]
        struct Version {
            data: Option<HashMap<String, Value>>,
            /// Absent where an engine of version 1 answers.
            metadata: Option<IgnoredAny>,
        }
        match answer.status {
            200 | 404 if !is_misplaced(answer) => match answer.json::<Read>() {
                Ok(Read {
                    data: Version { metadata: None, .. },
                }) => Err("the engine is not KV version 2: set vault.version to v1".to_owned()),
                Ok(Read {
                    data:
                        Version {
                            data: Some(data), ..
                        },
                }) if answer.status == 200 => Ok(Self::Found(data)),
                Ok(_) => Ok(Self::Deleted),
                Err(_) if answer.status == 404 => Ok(Self::Missing),
                Err(why) => Err(why),
            },
            _ => Ok(Self::Refused),
        }
    }
}

/// A 404 that is not about the key: nothing is mounted there, or something else.
fn is_misplaced(answer: &Answer) -> bool {
    [
        "no handler for route",
        "route entry not found",
        "namespace not found",
        "versioned K/V",
    ]
    .iter()
    .any(|words| answer.says(words))
}

/// What Vault says in an answer that is an error.
pub(super) fn errors(answer: &Answer) -> Vec<String> {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    match answer.json::<Errors>() {
        Ok(Errors { errors }) => errors
            .iter()
            .map(|text| text.trim().replace(['\n', '\t', '*'], " "))
            .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
            .map(|text| text.trim_start_matches("1 error occurred: ").to_owned())
            .collect(),
        Err(_) => Vec::new(),
    }
}

/// `text` as a path: each part escaped, empty ones left out.
pub(super) fn path(text: &str) -> String {
    let parts = text.split('/').filter(|part| !part.is_empty());
    parts.map(escape).collect::<Vec<_>>().join("/")
}

/// The JSON of `value`, of which `size` bytes are text, in one buffer that does not have to grow.
pub(super) fn json(size: usize, value: &impl Serialize) -> Secret {
    let mut body = Wiped::with_capacity(size + 1024);
    serde_json::to_writer(&mut *body, value).expect("text can be written as JSON");
    body.into()
}

#[derive(Serialize)]
pub(super) struct Versioned<'a> {
    pub(super) options: Options,
    pub(super) data: Member<'a>,
}

#[derive(Serialize)]
pub(super) struct Options {
    pub(super) cas: u32,
}

/// `{"<name>":"<value>"}`
pub(super) struct Member<'a>(pub(super) &'a KeyName, pub(super) &'a Secret);

impl Serialize for Member<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = str::from_utf8(self.1.expose())
            .map_err(|_| serde::ser::Error::custom("the value is not text"))?;
        serializer.collect_map([(self.0.as_str(), text)])
    }
}
