//! Keys that the configuration asks for and that could not be created at the start: they are created
//! as soon as the key store can, on a thread of their own that holds up nobody.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::Server;
use crate::{base::panics::survive, keystore::KeyName};

/// How often it is looked whether the key store is available.
const INTERVAL: Duration = Duration::from_secs(1);
/// After a failure it is left alone for this time.
const RETRY: Duration = Duration::from_secs(5);

/// A key that is missing, and what was last said about it.
struct Missing {
    name: KeyName,
    complaint: Option<String>,
}

/// Creates `names`; the thread ends when it has done so, or with the server.
pub(super) fn start(server: &Arc<Server>, names: Vec<KeyName>) -> io::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let nothing_said = |name| Missing { name, complaint: None };
    let mut missing: Vec<_> = names.into_iter().map(nothing_said).collect();
    let server = Arc::downgrade(server);
    std::thread::Builder::new().name("wanted-keys".to_owned()).stack_size(256 * 1024).spawn(
        move || {
            let mut next = Instant::now();
            while !missing.is_empty() {
                std::thread::sleep(INTERVAL);
                let Some(server) = server.upgrade() else {
                    return;
                };
                if Instant::now() >= next && server.health.is_fit() {
                    // There is a next time.
                    survive(|| missing.retain_mut(|key| !key.is_created(&server)));
                    next = Instant::now() + RETRY;
                }
            }
        },
    )?;
    Ok(())
}

impl Missing {
    /// Tries to create the key. The error log hears of what is new.
    fn is_created(&mut self, server: &Server) -> bool {
        match server.create_key(&self.name) {
            Ok(()) => {
                if self.complaint.is_some() {
                    let name = self.name.as_str();
                    server.log_error(&format!("key {name:?}, which was missing, is there now"));
                }
                true
            }
            Err(e) => {
                let complaint = Some(e.to_string());
                if self.complaint != complaint {
                    server.log_error(&e.to_string());
                    self.complaint = complaint;
                }
                false
            }
        }
    }
}
