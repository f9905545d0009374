//! Keys fetched lately, so that a busy key costs the key store one read, not one per request.
//!
//! An entry leaves when it is too old (`any`), unused (`unused`) or the least recently used of a full
//! cache. A request for a key that is being fetched waits behind that fetch, without a thread. Knows
//! nothing of policies, HTTP or which key store is behind it.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    base::{
        deadline::Deadline,
        sync::{Mutex, MutexGuard},
    },
    keystore::KeyName,
};

/// How long entries live. `None` is for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expiry {
    /// An entry goes this long after it was fetched.
    pub any: Option<Duration>,
    /// An entry goes this long after it was used last.
    pub unused: Option<Duration>,
    /// While the key store is not available, the other two do not matter: an entry goes this long
    /// after that began, or after it was fetched if that was later.
    pub offline: Option<Duration>,
}

/// A cache of values `V` (cheap to clone, such as an `Arc`) for waiters `W`, which get a value later.
///
/// Nothing blocks. [`expire`](Self::expire) looks at all entries, and a request that joins a fetch at the identities
/// that wait for it; all else takes constant time. Clones share the entries.
pub struct Cache<V, W> {
    shared: Arc<Shared<V, W>>,
}

struct Shared<V, W> {
    /// Entries and fetches. Held for a few steps on maps, never across I/O, and never while a
    /// waiter is dropped, which might answer a request.
    state: Mutex<Entries<V, W>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What [`Cache::get_or_wait`] found.
#[derive(Debug)]
pub enum Lookup<V, W> {
    /// The value; here is the waiter back.
    Hit(V, W),
    /// The value is being fetched, or will be; the waiter is parked behind that.
    Waiting,
    /// The same, but the caller must [`begin`](Cache::begin) the fetch when the turn of its party comes, unless
    /// that of another comes first.
    Queue,
}

/// The duty to fetch one key and [`complete`](Cache::complete) the fetch.
///
/// Dropped without [`Cache::complete`], as in a panic, it ends the fetch and drops its waiters; the next
/// lookup fetches anew.
#[must_use = "dropping a ticket drops its waiters"]
pub struct Ticket<V, W> {
    shared: Arc<Shared<V, W>>,
    name: KeyName,
    id: u64,
    began: Instant,
    /// When the last of those that waited when it began needs the value.
    pub until: Deadline,
    /// How many of the waiters came before the fetch began.
    pub early: usize,
    is_complete: bool,
}

impl<V: Clone, W> Cache<V, W> {
    /// An empty cache for at most `capacity` entries; zero is a cache that keeps nothing, but
    /// still lets one fetch serve all that wait for it.
    pub fn new(capacity: usize, expiry: Expiry) -> Self {
        let state = Entries {
            capacity,
            expiry,
            offline_since: None,
            index: HashMap::new(),
            entries: Vec::new(),
            newest: NONE,
            oldest: NONE,
            fetches: HashMap::new(),
            stale: HashMap::new(),
            next_id: 0,
        };
        let shared =
            Shared { state: Mutex::new(state), hits: AtomicU64::new(0), misses: AtomicU64::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// The value of `name` if it is here and fresh; this uses it.
    ///
    /// Counts a hit. Counts no miss: that is left to [`get_or_wait`](Self::get_or_wait), which
    /// comes next.
    pub fn get(&self, name: &KeyName, now: Instant) -> Option<V> {
        let value = self.shared.lock().get(name, now)?;
        self.shared.hits.fetch_add(1, Ordering::Relaxed);
        Some(value)
    }

    /// The value of `name` if it is here and fresh; else parks `waiter`, which needs it by `until`, until it is
    /// fetched. Each `party` has its own turns; a fetch begins at the first that comes.
    pub fn get_or_wait(
        &self,
        name: &KeyName,
        waiter: W,
        party: &Arc<str>,
        until: Deadline,
        now: Instant,
    ) -> Lookup<V, W> {
        let mut state = self.shared.lock();
        if let Some(value) = state.get(name, now) {
            drop(state);
            self.shared.hits.fetch_add(1, Ordering::Relaxed);
            return Lookup::Hit(value, waiter);
        }
        self.shared.misses.fetch_add(1, Ordering::Relaxed);
        // What it has read may be too old already.
        if let (Some(any), Some(Fetch { began: Some(began), .. })) =
            (state.expiry.any, state.fetches.get(name))
            && now.saturating_duration_since(*began) >= any
        {
            state.end_joining(name);
        }
        let id = state.next_id;
        let fetch = state.fetches.entry(name.clone()).or_insert_with(|| Fetch {
            id,
            began: None,
            until,
            parties: Vec::new(),
            waiters: Vec::new(),
        });
        let is_new = fetch.id == id;
        fetch.waiters.push(waiter);
        fetch.until = fetch.until.max(until);
        let must_queue = fetch.began.is_none() && !fetch.parties.contains(party);
        if must_queue {
            fetch.parties.push(party.clone());
        }
        state.next_id += u64::from(is_new);
        if must_queue { Lookup::Queue } else { Lookup::Waiting }
    }

    /// Begins the fetch of `name` that waits for it, if one does. What it finds is as old as `now`.
    pub fn begin(&self, name: &KeyName, now: Instant) -> Option<Ticket<V, W>> {
        let mut state = self.shared.lock();
        let fetch = state.fetches.get_mut(name).filter(|fetch| fetch.began.is_none())?;
        fetch.began = Some(now);
        fetch.parties = Vec::new();
        Some(Ticket {
            shared: self.shared.clone(),
            name: name.clone(),
            id: fetch.id,
            began: now,
            until: fetch.until,
            early: fetch.waiters.len(),
            is_complete: false,
        })
    }

    /// Ends a fetch: keeps `value`, unless the key was removed since the fetch began, and returns
    /// all waiters parked behind the fetch, to be answered, in the order in which they came, and when the last of
    /// them needs the value. The value is as old as the fetch.
    ///
    /// `None` is for a fetch that failed or found nothing, neither of which is remembered. A key may have been
    /// created before waiters came that are not [`early`](Ticket::early).
    pub fn complete(
        &self,
        mut ticket: Ticket<V, W>,
        value: Option<V>,
        now: Instant,
    ) -> (Vec<W>, Deadline) {
        debug_assert!(Arc::ptr_eq(&self.shared, &ticket.shared));
        ticket.is_complete = true;
        let mut state = ticket.shared.lock();
        let (fetch, is_current) = state.end_fetch(&ticket.name, ticket.id);
        if let (Some(value), true) = (value, is_current) {
            state.insert(ticket.name.clone(), value, ticket.began, now);
        }
        fetch.map_or((Vec::new(), ticket.until), |fetch| (fetch.waiters, fetch.until))
    }

    /// Forgets `name`. A fetch that has begun still serves its waiters, but leaves no entry, and the
    /// next lookup starts a new one.
    pub fn remove(&self, name: &KeyName) {
        let mut state = self.shared.lock();
        state.end_joining(name);
        if let Some(&at) = state.index.get(name) {
            state.remove(at);
        }
    }

    /// Drops all entries that are due. Takes time in proportion to the size of the cache.
    pub fn expire(&self, now: Instant) {
        let mut state = self.shared.lock();
        let mut at = 0;
        while at < state.entries.len() {
            if state.is_due(at, now) {
                state.remove(at); // puts another entry in its place
            } else {
                at += 1;
            }
        }
    }

    /// Changes how long entries live, including those that are here.
    pub fn set_expiry(&self, expiry: Expiry) {
        self.shared.lock().expiry = expiry;
    }

    /// The key store is not available since `since`, or is again with `None`.
    pub fn set_offline(&self, since: Option<Instant>) {
        self.shared.lock().offline_since = since;
    }

    /// Whether it matters if the key store is available.
    pub fn has_offline(&self) -> bool {
        self.shared.lock().expiry.offline.is_some()
    }

    /// The number of entries, with those that are due but not dropped yet.
    pub fn len(&self) -> usize {
        self.shared.lock().entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many lookups found a value.
    pub fn hits(&self) -> u64 {
        self.shared.hits.load(Ordering::Relaxed)
    }

    /// How many lookups found none, whether they then fetched it or waited.
    pub fn misses(&self) -> u64 {
        self.shared.misses.load(Ordering::Relaxed)
    }
}

impl<V, W> Clone for Cache<V, W> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<V, W> Drop for Ticket<V, W> {
    fn drop(&mut self) {
        if !self.is_complete {
            let fetch = self.shared.lock().end_fetch(&self.name, self.id);
            drop(fetch); // only now, without the lock
        }
    }
}

impl<V, W> fmt::Debug for Ticket<V, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ticket").field(&self.name).finish()
    }
}

impl<V, W> Shared<V, W> {
    fn lock(&self) -> MutexGuard<'_, Entries<V, W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of no entry.
const NONE: usize = usize::MAX;

struct Entries<V, W> {
    capacity: usize,
    expiry: Expiry,
    /// Since when the key store is not available, if it is not.
    offline_since: Option<Instant>,
    /// Where in `entries` a key is.
    index: HashMap<KeyName, usize>,
    /// In no order, without gaps; linked into a queue from the entry used last to the one not used
    /// for longest.
    entries: Vec<Entry<V>>,
    newest: usize,
    oldest: usize,
    /// The fetches that a lookup may join: they have begun lately, or wait for their turn.
    fetches: HashMap<KeyName, Fetch<W>>,
    /// Fetches that leave no entry: their key was removed meanwhile, or they took too long.
    stale: HashMap<u64, Fetch<W>>,
    next_id: u64,
}

struct Entry<V> {
    name: KeyName,
    value: V,
    fetched_at: Instant,
    last_used: Instant,
    newer: usize,
    older: usize,
}

struct Fetch<W> {
    id: u64,
    /// `None` while it waits for its turn.
    began: Option<Instant>,
    until: Deadline,
    /// Those at whose turn it begins.
    parties: Vec<Arc<str>>,
    waiters: Vec<W>,
}

impl<V, W> Entries<V, W> {
    fn get(&mut self, name: &KeyName, now: Instant) -> Option<V>
    where
        V: Clone,
    {
        let at = *self.index.get(name)?;
        if self.is_due(at, now) {
            self.remove(at);
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

    fn insert(&mut self, name: KeyName, value: V, fetched_at: Instant, now: Instant) {
        if let Some(&at) = self.index.get(&name) {
            self.remove(at);
        }
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
            newer: NONE,
            older: NONE,
        });
        self.link_newest(at);
    }

    /// Removes the entry at `at`; the last entry takes its place.
    fn remove(&mut self, at: usize) {
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

    fn is_due(&self, at: usize, now: Instant) -> bool {
        let entry = &self.entries[at];
        let is_over = |limit: Option<Duration>, since| {
            limit.is_some_and(|limit| now.saturating_duration_since(since) >= limit)
        };
        if let (Some(_), Some(offline_since)) = (self.expiry.offline, self.offline_since) {
            return is_over(self.expiry.offline, entry.fetched_at.max(offline_since));
        }
        is_over(self.expiry.any, entry.fetched_at) || is_over(self.expiry.unused, entry.last_used)
    }

    /// Lets no lookup join the fetch of `name` any more, if it has begun. It serves its waiters, and leaves no
    /// entry.
    fn end_joining(&mut self, name: &KeyName) {
        if self.fetches.get(name).is_some_and(|fetch| fetch.began.is_some())
            && let Some(fetch) = self.fetches.remove(name)
        {
            self.stale.insert(fetch.id, fetch);
        }
    }

    /// Forgets a fetch. Returns it, and whether its key was not removed meanwhile.
    fn end_fetch(&mut self, name: &KeyName, id: u64) -> (Option<Fetch<W>>, bool) {
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

#[cfg(test)]
mod tests;
