//! Whether a key store takes, gives and forgets a key.

use std::time::{Duration, Instant};

use super::store::{Error, KeyName, KeyStore};
use crate::base::{deadline::Deadline, secret::Secret};

/// Why it does not.
pub struct Failed {
    pub why: String,
    /// What to do about a key that may be left; empty if there is none.
    pub advice: String,
}

/// Creates a key of this name, which no other must have, reads it, and deletes it whatever failed. Each step may take
/// so long.
///
/// # Errors
/// What failed first.
pub fn run(
    store: &dyn KeyStore,
    name: &KeyName,
    value: &Secret,
    step: Duration,
) -> Result<(), Failed> {
    let deadline = || Deadline::after(Instant::now(), step);
    let created = store.create(name, value, deadline());
    let read = created.and_then(|()| store.get(name, deadline()));
    // What failed may have taken effect all the same.
    let deleted = match store.delete(name, deadline()) {
        Err(Error::NotFound) => Ok(()),
        deleted => deleted,
    };
    let is_gone = || matches!(store.get(name, deadline()), Err(Error::NotFound));
    let advice = match deleted.is_ok() || is_gone() {
        true => String::new(),
        false => format!("delete the key {} by hand: it may be there", name.as_str()),
    };
    let why = match (read, deleted) {
        (Ok(read), _) if read != *value => "what was read is not what was written".to_owned(),
        (Err(e), _) | (_, Err(e)) => e.to_string(),
        (Ok(_), Ok(())) => return Ok(()),
    };
    Err(Failed { why, advice })
}
