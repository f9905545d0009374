//! The cache does what a plain list does.

use super::{super::entries::NONE, *};

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
            (Found::Value(_), Some(at)) if !is_stale => {
                self.entries.remove(at);
            }
            (Found::Nothing, Some(at)) if self.entries[at].2 <= began => {
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
