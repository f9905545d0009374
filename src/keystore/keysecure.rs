//! Gemalto KeySecure, now Thales CipherTrust Manager.

use std::{path::PathBuf, time::Duration};

use crate::secret::Secret;

/// How to reach and use KeySecure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// An http or https URL without credentials and trailing slash.
    pub endpoint: String,
    /// The refresh token.
    pub token: Secret,
    /// The domain; the root domain if empty.
    pub domain: String,
    /// The time between login attempts; 5 s by default. Never zero.
    pub retry: Duration,
    /// A file or a directory of PEM files to trust instead of the system's authorities.
    pub ca: Option<PathBuf>,
}
