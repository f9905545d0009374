//! What the settings are made of, and the flags that win over a file.

use std::time::Duration;

use crate::base::generation::Generation;

/// The port of an address without one.
pub(super) const DEFAULT_PORT: u16 = 7373;

/// The largest configuration file that is read, in bytes.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// How a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// KES up to 0.13.5: a `root`, and the key store under `keys`.
    Keys,
    /// KES 0.13.6 to 0.14: a `root`, the key store under `keystore`, a list of key names under `keys`.
    KeyStore,
    /// KES since 0.18: an `admin`, and mostly a `version`.
    Newest,
}

impl Format {
    /// The generation whose file it is.
    pub(super) fn generation(self) -> Generation {
        match self {
            Self::Keys | Self::KeyStore => Generation::V0_14,
            Self::Newest => Generation::Newest,
        }
    }

    pub(super) fn is_newest(self) -> bool {
        self == Self::Newest
    }
}

/// The settings that the command line gives. One that is given wins over the file; an empty text is
/// the same as none.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--addr`.
    pub addr: Option<String>,
    /// `--root`.
    pub root: Option<String>,
    /// `--key`.
    pub key: Option<String>,
    /// `--cert`.
    pub cert: Option<String>,
    /// `--auth`, if it is given.
    pub auth: Option<Auth>,
}

impl Flags {
    /// The value of a flag such as `--root`, unless it is empty, as a script's `--root "$ROOT"` may be.
    pub(super) fn get(&self, flag: &str) -> Option<&str> {
        let value = match flag {
            "--addr" => &self.addr,
            "--root" => &self.root,
            "--key" => &self.key,
            "--cert" => &self.cert,
            _ => return None,
        };
        value.as_deref().filter(|value| !value.is_empty())
    }
}

/// Whether client certificates must be issued by a trusted authority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Certificates are verified.
    #[default]
    On,
    /// Any certificate will do, as long as the client has its private key.
    Off,
}

/// The TLS proxies in front of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxy {
    /// Identities of the proxies, none of them empty or root. No proxies if empty.
    pub identities: Vec<String>,
    /// The header with the client's certificate.
    pub header_cert: Option<String>,
    /// The header with the client's address. Proxies that forward it act by their own policies.
    pub header_ip: Option<String>,
}

/// How much clients may ask for; no number is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Open connections at most; `None` is as many as there is memory for.
    pub connections: Option<usize>,
    /// Requests of one identity in a second; `None` is any number, as below.
    pub requests_per_second: Option<usize>,
    /// Requests of one identity that are under way.
    pub concurrent: Option<usize>,
}

impl Limits {
    /// Whether any of them is for an identity.
    pub fn are_for_identities(&self) -> bool {
        self.requests_per_second.is_some() || self.concurrent.is_some()
    }
}

/// How the server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Before it takes no new connections, it serves on for this time, and probes say that it is not ready.
    pub delay: Duration,
    /// Then running requests may take this time.
    pub timeout: Duration,
}
