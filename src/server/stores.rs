//! Opens the key store that a configuration names.

use std::{io::Write as _, sync::Arc};

use super::{banner::StartText, options::Error};
use crate::keystore::{KeyStore, Settings, Start};

/// Opens the key store that has these `settings`, and says so in `text`.
///
/// # Errors
/// Why it can't be used.
pub fn open(
    settings: &dyn Settings,
    start: Start,
    text: &mut StartText,
) -> Result<Arc<dyn KeyStore>, Error> {
    let what = settings.opening();
    // A closed stdout is no reason not to start.
    if let Some(what) = &what {
        let _ = write!(text, "{what} ... ").and_then(|()| text.flush());
    }
    let store = settings.open(start);
    if what.is_some() {
        // On a terminal the line is erased, elsewhere it is ended.
        let end = if text.is_terminal() { "\r\x1b[K" } else { "\n" };
        let _ = write!(text, "{end}").and_then(|()| text.flush());
    }
    store.map_err(Error::KeyStore)
}
