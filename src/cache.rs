//! Keys fetched lately, so that a busy key costs the key store one read, not one per request.
//!
//! An entry leaves when it is too old (`any`), unused (`unused`) or the least recently used of a full
//! cache. A request for a key that is being fetched waits behind that fetch, without a thread. Knows
//! nothing of policies, HTTP or which key store is behind it.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::keystore::KeyName;

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
/// Nothing blocks, and all but [`expire`](Self::expire) takes constant time. Clones share the
/// entries.
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
    /// The value is being fetched; the waiter is parked behind that.
    Waiting,
    /// The caller must fetch the value and [`complete`](Cache::complete) the ticket; the waiter is
    /// parked behind it like any other.
    Fetch(Ticket<V, W>),
}

/// The duty to fetch one key.
///
/// Dropped without [`Cache::complete`], as in a panic, it ends the fetch and drops its waiters; the next
/// lookup fetches anew.
#[must_use = "dropping a ticket drops its waiters"]
pub struct Ticket<V, W> {
    shared: Arc<Shared<V, W>>,
    name: KeyName,
    id: u64,
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

    /// The value of `name` if it is here and fresh; else parks `waiter` until it is fetched.
    pub fn get_or_wait(&self, name: &KeyName, waiter: W, now: Instant) -> Lookup<V, W> {
        let mut state = self.shared.lock();
        if let Some(value) = state.get(name, now) {
            drop(state);
            self.shared.hits.fetch_add(1, Ordering::Relaxed);
            return Lookup::Hit(value, waiter);
        }
        self.shared.misses.fetch_add(1, Ordering::Relaxed);
        if let Some(fetch) = state.fetches.get_mut(name) {
            fetch.waiters.push(waiter);
            return Lookup::Waiting;
        }
        let id = state.next_id;
        state.next_id += 1;
        let waiters = vec![waiter];
        state.fetches.insert(name.clone(), Fetch { id, waiters });
        Lookup::Fetch(Ticket {
            shared: self.shared.clone(),
            name: name.clone(),
            id,
            is_complete: false,
        })
    }

    /// Ends a fetch: keeps `value`, unless the key was removed since the fetch began, and returns
    /// all waiters parked behind the fetch, to be answered, in the order in which they came.
    ///
    /// `None` is for a fetch that failed or found nothing, neither of which is remembered.
    pub fn complete(&self, mut ticket: Ticket<V, W>, value: Option<V>, now: Instant) -> Vec<W> {
        debug_assert!(Arc::ptr_eq(&self.shared, &ticket.shared));
        ticket.is_complete = true;
        let mut state = ticket.shared.lock();
        let (waiters, is_current) = state.end_fetch(&ticket.name, ticket.id);
        if let (Some(value), true) = (value, is_current) {
            state.insert(ticket.name.clone(), value, now);
        }
        waiters
    }

    /// Forgets `name`. A fetch that is under way still serves its waiters, but leaves no entry, and the
    /// next lookup starts a new one.
    pub fn remove(&self, name: &KeyName) {
        let mut state = self.shared.lock();
        if let Some(fetch) = state.fetches.remove(name) {
            state.stale.insert(fetch.id, fetch.waiters);
        }
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

impl<V, W> Ticket<V, W> {
    /// The key to fetch.
    pub fn name(&self) -> &KeyName {
        &self.name
    }
}

impl<V, W> Drop for Ticket<V, W> {
    fn drop(&mut self) {
        if !self.is_complete {
            let (waiters, _) = self.shared.lock().end_fetch(&self.name, self.id);
            drop(waiters); // only now, without the lock
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
    /// The fetches that a lookup may join.
    fetches: HashMap<KeyName, Fetch<W>>,
    /// The waiters of fetches whose key was removed meanwhile, by the fetch.
    stale: HashMap<u64, Vec<W>>,
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

    fn insert(&mut self, name: KeyName, value: V, now: Instant) {
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
            fetched_at: now,
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

    /// Forgets a fetch. Returns its waiters, and whether its key was not removed meanwhile.
    fn end_fetch(&mut self, name: &KeyName, id: u64) -> (Vec<W>, bool) {
        if self.fetches.get(name).is_some_and(|fetch| fetch.id == id) {
            let fetch = self.fetches.remove(name);
            (fetch.map(|fetch| fetch.waiters).unwrap_or_default(), true)
        } else {
            (self.stale.remove(&id).unwrap_or_default(), false)
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
mod tests {
    use super::*;

    type TestCache = Cache<u32, u32>;

    const SECOND: Duration = Duration::from_secs(1);

    const FOR_EVER: Expiry = Expiry { any: None, unused: None, offline: None };

    fn key(number: usize) -> KeyName {
        KeyName::parse(&format!("key-{number}")).unwrap()
    }

    fn fetch(cache: &TestCache, name: &KeyName, waiter: u32, now: Instant) -> Ticket<u32, u32> {
        match cache.get_or_wait(name, waiter, now) {
            Lookup::Fetch(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn put(cache: &TestCache, name: &KeyName, value: u32, now: Instant) {
        let ticket = fetch(cache, name, 0, now);
        assert_eq!(vec![0], cache.complete(ticket, Some(value), now));
    }

    #[test]
    fn one_fetch_serves_all_who_wait() {
        let (cache, now) = (TestCache::new(10, FOR_EVER), Instant::now());
        let ticket = fetch(&cache, &key(1), 1, now);
        assert_eq!(&key(1), ticket.name());
        for waiter in 2..5 {
            let lookup = cache.get_or_wait(&key(1), waiter, now);
            assert!(matches!(lookup, Lookup::Waiting));
        }
        assert_eq!(None, cache.get(&key(1), now));
        assert_eq!(vec![1, 2, 3, 4], cache.complete(ticket, Some(7), now));
        assert_eq!(Some(7), cache.get(&key(1), now));
        assert!(matches!(cache.get_or_wait(&key(1), 5, now), Lookup::Hit(7, 5)));
        assert_eq!((2, 4), (cache.hits(), cache.misses()));
    }

    #[test]
    fn a_failed_fetch_is_not_remembered() {
        let (cache, now) = (TestCache::new(10, FOR_EVER), Instant::now());
        let ticket = fetch(&cache, &key(1), 1, now);
        assert_eq!(vec![1], cache.complete(ticket, None, now));
        assert!(cache.is_empty());
        put(&cache, &key(1), 2, now);
    }

    #[test]
    fn a_delete_during_a_fetch_wins() {
        let (cache, now) = (TestCache::new(10, FOR_EVER), Instant::now());
        let stale = fetch(&cache, &key(1), 1, now);
        cache.remove(&key(1));
        let fresh = fetch(&cache, &key(1), 2, now);
        assert!(matches!(cache.get_or_wait(&key(1), 3, now), Lookup::Waiting));
        assert_eq!(vec![1], cache.complete(stale, Some(10), now));
        assert_eq!(None, cache.get(&key(1), now));
        assert_eq!(vec![2, 3], cache.complete(fresh, Some(20), now));
        assert_eq!(Some(20), cache.get(&key(1), now));
    }

    #[test]
    fn a_ticket_that_is_dropped_lets_the_next_one_fetch() {
        let (cache, now) = (Cache::new(10, FOR_EVER), Instant::now());
        let waiter = Arc::new(());
        let Lookup::Fetch(ticket) = cache.get_or_wait(&key(1), waiter.clone(), now) else {
            panic!("nobody else fetches");
        };
        drop(ticket);
        assert_eq!(1, Arc::strong_count(&waiter), "the waiter is dropped");
        let lookup: Lookup<u32, _> = cache.get_or_wait(&key(1), waiter, now);
        assert!(matches!(lookup, Lookup::Fetch(_)));
    }

    #[test]
    fn entries_leave_when_too_old_or_unused() {
        let start = Instant::now();
        let expiry = Expiry { any: Some(10 * SECOND), unused: Some(3 * SECOND), offline: None };
        let cache = TestCache::new(10, expiry);
        put(&cache, &key(1), 1, start);
        put(&cache, &key(2), 2, start);
        for seconds in [2, 4, 6, 8] {
            assert_eq!(Some(1), cache.get(&key(1), start + seconds * SECOND));
        }
        assert_eq!(2, cache.len());
        cache.expire(start + 9 * SECOND);
        assert_eq!(1, cache.len(), "key 2 was not used");
        assert_eq!(None, cache.get(&key(1), start + 10 * SECOND), "too old");
        assert!(cache.is_empty());
    }

    #[test]
    fn without_a_key_store_entries_live_for_exactly_the_offline_time() {
        let start = Instant::now();
        let expiry =
            Expiry { any: Some(10 * SECOND), unused: Some(3 * SECOND), offline: Some(20 * SECOND) };
        let at = |millis| start + Duration::from_millis(millis);
        let cache = TestCache::new(10, expiry);
        put(&cache, &key(1), 1, start);
        cache.set_offline(Some(at(1000)));
        put(&cache, &key(2), 2, at(5000));
        assert_eq!(Some(1), cache.get(&key(1), at(20_999)));
        cache.expire(at(21_000));
        assert_eq!(None, cache.get(&key(1), at(21_000)));
        assert_eq!(Some(2), cache.get(&key(2), at(24_999)), "it came later");
        assert_eq!(None, cache.get(&key(2), at(25_000)));
        // The key store is there again, and with it the usual limits.
        put(&cache, &key(3), 3, at(30_000));
        cache.set_offline(Some(at(30_500)));
        assert_eq!(Some(3), cache.get(&key(3), at(45_000)));
        cache.set_offline(None);
        assert_eq!(None, cache.get(&key(3), at(45_000)));
    }

    #[test]
    fn without_an_offline_time_it_does_not_matter_if_the_key_store_is_available() {
        let start = Instant::now();
        let expiry = Expiry { any: None, unused: Some(3 * SECOND), offline: None };
        let cache = TestCache::new(10, expiry);
        put(&cache, &key(1), 1, start);
        cache.set_offline(Some(start));
        assert_eq!(Some(1), cache.get(&key(1), start + 2 * SECOND));
        assert_eq!(None, cache.get(&key(1), start + 5 * SECOND));
    }

    #[test]
    fn a_new_expiry_holds_for_entries_that_are_here() {
        let (cache, now) = (TestCache::new(10, FOR_EVER), Instant::now());
        put(&cache, &key(1), 1, now);
        cache.set_expiry(Expiry { any: Some(SECOND), ..FOR_EVER });
        assert_eq!(None, cache.get(&key(1), now + SECOND));
    }

    #[test]
    fn a_full_cache_drops_the_least_recently_used() {
        let (cache, now) = (TestCache::new(2, FOR_EVER), Instant::now());
        put(&cache, &key(1), 1, now);
        put(&cache, &key(2), 2, now);
        assert_eq!(Some(1), cache.get(&key(1), now));
        put(&cache, &key(3), 3, now);
        let found = [1, 2, 3].map(|number| cache.get(&key(number), now));
        assert_eq!([Some(1), None, Some(3)], found);
    }

    #[test]
    fn a_cache_without_capacity_keeps_nothing() {
        let (cache, now) = (TestCache::new(0, FOR_EVER), Instant::now());
        put(&cache, &key(1), 1, now);
        put(&cache, &key(1), 1, now);
        assert!(cache.is_empty());
    }

    /// The cache again, in the plainest way: a list in the order of use.
    struct Model {
        capacity: usize,
        expiry: Expiry,
        /// Name, value, fetched at, last used; the last is the one used last.
        entries: Vec<(usize, u32, Instant, Instant)>,
        /// Name, waiters, whether the name was removed since.
        fetches: Vec<(usize, Vec<u32>, bool)>,
    }

    impl Model {
        fn is_due(&self, fetched_at: Instant, last_used: Instant, now: Instant) -> bool {
            self.expiry.any.is_some_and(|any| fetched_at + any <= now)
                || self.expiry.unused.is_some_and(|idle| last_used + idle <= now)
        }

        fn get(&mut self, name: usize, now: Instant) -> Option<u32> {
            let at = self.entries.iter().position(|entry| entry.0 == name)?;
            let (_, value, fetched_at, last_used) = self.entries.remove(at);
            if self.is_due(fetched_at, last_used, now) {
                return None;
            }
            self.entries.push((name, value, fetched_at, now));
            Some(value)
        }

        fn complete(&mut self, at: usize, value: Option<u32>, now: Instant) -> Vec<u32> {
            let (name, waiters, is_stale) = self.fetches.remove(at);
            if let (Some(value), false) = (value, is_stale) {
                self.entries.retain(|entry| entry.0 != name);
                self.entries.push((name, value, now, now));
                if self.entries.len() > self.capacity {
                    self.entries.remove(0);
                }
            }
            waiters
        }
    }

    #[test]
    fn the_cache_behaves_like_its_model() {
        for seed in 1..=20 {
            run_model(seed);
        }
    }

    fn run_model(seed: u64) {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // xorshift64
        let mut below = |limit: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 16) % limit
        };
        let mut model = Model {
            capacity: below(6) as usize,
            expiry: FOR_EVER,
            entries: Vec::new(),
            fetches: Vec::new(),
        };
        let cache = TestCache::new(model.capacity, FOR_EVER);
        let mut tickets = Vec::new();
        let mut now = Instant::now();

        for step in 0..10_000 {
            let name = below(9) as usize;
            match below(20) {
                0..4 => assert_eq!(model.get(name, now), cache.get(&key(name), now)),
                4..10 => {
                    let expected = model.get(name, now);
                    let fetch = model
                        .fetches
                        .iter_mut()
                        .find(|(fetched, _, is_stale)| *fetched == name && !is_stale);
                    match (cache.get_or_wait(&key(name), step, now), expected, fetch) {
                        (Lookup::Hit(value, waiter), Some(expected), _) => {
                            assert_eq!((expected, step), (value, waiter));
                        }
                        (Lookup::Waiting, None, Some((_, waiters, _))) => waiters.push(step),
                        (Lookup::Fetch(ticket), None, None) => {
                            tickets.push(ticket);
                            model.fetches.push((name, vec![step], false));
                        }
                        (lookup, expected, fetch) => {
                            panic!("{lookup:?} instead of {expected:?}, {fetch:?}")
                        }
                    }
                }
                10..15 if !tickets.is_empty() => {
                    let at = below(tickets.len() as u64) as usize;
                    let ticket = tickets.remove(at);
                    if below(8) == 0 {
                        drop(ticket);
                        model.fetches.remove(at);
                    } else {
                        let value = (below(4) > 0).then_some(step);
                        let expected = model.complete(at, value, now);
                        assert_eq!(expected, cache.complete(ticket, value, now));
                    }
                }
                15 => {
                    cache.remove(&key(name));
                    model.entries.retain(|entry| entry.0 != name);
                    for (_, _, is_stale) in model.fetches.iter_mut().filter(|f| f.0 == name) {
                        *is_stale = true;
                    }
                }
                16 => {
                    cache.expire(now);
                    let entries = std::mem::take(&mut model.entries);
                    model.entries = entries
                        .into_iter()
                        .filter(|entry| !model.is_due(entry.2, entry.3, now))
                        .collect();
                }
                17 if below(10) == 0 => {
                    let mut limit = || match below(8) {
                        0 => None,
                        seconds => Some(2 * seconds as u32 * SECOND),
                    };
                    model.expiry = Expiry { any: limit(), unused: limit(), offline: None };
                    cache.set_expiry(model.expiry);
                }
                _ => now += below(3) as u32 * SECOND,
            }
            assert_eq!(model.entries.len(), cache.len());
            check(&cache);
        }

        drop(tickets);
        let state = cache.shared.lock();
        assert!(state.fetches.is_empty() && state.stale.is_empty());
    }

    /// Checks that the index and the queue have all entries, in both directions.
    fn check(cache: &TestCache) {
        let state = cache.shared.lock();
        assert_eq!(state.entries.len(), state.index.len());
        let (mut at, mut newer, mut count) = (state.newest, NONE, 0);
        while at != NONE {
            let entry = &state.entries[at];
            assert_eq!((newer, at), (entry.newer, state.index[&entry.name]));
            (at, newer, count) = (entry.older, at, count + 1);
        }
        assert_eq!((newer, count), (state.oldest, state.entries.len()));
    }
}
