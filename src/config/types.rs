//! The settings, in types that can't hold a bad value.

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    cache::Expiry,
    keystore::{self, KeyName, Start, keysecure, vault},
    log,
    policy::Policies,
    tls::Group,
};

/// The port of an address without one.
pub(super) const DEFAULT_PORT: u16 = 7373;

/// The largest configuration file that is read, in bytes.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// All settings of the server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub address: SocketAddr,
    /// The identity that may do everything; never empty. Text that is no identity disables root.
    pub root: String,
    /// The file with the private key.
    pub tls_key: PathBuf,
    /// The file with the certificate chain.
    pub tls_cert: PathBuf,
    /// The key exchange groups that clients may choose from; never empty, none of them twice.
    pub tls_groups: Vec<Group>,
    /// Whether client certificates are verified.
    pub auth: Auth,
    /// The TLS proxies in front of the server.
    pub proxy: Proxy,
    /// Who may call what.
    pub policies: Policies,
    /// How long keys stay cached; no time is zero.
    pub cache: Expiry,
    /// What is logged.
    pub log: log::Settings,
    /// Where to listen for probes; not where clients do.
    pub probe: Option<SocketAddr>,
    /// Open connections of clients at most, never zero; `None` is as many as there is memory for.
    pub connections: Option<usize>,
    /// The keys that are created at start if they don't exist.
    pub keys: Vec<KeyName>,
    /// Where keys are stored.
    pub key_store: KeyStoreConfig,
    /// Whether the server needs the key store to start.
    pub key_store_start: Start,
}

/// How a file is laid out. Both have a `root`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// KES up to 0.13.5: the key store under `keys`.
    Keys,
    /// KES 0.13.6 to 0.14: the key store under `keystore`, a list of key names under `keys`.
    KeyStore,
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
    /// `--auth`.
    pub auth: Auth,
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
}

/// Where keys are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyStoreConfig {
    /// In memory: gone when the server ends.
    #[default]
    Memory,
    /// In files.
    Fs {
        /// The directory; created if missing.
        path: PathBuf,
    },
    /// In HashiCorp Vault.
    Vault(Box<vault::Settings>),
    /// In Gemalto KeySecure, now Thales CipherTrust.
    KeySecure(Box<keysecure::Settings>),
}

impl KeyStoreConfig {
    /// What all key stores have in common.
    pub fn settings(&self) -> &dyn keystore::Settings {
        match self {
            Self::Memory => &keystore::mem::Settings,
            Self::Fs { path } => path,
            Self::Vault(settings) => settings.as_ref(),
            Self::KeySecure(settings) => settings.as_ref(),
        }
    }
}
