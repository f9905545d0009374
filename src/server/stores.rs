//! Opens the key store that a configuration names.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::Arc,
};

use super::options::Error;
use crate::keystore::{KeyStore, Settings, Start};

/// Prints to stdout, if that is open.
fn tell(text: &str) {
    let mut out = io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Opens the key store that has these `settings`, and prints so unless `quiet`.
///
/// # Errors
/// Why it can't be used.
pub fn open(
    settings: &dyn Settings,
    start: Start,
    quiet: bool,
) -> Result<Arc<dyn KeyStore>, Error> {
    let what = settings.opening().filter(|_| !quiet);
    if let Some(what) = &what {
        tell(&format!("{what} ... "));
    }
    let store = settings.open(start);
    if what.is_some() {
        // On a terminal the line is erased, elsewhere it is ended.
        tell(match io::stdout().is_terminal() {
            true => "\r\x1b[K",
            false => "\n",
        });
    }
    store.map_err(Error::KeyStore)
}
