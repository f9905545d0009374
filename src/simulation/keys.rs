//! The history of a key at its key store, and which of its values a request may meet.

use std::time::Duration;

use base64::Engine as _;

use super::sent::Sealed;
use crate::{
    base::secret::Secret,
    cache::Expiry,
    crypto::{BASE64, ciphertext, stored},
};

/// A thread that has looked at the clock may stall; a look later than this was another.
const MOMENT: Duration = Duration::from_millis(200);

/// With an offline time, a key that is due serves for so long where a read of it gets no answer: the half minute of the
/// cache, and the time until a status has told.
const GRACE: Duration = Duration::from_secs(45);
/// The key store is not waited for any longer, in its queue too.
const LONGEST: Duration = Duration::from_secs(14);

/// A value that was stored, from when to when.
pub struct Version {
    pub value: Secret,
    pub from: Duration,
    pub until: Option<Duration>,
    /// This server has stored it.
    pub is_own: bool,
    /// When the last read of it began, and when one ended last.
    pub read: Option<(Duration, Duration)>,
    /// A create that was answered 200 stands for it.
    pub is_claimed: bool,
    /// Since when no request of this server may get it: a delete that covers it was answered.
    pub gone: Option<Duration>,
}

#[derive(Default)]
pub struct Key {
    pub versions: Vec<Version>,
    /// When deletes were carried out.
    pub deletes: Vec<Duration>,
    /// When requests came that use it.
    pub uses: Vec<Duration>,
    /// Reads that got no answer, or have none yet: from when to when.
    pub unanswered: Vec<(Duration, Option<Duration>)>,
}

/// A time in which the key store said that it is not available.
pub struct Outage {
    pub from: Duration,
    pub until: Option<Duration>,
}

impl Key {
    pub fn current(&mut self) -> Option<&mut Version> {
        self.versions.last_mut().filter(|version| version.until.is_none())
    }

    /// Whether there was no value at some time between the two.
    pub fn was_absent(&self, from: Duration, to: Duration) -> bool {
        let mut at = from;
        for version in &self.versions {
            if version.from > at {
                return true;
            }
            match version.until {
                None => return false,
                Some(until) => at = at.max(until),
            }
            if at > to {
                return false;
            }
        }
        true
    }

    pub fn was_there(&self, from: Duration, to: Duration) -> bool {
        self.versions
            .iter()
            .any(|version| version.from <= to && version.until.is_none_or(|until| until >= from))
    }

    /// What a ciphertext holds, with the version whose key has sealed it.
    pub fn open(&self, ciphertext: &str) -> Option<Sealed> {
        let sealed = BASE64.decode(ciphertext).ok()?;
        let versions = self.versions.iter().enumerate().rev();
        let mut opened = versions.filter_map(|(version, stored)| {
            let key = stored::decode(stored.value.expose()).ok()?;
            let plaintext = BASE64.encode(ciphertext::open(&key, &sealed, b"").ok()?.expose());
            Some(Sealed { plaintext, ciphertext: ciphertext.to_owned(), version })
        });
        opened.next()
    }

    /// Why a request that came in this time may not have met this version, if it may not.
    pub fn forbids(
        &self,
        version: usize,
        (sent, now): (Duration, Duration),
        expiry: &Expiry,
        outages: &[Outage],
    ) -> Option<String> {
        let version = &self.versions[version];
        if version.from > now {
            return Some("with a key of the future".to_owned());
        }
        if let Some(gone) = version.gone.filter(|gone| *gone < sent) {
            return Some(format!("with a key whose delete was answered at {gone:?}"));
        }
        // Another server has deleted it, or a delete whose answer was lost: the cache may have it.
        let until = version.until.filter(|until| *until < sent)?;
        let is_over = |since: Duration, limit: Option<Duration>| {
            limit.is_some_and(|limit| sent > since + limit + MOMENT)
        };
        let is_kept = version.read.is_some_and(|(asked, read)| {
            let used = self.uses.iter().rev().find(|at| **at <= sent);
            let used = used.map_or(read, |used| read.max(*used));
            let is_offline = |outage: &&Outage| {
                outage.from <= now && outage.until.is_none_or(|until| until + MOMENT >= sent)
            };
            let mut offline =
                outages.iter().filter(is_offline).filter(|_| expiry.offline.is_some());
            let is_fresh = |grace| {
                !is_over(asked + grace, expiry.any) && !is_over(used + grace, expiry.unused)
            };
            let is_within = |outage: &Outage| {
                outage.from <= now && !is_over(asked.max(outage.from), expiry.offline)
            };
            let is_unanswered = sent + LONGEST <= now
                || self
                    .unanswered
                    .iter()
                    .any(|(from, to)| *from <= now && to.is_none_or(|to| to + MOMENT >= sent));
            is_fresh(Duration::ZERO)
                || offline.any(is_within)
                || expiry.offline.is_some()
                    && is_unanswered
                    && (is_fresh(GRACE) || outages.iter().any(is_within))
        });
        (!is_kept).then(|| {
            format!("with a key that was deleted at {until:?} and read last at {:?}", version.read)
        })
    }
}
