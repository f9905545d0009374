use super::{entries::NONE, *};

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
    cache.complete(ticket, value.map_or(Found::Nothing, Found::Value), now).0
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
    let (waiters, until, _) = cache.complete(ticket, Found::Value(7), later(10));
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

/// An entry is used for two seconds, and for 100 more in an outage.
fn with_offline() -> TestCache {
    let any = Some(2 * SECOND);
    TestCache::new(10, Expiry { any, unused: None, offline: Some(100 * SECOND) })
}

/// The key store says its status at once.
fn note(cache: &TestCache, status: Status, now: Instant) {
    assert!(cache.note(status, now, now).is_empty(), "nobody waits");
}

#[test]
fn without_a_key_store_entries_live_for_exactly_the_offline_time() {
    let start = Instant::now();
    let expiry =
        Expiry { any: Some(10 * SECOND), unused: Some(3 * SECOND), offline: Some(20 * SECOND) };
    let at = |millis| start + Duration::from_millis(millis);
    let cache = TestCache::new(10, expiry);
    put(&cache, &key(1), 1, start);
    note(&cache, Status::Unavailable, at(1000));
    put(&cache, &key(2), 2, at(5000));
    note(&cache, Status::Unavailable, at(15_000));
    assert_eq!(Some(1), cache.get(&key(1), at(20_999)));
    cache.expire(at(21_000));
    assert_eq!(None, cache.get(&key(1), at(21_000)));
    assert_eq!(Some(2), cache.get(&key(2), at(24_999)), "it came later");
    assert_eq!(None, cache.get(&key(2), at(25_000)));
}

#[test]
fn a_key_store_that_is_back_is_asked_for_a_key_that_is_due() {
    let (cache, start) = (with_offline(), Instant::now());
    let at = |seconds| start + seconds * SECOND;
    put(&cache, &key(1), 1, at(0));
    put(&cache, &key(2), 2, at(0));
    note(&cache, Status::Unavailable, at(1));
    assert_eq!(Some(1), cache.get(&key(1), at(50)));
    note(&cache, Status::Available, at(60));
    assert_eq!(None, cache.get(&key(1), at(60)));
    put(&cache, &key(1), 10, at(60));
    assert_eq!(Some(10), cache.get(&key(1), at(61)));
    // It is deleted elsewhere.
    let ticket = fetch(&cache, &key(2), 0, at(61));
    complete(&cache, ticket, None, at(61));
    note(&cache, Status::Unavailable, at(62));
    assert_eq!(None, cache.get(&key(2), at(62)));
}

#[test]
fn a_key_store_that_is_back_for_a_moment_takes_no_keys_along_and_gives_them_no_more_time() {
    let (cache, start) = (with_offline(), Instant::now());
    let at = |seconds| start + seconds * SECOND;
    put(&cache, &key(1), 1, at(0));
    for seconds in (1..100).step_by(4) {
        note(&cache, Status::Unavailable, at(seconds));
        assert_eq!(Some(1), cache.get(&key(1), at(seconds)));
        note(&cache, Status::Available, at(seconds + 2));
        cache.expire(at(seconds + 3));
        assert_eq!(None, cache.get(&key(1), at(seconds + 3)));
    }
    note(&cache, Status::Unavailable, at(101));
    assert_eq!(None, cache.get(&key(1), at(101)));
}

#[test]
fn a_key_that_is_due_goes_when_the_key_store_was_available_for_a_while() {
    let start = Instant::now();
    let at = |seconds| start + seconds * SECOND;
    // Also if it never was away, where the last status counts, not the time: it may be long in coming.
    for outage in [false, true] {
        let cache = with_offline();
        put(&cache, &key(1), 1, at(0));
        if outage {
            note(&cache, Status::Unavailable, at(1));
        }
        note(&cache, Status::Available, at(2));
        cache.expire(at(31));
        note(&cache, Status::Available, at(31));
        cache.expire(at(90));
        assert_eq!(1, cache.len());
        note(&cache, Status::Available, at(32));
        cache.expire(at(90));
        assert_eq!(0, cache.len(), "outage: {outage}");
    }
}

#[test]
fn while_logins_fail_a_key_store_that_answers_proves_nothing() {
    let (cache, start) = (with_offline(), Instant::now());
    let at = |seconds| start + seconds * SECOND;
    put(&cache, &key(1), 1, at(0));
    for seconds in 1..101 {
        note(&cache, Status::Doubtful, at(seconds));
        cache.expire(at(seconds));
        assert_eq!(1, cache.len());
        assert_eq!(seconds < 2, cache.get(&key(1), at(seconds)).is_some(), "{seconds}");
    }
    cache.expire(at(101));
    assert_eq!(0, cache.len(), "it has had its time");
}

#[test]
fn a_fetch_without_an_answer_is_answered_with_what_is_here() {
    let (cache, start) = (with_offline(), Instant::now());
    let at = |seconds| start + seconds * SECOND;
    put(&cache, &key(1), 1, at(0));
    let unknown = |seconds| {
        let ticket = fetch(&cache, &key(1), 5, at(seconds));
        let (waiters, _, kept) = cache.complete(ticket, Found::Unknown, at(seconds + 15));
        assert_eq!(vec![5], waiters);
        kept
    };
    assert_eq!(Some(1), unknown(2));
    assert_eq!(Some(1), unknown(30));
    note(&cache, Status::Available, at(40));
    assert_eq!(None, unknown(41), "it was available all the time");
    // Not after a delete.
    put(&cache, &key(1), 2, at(60));
    let ticket = fetch(&cache, &key(1), 5, at(62));
    cache.remove(&key(1));
    assert_eq!(None, cache.complete(ticket, Found::Unknown, at(62)).2);
    // Nor without an offline time.
    cache.set_expiry(Expiry { any: Some(SECOND), ..FOR_EVER });
    put(&cache, &key(1), 3, at(70));
    assert_eq!(None, unknown(71));
}

#[test]
fn those_who_wait_for_a_key_store_that_is_gone_get_what_is_here() {
    let (cache, start) = (with_offline(), Instant::now());
    let at = |seconds| start + seconds * SECOND;
    put(&cache, &key(1), 1, at(0));
    let ticket = fetch(&cache, &key(1), 5, at(2));
    let other = fetch(&cache, &key(2), 6, at(2));
    assert!(matches!(ask(&cache, &key(1), 7, at(3)), Lookup::Waiting));
    assert_eq!(vec![(1, vec![5, 7])], cache.note(Status::Unavailable, at(3), at(8)));
    assert_eq!(Some(1), cache.get(&key(1), at(9)));
    assert!(complete(&cache, ticket, Some(9), at(9)).is_empty());
    assert_eq!(vec![6], complete(&cache, other, Some(2), at(9)));
    // One that waits for its turn finds nobody, and leaves the turn to the next.
    note(&cache, Status::Available, at(10));
    assert!(matches!(ask(&cache, &key(1), 8, at(10)), Lookup::Queue));
    assert_eq!(vec![(1, vec![8])], cache.note(Status::Unavailable, at(11), at(11)));
    assert!(cache.begin(&key(1), at(11)).is_none());
}

#[test]
fn a_key_in_doubt_is_fetched_and_serves_without_a_key_store() {
    let (cache, start) = (with_offline(), Instant::now());
    let at = |seconds| start + seconds * SECOND;
    put(&cache, &key(1), 1, at(0));
    let old = fetch(&cache, &key(2), 0, at(1));
    cache.doubt(&key(1), at(1));
    cache.doubt(&key(2), at(1));
    complete(&cache, old, Some(2), at(1));
    assert_eq!(None, cache.get(&key(1), at(1)));
    assert_eq!(None, cache.get(&key(2), at(1)), "its fetch may have seen the old value");
    note(&cache, Status::Unavailable, at(1));
    assert_eq!(Some(1), cache.get(&key(1), at(1)));
    note(&cache, Status::Available, at(2));
    put(&cache, &key(1), 10, at(2));
    assert_eq!(Some(10), cache.get(&key(1), at(3)));
    cache.set_expiry(FOR_EVER);
    cache.doubt(&key(1), at(3));
    assert_eq!(None, cache.get(&key(1), at(3)));
    assert_eq!(0, cache.len());
}

#[test]
fn without_an_offline_time_it_does_not_matter_if_the_key_store_is_available() {
    let start = Instant::now();
    let expiry = Expiry { any: None, unused: Some(3 * SECOND), offline: None };
    let cache = TestCache::new(10, expiry);
    put(&cache, &key(1), 1, start);
    note(&cache, Status::Unavailable, start);
    assert_eq!(Some(1), cache.get(&key(1), start + 2 * SECOND));
    assert_eq!(None, cache.get(&key(1), start + 5 * SECOND));
    assert_eq!(0, cache.len());
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
    /// What the key store has said of its status, and when.
    statuses: Vec<(Status, Instant)>,
}

impl Model {
    fn is_due(&self, fetched_at: Instant, last_used: Instant, now: Instant) -> bool {
        self.expiry.any.is_some_and(|any| fetched_at + any <= now)
            || self.expiry.unused.is_some_and(|idle| last_used + idle <= now)
    }

    /// Since when there is an outage, as long as the key store was not available for half a minute.
    fn outage(&self) -> Option<Instant> {
        let (mut since, mut back) = (None, None);
        for &(status, at) in &self.statuses {
            match (status, back) {
                (Status::Available, Some(back)) if at >= back + 30 * SECOND => since = None,
                (Status::Available, Some(_)) => {}
                (Status::Available, None) => back = Some(at),
                (status, _) => {
                    since = since.or(Some(at));
                    back = (status == Status::Doubtful).then_some(at);
                }
            }
        }
        since
    }

    fn is_kept(&self, fetched_at: Instant, last_used: Instant, now: Instant) -> bool {
        let Some(offline) = self.expiry.offline else { return false };
        match (self.outage(), self.statuses.last()) {
            (Some(since), _) => now < fetched_at.max(since) + offline,
            (None, None) => true,
            (None, Some((_, at))) => {
                at.checked_sub(30 * SECOND).is_none_or(|at| !self.is_due(fetched_at, last_used, at))
            }
        }
    }

    fn is_usable(&self, fetched_at: Instant, last_used: Instant, now: Instant) -> bool {
        let is_down = self.statuses.last().is_some_and(|last| last.0 == Status::Unavailable);
        match self.expiry.offline.is_some() && is_down {
            true => self.is_kept(fetched_at, last_used, now),
            false => !self.is_due(fetched_at, last_used, now),
        }
    }

    fn get(&mut self, name: usize, now: Instant) -> Option<u32> {
        let at = self.entries.iter().position(|entry| entry.0 == name)?;
        let (_, value, fetched_at, last_used) = self.entries[at];
        if self.is_usable(fetched_at, last_used, now) {
            self.entries.remove(at);
            self.entries.push((name, value, fetched_at, now));
            return Some(value);
        }
        if !self.is_kept(fetched_at, last_used, now) {
            self.entries.remove(at);
        }
        None
    }

    fn complete(&mut self, at: usize, found: Found<u32>, now: Instant) -> (Vec<u32>, Option<u32>) {
        let (name, waiters, is_stale, began) = self.fetches.remove(at);
        let mut kept = None;
        let entry = self.entries.iter().position(|entry| entry.0 == name);
        match (found, entry) {
            (Found::Unknown, Some(at)) => {
                let (_, value, fetched_at, last_used) = self.entries[at];
                if self.is_kept(fetched_at, last_used, now) {
                    self.entries.remove(at);
                    self.entries.push((name, value, fetched_at, now));
                    kept = Some(value);
                }
            }
            (Found::Value(_) | Found::Nothing, Some(at)) if !is_stale => {
                self.entries.remove(at);
            }
            _ => {}
        }
        if let (Found::Value(value), false) = (found, is_stale) {
            self.entries.push((name, value, began, now));
            if self.entries.len() > self.capacity {
                self.entries.remove(0);
            }
        }
        (waiters, kept)
    }

    /// The waiters that are served since the key store is gone.
    fn note(&mut self, status: Status, now: Instant) -> Vec<(u32, Vec<u32>)> {
        self.statuses.push((status, now));
        let mut served = Vec::new();
        if status == Status::Unavailable && self.expiry.offline.is_some() {
            for at in 0..self.fetches.len() {
                let (name, _, is_stale, _) = self.fetches[at];
                if !is_stale
                    && self
                        .entries
                        .iter()
                        .any(|entry| entry.0 == name && self.is_usable(entry.2, entry.3, now))
                {
                    let value = self.get(name, now).unwrap();
                    let fetch = &mut self.fetches[at];
                    fetch.2 = true;
                    served.push((value, std::mem::take(&mut fetch.1)));
                }
            }
        }
        served
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
        statuses: Vec::new(),
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
                    let found = match below(6) {
                        0 => Found::Nothing,
                        1 | 2 => Found::Unknown,
                        _ => Found::Value(step),
                    };
                    let (waiters, _, kept) = cache.complete(ticket, found, now);
                    assert_eq!(model.complete(at, found, now), (waiters, kept));
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
                let entries = model.entries.clone();
                model.entries = entries
                    .iter()
                    .copied()
                    .filter(|entry| {
                        let (_, _, fetched_at, last_used) = *entry;
                        model.is_usable(fetched_at, last_used, now)
                            || model.is_kept(fetched_at, last_used, now)
                    })
                    .collect();
            }
            17 if below(10) == 0 => {
                let mut limit = || match below(8) {
                    0 => None,
                    seconds => Some(2 * seconds as u32 * SECOND),
                };
                let (any, unused) = (limit(), limit());
                model.expiry = Expiry { any, unused, offline: limit().map(|limit| 4 * limit) };
                cache.set_expiry(model.expiry);
            }
            18 if below(4) == 0 => {
                let status = match below(12) {
                    0 | 1 => Status::Unavailable,
                    2 => Status::Doubtful,
                    _ => Status::Available,
                };
                let mut served = cache.note(status, now, now);
                served.sort_unstable();
                let mut expected = model.note(status, now);
                expected.sort_unstable();
                assert_eq!(expected, served);
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
