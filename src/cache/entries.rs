//! The entries of a cache in the order of their use, when each is due, and the fetches that lookups wait for.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Expiry, availability::Availability};
use crate::{base::deadline::Deadline, keystore::KeyName};

/// The place of no entry.
pub(super) const NONE: usize = usize::MAX;

pub(super) struct Entries<V, W> {
    pub(super) capacity: usize,
    pub(super) expiry: Expiry,
    pub(super) availability: Availability,
    /// Where in `entries` a key is.
    pub(super) index: HashMap<KeyName, usize>,
    /// In no order, without gaps; linked into a queue from the entry used last to the one not used
    /// for longest.
    pub(super) entries: Vec<Entry<V>>,
    pub(super) newest: usize,
    pub(super) oldest: usize,
    /// The fetches that a lookup may join: they have begun lately, or wait for their turn.
    pub(super) fetches: HashMap<KeyName, Fetch<W>>,
    /// Fetches that leave no entry: their key was removed meanwhile, or they took too long.
    pub(super) stale: HashMap<u64, Fetch<W>>,
    pub(super) next_id: u64,
}

pub(super) struct Entry<V> {
    pub(super) name: KeyName,
    pub(super) value: V,
    pub(super) fetched_at: Instant,
    pub(super) last_used: Instant,
    /// Since when it may be another value than that of the key store.
    pub(super) in_doubt: Option<Instant>,
    pub(super) newer: usize,
    pub(super) older: usize,
}

pub(super) struct Fetch<W> {
    pub(super) id: u64,
    /// `None` while it waits for its turn.
    pub(super) began: Option<Instant>,
    pub(super) until: Deadline,
    /// Those at whose turn it begins.
    pub(super) parties: Vec<Arc<str>>,
    pub(super) waiters: Vec<W>,
}

impl<V, W> Entries<V, W> {
    pub(super) fn new(capacity: usize, expiry: Expiry) -> Self {
        Self {
            capacity,
            expiry,
            availability: Availability::default(),
            index: HashMap::new(),
            entries: Vec::new(),
            newest: NONE,
            oldest: NONE,
            fetches: HashMap::new(),
            stale: HashMap::new(),
            next_id: 0,
        }
    }

    /// The value for a lookup.
    pub(super) fn find(&mut self, name: &KeyName, now: Instant) -> Option<V>
    where
        V: Clone,
    {
        let value = self.get(name, now, Self::is_usable);
        if value.is_none()
            && let Some(&at) = self.index.get(name)
            && !self.is_kept(at, now)
        {
            self.remove(at);
        }
        value
    }

    /// Uses the value of `name` if its entry `is_good`.
    pub(super) fn get(
        &mut self,
        name: &KeyName,
        now: Instant,
        is_good: fn(&Self, usize, Instant) -> bool,
    ) -> Option<V>
    where
        V: Clone,
    {
        let at = *self.index.get(name)?;
        if !is_good(self, at, now) {
            return None;
        }
        let entry = &mut self.entries[at];
        // Threads read the clock before they get the lock, so `now` may be in the past.
        entry.last_used = entry.last_used.max(now);
        let value = entry.value.clone();
        if self.newest != at {
            self.unlink(at);
            self.link_newest(at);
        }
        Some(value)
    }

    pub(super) fn insert(&mut self, name: KeyName, value: V, fetched_at: Instant, now: Instant) {
        self.remove_named(&name);
        if self.capacity == 0 {
            return;
        }
        if self.entries.len() >= self.capacity {
            self.remove(self.oldest);
        }
        let at = self.entries.len();
        self.index.insert(name.clone(), at);
        self.entries.push(Entry {
            name,
            value,
            fetched_at,
            last_used: now,
            in_doubt: None,
            newer: NONE,
            older: NONE,
        });
        self.link_newest(at);
    }

    pub(super) fn remove_named(&mut self, name: &KeyName) {
        if let Some(&at) = self.index.get(name) {
            self.remove(at);
        }
    }

    /// Removes the entry of `name`, unless it was fetched after `asked`.
    pub(super) fn remove_if_as_old(&mut self, name: &KeyName, asked: Instant) {
        if let Some(&at) = self.index.get(name)
            && self.entries[at].fetched_at <= asked
        {
            self.remove(at);
        }
    }

    /// Removes the entry at `at`; the last entry takes its place.
    pub(super) fn remove(&mut self, at: usize) {
        self.unlink(at);
        let removed = self.entries.swap_remove(at);
        self.index.remove(&removed.name);
        let Some(moved) = self.entries.get(at) else {
            return;
        };
        let (newer, older) = (moved.newer, moved.older);
        *self.index.get_mut(&moved.name).expect("every entry is in the index") = at;
        self.set_older(newer, at);
        self.set_newer(older, at);
    }

    /// Whether a lookup finds the entry at `at`.
    pub(super) fn is_usable(&self, at: usize, now: Instant) -> bool {
        match self.expiry.offline.is_some() && self.availability.is_down() {
            true => self.is_kept(at, now),
            false => !self.is_due(at, now),
        }
    }

    /// Whether the entry at `at` serves where the key store does not answer.
    pub(super) fn is_kept(&self, at: usize, now: Instant) -> bool {
        let Some(offline) = self.expiry.offline else { return false };
        match self.availability {
            // Those that have been due for all that time are not needed any more.
            Availability::Up { since } => since.is_none_or(|since| !self.is_due(at, since)),
            Availability::Down { since } | Availability::Back { since, .. } => {
                let since = self.entries[at].fetched_at.max(since);
                now.saturating_duration_since(since) < offline
            }
        }
    }

    fn is_due(&self, at: usize, now: Instant) -> bool {
        let entry = &self.entries[at];
        let is_over = |limit: Option<Duration>, since| {
            limit.is_some_and(|limit| now.saturating_duration_since(since) >= limit)
        };
        is_over(self.expiry.any, entry.fetched_at)
            || is_over(self.expiry.unused, entry.last_used)
            || entry.in_doubt.is_some_and(|since| now >= since)
    }

    /// Lets no lookup join the fetch of `name` any more, if it has begun. It serves its waiters, and leaves no
    /// entry.
    pub(super) fn end_joining(&mut self, name: &KeyName) {
        if self.fetches.get(name).is_some_and(|fetch| fetch.began.is_some())
            && let Some(fetch) = self.fetches.remove(name)
        {
            self.stale.insert(fetch.id, fetch);
        }
    }

    /// Forgets a fetch. Returns it, and whether its key was not removed meanwhile.
    pub(super) fn end_fetch(&mut self, name: &KeyName, id: u64) -> (Option<Fetch<W>>, bool) {
        match self.fetches.get(name).is_some_and(|fetch| fetch.id == id) {
            true => (self.fetches.remove(name), true),
            false => (self.stale.remove(&id), false),
        }
    }

    /// Takes the entry at `at` out of the queue.
    fn unlink(&mut self, at: usize) {
        let Entry { newer, older, .. } = self.entries[at];
        self.set_older(newer, older);
        self.set_newer(older, newer);
    }

    /// Puts the entry at `at`, which is not in the queue, at its front.
    fn link_newest(&mut self, at: usize) {
        let second = self.newest;
        self.entries[at].newer = NONE;
        self.entries[at].older = second;
        self.set_newer(second, at);
        self.newest = at;
    }

    /// Sets what comes after `at` in the queue; after `NONE` comes its front.
    fn set_older(&mut self, at: usize, older: usize) {
        match self.entries.get_mut(at) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }

    /// Sets what comes before `at` in the queue; before `NONE` comes its end.
    fn set_newer(&mut self, at: usize, newer: usize) {
        match self.entries.get_mut(at) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }
}
