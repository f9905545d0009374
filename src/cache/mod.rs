//! Keys fetched lately, so that a busy key costs the key store one read, not one per request.
//!
//! An entry is due when it is too old (`any`), unused (`unused`) or in doubt, and a lookup does not find it any more.
//! Then it leaves, or with an `offline` time waits for the key store to answer, be it about this key or about its
//! status. The least recently used of a full cache leaves, too. A request for a key that is being fetched waits behind
//! that fetch, without a thread. Knows nothing of policies, HTTP or which key store is behind it.

mod availability;
mod entries;

use std::{
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
pub use availability::Status;
use entries::{Entries, Fetch};

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

/// What a fetch has found.
#[derive(Clone, Copy, Debug)]
pub enum Found<V> {
    /// The value.
    Value(V),
    /// There is none.
    Nothing,
    /// The key store has not said.
    Unknown,
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
        let shared = Shared {
            state: Mutex::new(Entries::new(capacity, expiry)),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The value of `name` if it is here and fresh; this uses it.
    ///
    /// Counts a hit. Counts no miss: that is left to [`get_or_wait`](Self::get_or_wait), which
    /// comes next.
    pub fn get(&self, name: &KeyName, now: Instant) -> Option<V> {
        let value = self.shared.lock().find(name, now)?;
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
        if let Some(value) = state.find(name, now) {
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

    /// Ends a fetch: keeps the value, unless the key was removed since the fetch began, and returns
    /// all waiters parked behind the fetch, to be answered, in the order in which they came, and when the last of
    /// them needs the value. The value is as old as the fetch. Where the fetch found out nothing, the value that is
    /// here, if one is, serves in its place.
    ///
    /// That there is no value is not remembered. A key may have been created before waiters came that are not
    /// [`early`](Ticket::early).
    pub fn complete(
        &self,
        mut ticket: Ticket<V, W>,
        found: Found<V>,
        now: Instant,
    ) -> (Vec<W>, Deadline, Option<V>) {
        debug_assert!(Arc::ptr_eq(&self.shared, &ticket.shared));
        ticket.is_complete = true;
        let mut state = ticket.shared.lock();
        let (fetch, is_current) = state.end_fetch(&ticket.name, ticket.id);
        let mut kept = None;
        match found {
            Found::Value(value) if is_current => {
                state.insert(ticket.name.clone(), value, ticket.began, now);
            }
            // Also where its waiters were served meanwhile; an entry that is newer than the question stays.
            Found::Nothing => state.remove_if_as_old(&ticket.name, ticket.began),
            Found::Unknown => kept = state.get(&ticket.name, now, Entries::is_kept),
            _ => {}
        }
        let (waiters, until) =
            fetch.map_or((Vec::new(), ticket.until), |fetch| (fetch.waiters, fetch.until));
        (waiters, until, kept)
    }

    /// Forgets `name`. A fetch that has begun still serves its waiters, but leaves no entry, and the
    /// next lookup starts a new one.
    pub fn remove(&self, name: &KeyName) {
        let mut state = self.shared.lock();
        state.end_joining(name);
        state.remove_named(name);
    }

    /// `name` may have another value since `now`: the next lookup fetches it.
    pub fn doubt(&self, name: &KeyName, now: Instant) {
        let mut state = self.shared.lock();
        state.end_joining(name);
        if let Some(&at) = state.index.get(name) {
            state.entries[at].in_doubt = Some(now);
        }
    }

    /// Drops all entries that nothing will use any more. Takes time in proportion to the size of the cache.
    pub fn expire(&self, now: Instant) {
        let mut state = self.shared.lock();
        let mut at = 0;
        while at < state.entries.len() {
            if !state.is_usable(at, now) && !state.is_kept(at, now) {
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

    /// The key store, asked at `asked`, has said its status, or has not by `now`. If it is not available, returns the
    /// waiters that need not wait for it any more, with their values.
    pub fn note(&self, status: Status, asked: Instant, now: Instant) -> Vec<(V, Vec<W>)> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        state.availability.note(status, asked, now);
        let mut served = Vec::new();
        if state.availability.is_down() && state.expiry.offline.is_some() {
            let names: Vec<_> = state.fetches.keys().cloned().collect();
            for name in names {
                if let Some(value) = state.get(&name, now, Entries::is_usable)
                    && let Some(fetch) = state.fetches.remove(&name)
                {
                    served.push((value, fetch.waiters));
                }
            }
        }
        served
    }

    /// Whether it matters here if the key store is available.
    pub fn has_offline(&self) -> bool {
        self.shared.lock().expiry.offline.is_some()
    }

    /// The number of entries, with those that are due but not dropped.
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

#[cfg(test)]
mod tests;
