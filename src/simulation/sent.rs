//! Requests as their clients see them.

use std::time::Duration;

use crate::base::secret::Secret;

#[derive(Clone, Debug)]
pub struct Sent {
    pub what: What,
    pub name: String,
    /// The number of its client.
    pub client: u32,
    /// The value that it imports.
    pub value: Option<Secret>,
    /// What it has to encrypt, or decrypt.
    pub sealed: Sealed,
    /// Before its first byte was sent.
    pub at: Duration,
    /// After its first bytes.
    pub begun: Duration,
    /// After its last.
    pub whole: Duration,
}

/// A plaintext, what a key made of it, and the number of the version that did. Both in Base64.
#[derive(Clone, Debug, Default)]
pub struct Sealed {
    pub plaintext: String,
    pub ciphertext: String,
    pub version: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Create,
    Import,
    Delete,
    Generate,
    Encrypt,
    Decrypt,
    Describe,
    List,
}

impl What {
    pub fn method(self) -> &'static str {
        match self {
            Self::Delete => "DELETE",
            Self::List | Self::Describe => "GET",
            _ => "POST",
        }
    }

    pub fn path(self, name: &str) -> String {
        let verb = match self {
            Self::Create => "create",
            Self::Import => "import",
            Self::Delete => "delete",
            Self::Generate => "generate",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Describe => "describe",
            Self::List => return "/v1/key/list/*".to_owned(),
        };
        format!("/v1/key/{verb}/{name}")
    }

    pub fn is_change(self) -> bool {
        matches!(self, Self::Create | Self::Import | Self::Delete)
    }
}

/// The key that a request for this path uses, if it uses one.
pub fn used_by(path: &str) -> Option<&str> {
    let (verb, name) = path.strip_prefix("/v1/key/")?.split_once('/')?;
    matches!(verb, "generate" | "encrypt" | "decrypt" | "describe").then_some(name)
}
