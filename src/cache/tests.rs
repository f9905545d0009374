use super::*;

type TestCache = Cache<u32, u32>;

const SECOND: Duration = Duration::from_secs(1);

const FOR_EVER: Expiry = Expiry { any: None, unused: None, offline: None };

fn key(number: usize) -> KeyName {
    KeyName::parse(&format!("key-{number}")).unwrap()
}

fn fetch(cache: &TestCache, name: &KeyName, waiter: u32, now: Instant) -> Ticket<u32, u32> {
    assert!(matches!(ask(cache, name, waiter, now), Lookup::Queue));
    cache.begin(name, now).unwrap()
}

/// A lookup for the one party.
fn ask<V: Clone, W>(cache: &Cache<V, W>, name: &KeyName, waiter: W, now: Instant) -> Lookup<V, W> {
    cache.get_or_wait(name, waiter, &"".into(), Deadline::after(now, SECOND), now)
}

fn complete(
    cache: &TestCache,
    ticket: Ticket<u32, u32>,
    value: Option<u32>,
    now: Instant,
) -> Vec<u32> {
    cache.complete(ticket, value, now).0
}

fn put(cache: &TestCache, name: &KeyName, value: u32, now: Instant) {
    let ticket = fetch(cache, name, 0, now);
    assert_eq!(vec![0], complete(cache, ticket, Some(value), now));
}

#[test]
fn one_fetch_serves_all_who_wait() {
    let (cache, now) = (TestCache::new(10, FOR_EVER), Instant::now());
    let ticket = fetch(&cache, &key(1), 1, now);
    assert!(format!("{ticket:?}").contains("key-1"));
    for waiter in 2..5 {
        let lookup = ask(&cache, &key(1), waiter, now);
        assert!(matches!(lookup, Lookup::Waiting));
    }
    assert_eq!(None, cache.get(&key(1), now));
    assert_eq!(vec![1, 2, 3, 4], complete(&cache, ticket, Some(7), now));
    assert_eq!(Some(7), cache.get(&key(1), now));
    assert!(matches!(ask(&cache, &key(1), 5, now), Lookup::Hit(7, 5)));
    assert_eq!((2, 4), (cache.hits(), cache.misses()));
}

#[test]
fn a_failed_fetch_is_not_remembered() {
    let (cache, now) = (TestCache::new(10, FOR_EVER), Instant::now());
    let ticket = fetch(&cache, &key(1), 1, now);
    assert_eq!(vec![1], complete(&cache, ticket, None, now));
    assert!(cache.is_empty());
    put(&cache, &key(1), 2, now);
    assert!(!cache.is_empty());
}

#[test]
fn a_delete_during_a_fetch_wins() {
    let (cache, now) = (TestCache::new(10, FOR_EVER), Instant::now());
    let stale = fetch(&cache, &key(1), 1, now);
    cache.remove(&key(1));
    let fresh = fetch(&cache, &key(1), 2, now);
    assert!(matches!(ask(&cache, &key(1), 3, now), Lookup::Waiting));
    assert_eq!(vec![1], complete(&cache, stale, Some(10), now));
    assert_eq!(None, cache.get(&key(1), now));
    assert_eq!(vec![2, 3], complete(&cache, fresh, Some(20), now));
    assert_eq!(Some(20), cache.get(&key(1), now));
}

/// What a fetch has read may be as old as the fetch, which may take long.
#[test]
fn a_value_is_as_old_as_its_fetch() {
    let any = Expiry { any: Some(2 * SECOND), ..FOR_EVER };
    let (cache, now) = (TestCache::new(10, any), Instant::now());
    let slow = fetch(&cache, &key(1), 1, now);
    assert!(matches!(ask(&cache, &key(1), 2, now + SECOND), Lookup::Waiting));
    let fresh = fetch(&cache, &key(1), 3, now + 2 * SECOND);
    assert_eq!(vec![1, 2], complete(&cache, slow, Some(10), now + 3 * SECOND));
    assert_eq!(None, cache.get(&key(1), now + 3 * SECOND));
    assert_eq!(vec![3], complete(&cache, fresh, Some(20), now + 3 * SECOND));
    assert_eq!(Some(20), cache.get(&key(1), now + 3 * SECOND));
    assert_eq!(None, cache.get(&key(1), now + 4 * SECOND));
}

#[test]
fn a_ticket_that_is_dropped_lets_the_next_one_fetch() {
    let (cache, now) = (Cache::new(10, FOR_EVER), Instant::now());
    let waiter = Arc::new(());
    let lookup: Lookup<u32, _> = ask(&cache, &key(1), waiter.clone(), now);
    assert!(matches!(lookup, Lookup::Queue));
    drop(cache.begin(&key(1), now).unwrap());
    assert_eq!(1, Arc::strong_count(&waiter), "the waiter is dropped");
    let lookup: Lookup<u32, _> = ask(&cache, &key(1), waiter, now);
    assert!(matches!(lookup, Lookup::Queue));
}

/// A fetch waits for the turn of each party once.
#[test]
fn a_fetch_begins_at_the_first_turn_and_is_as_young_as_its_beginning() {
    let any = Expiry { any: Some(2 * SECOND), ..FOR_EVER };
    let (cache, now) = (TestCache::new(10, any), Instant::now());
    let later = |seconds| now + seconds * SECOND;
    let ask = |party: &str, seconds, waiter| {
        let until = Deadline::after(later(seconds), 10 * SECOND);
        match cache.get_or_wait(&key(1), waiter, &party.into(), until, later(seconds)) {
            Lookup::Queue => true,
            Lookup::Waiting => false,
            Lookup::Hit(..) => panic!("nothing was fetched"),
        }
    };
    assert!(ask("a", 0, 1) && !ask("a", 1, 2) && ask("b", 8, 3) && !ask("a", 9, 4));
    // A fetch that waits has read nothing yet.
    cache.remove(&key(1));
    let ticket = cache.begin(&key(1), later(9)).unwrap();
    assert_eq!((4, Deadline::after(later(9), 10 * SECOND)), (ticket.early, ticket.until));
    assert!(cache.begin(&key(1), later(9)).is_none());
    assert!(!ask("c", 10, 5), "it is under way");
    let (waiters, until) = cache.complete(ticket, Some(7), later(10));
    assert_eq!((vec![1, 2, 3, 4, 5], Deadline::after(later(10), 10 * SECOND)), (waiters, until));
    assert_eq!(Some(7), cache.get(&key(1), later(10)));
    assert_eq!(None, cache.get(&key(1), later(11)));
    assert!(cache.begin(&key(1), later(11)).is_none());
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
fn only_an_offline_time_makes_it_matter_if_the_key_store_is_available() {
    let cache = TestCache::new(10, FOR_EVER);
    assert!(!cache.has_offline());
    cache.set_expiry(Expiry { offline: Some(SECOND), ..FOR_EVER });
    assert!(cache.has_offline());
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
    /// Name, waiters, whether none may join it any more, and when it began.
    fetches: Vec<(usize, Vec<u32>, bool, Instant)>,
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
        let (name, waiters, is_stale, began) = self.fetches.remove(at);
        if let (Some(value), false) = (value, is_stale) {
            self.entries.retain(|entry| entry.0 != name);
            self.entries.push((name, value, began, now));
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
                let any = model.expiry.any;
                if expected.is_none() {
                    for (fetched, _, is_stale, began) in &mut model.fetches {
                        *is_stale |= *fetched == name && any.is_some_and(|any| *began + any <= now);
                    }
                }
                let fetch = model
                    .fetches
                    .iter_mut()
                    .find(|(fetched, _, is_stale, _)| *fetched == name && !is_stale);
                match (ask(&cache, &key(name), step, now), expected, fetch) {
                    (Lookup::Hit(value, waiter), Some(expected), _) => {
                        assert_eq!((expected, step), (value, waiter));
                    }
                    (Lookup::Waiting, None, Some((_, waiters, ..))) => waiters.push(step),
                    (Lookup::Queue, None, None) => {
                        tickets.push(cache.begin(&key(name), now).unwrap());
                        model.fetches.push((name, vec![step], false, now));
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
                    assert_eq!(expected, complete(&cache, ticket, value, now));
                }
            }
            15 => {
                cache.remove(&key(name));
                model.entries.retain(|entry| entry.0 != name);
                for (_, _, is_stale, _) in model.fetches.iter_mut().filter(|f| f.0 == name) {
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
