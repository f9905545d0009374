//! Opens the key store that a configuration names.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::Arc,
};

use super::options::Error;
use crate::{
    config::KeyStoreConfig,
    keystore::{self, KeyStore, Start, fs::Fs, keysecure::KeySecure, mem::Mem, vault::Vault},
};

/// Prints to stdout, if that is open.
fn tell(text: &str) {
    let mut out = io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Opens the key store that `config` describes, and prints so unless `quiet`.
///
/// # Errors
/// Why it can't be used.
pub fn open(
    config: &KeyStoreConfig,
    start: Start,
    quiet: bool,
) -> Result<Arc<dyn KeyStore>, Error> {
    match config {
        KeyStoreConfig::Memory => Ok(Arc::new(Mem::default())),
        KeyStoreConfig::Fs { path } => {
            let is_new = !path.exists();
            let what = is_new.then(|| format!("Creating directory '{}'", path.display()));
            opened(what, quiet, || Ok(Arc::new(Fs::open(path)?)))
        }
        KeyStoreConfig::Vault(settings) => {
            let what = format!("Authenticating to Hashicorp Vault '{}'", settings.endpoint);
            opened(Some(what), quiet, || Ok(Arc::new(Vault::open(settings, start)?)))
        }
        KeyStoreConfig::KeySecure(settings) => {
            let what = format!("Authenticating to Gemalto KeySecure '{}'", settings.endpoint);
            opened(Some(what), quiet, || Ok(Arc::new(KeySecure::open(settings, start)?)))
        }
    }
}

/// Prints `what` while `open` runs.
fn opened(
    what: Option<String>,
    quiet: bool,
    open: impl FnOnce() -> Result<Arc<dyn KeyStore>, keystore::Error>,
) -> Result<Arc<dyn KeyStore>, Error> {
    let what = what.filter(|_| !quiet);
    if let Some(what) = &what {
        tell(&format!("{what} ... "));
    }
    let store = open();
    if what.is_some() {
        // On a terminal the line is erased, elsewhere it is ended.
        tell(match io::stdout().is_terminal() {
            true => "\r\x1b[K",
            false => "\n",
        });
    }
    store.map_err(Error::KeyStore)
}
