//! Whether the policy of the role lets this server overwrite keys, which nothing else prevents on
//! version 1 of the engine.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{MAX_ANSWER, Vault, Version, answer::overwriting};
use crate::{base::deadline::Deadline, keystore::remote::json};

/// Any key, for a question about all of them.
const ANY_KEY: &str = "any-key";
/// Vault must answer within this time: nothing depends on it.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Vault {
    /// Asks, once, what the token may do to keys, and warns in the error log if it may overwrite them.
    /// A Vault that does not tell is used all the same.
    pub(super) fn warn_of_overwriting(&self, deadline: Deadline) {
        #[derive(Serialize)]
        struct Question<'a> {
            paths: [&'a str; 1],
        }
        let settings = &self.site.settings;
        if settings.version == Version::V2 || self.has_asked_rights.swap(true, Ordering::Relaxed) {
            return;
        }
        let deadline = deadline.min(Deadline::after(Instant::now(), TIMEOUT));
        let directory: Vec<_> = (settings.engine.split('/'))
            .chain(settings.prefix.split('/'))
            .filter(|part| !part.is_empty())
            .collect();
        let directory = directory.join("/");
        let key = format!("{directory}/{ANY_KEY}");
        let answer = (|| {
            let body = json(&Question { paths: [&key] }).ok()?;
            let token = self.keeper.token(deadline).ok()?;
            let (method, path) = ("POST", "/v1/sys/capabilities-self");
            let (site, body) = (&self.site, Some(&body));
            site.ask(method, path, Some(&token), body, true, MAX_ANSWER, deadline).ok()
        })();
        if let Some(right) = answer.as_ref().and_then(overwriting) {
            self.notices.add(format!(
                "WARNING: keys can be lost: the policy of the role grants {right:?} on \
                 \"{directory}/*\", so Vault lets this server overwrite keys, and KV version 1 can't \
                 tell that from creating them. Two creates of a key, even one after the other if a \
                 standby of Vault lags behind, may both succeed: the second key replaces the first, \
                 and nobody can decrypt what that has encrypted. Remove \"update\" from the policy, \
                 or use an engine of version 2"
            ));
        }
    }
}
