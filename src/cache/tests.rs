mod model;

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
fn a_key_that_turns_out_to_be_deleted_is_used_no_more_also_where_its_waiters_were_served_before() {
    let (cache, start) = (with_offline(), Instant::now());
    let at = |seconds| start + seconds * SECOND;
    put(&cache, &key(1), 1, at(0));
    let ticket = fetch(&cache, &key(1), 5, at(3));
    assert_eq!(vec![(1, vec![5])], cache.note(Status::Unavailable, at(3), at(9)));
    assert_eq!(Some(1), cache.get(&key(1), at(9)));
    assert!(complete(&cache, ticket, None, at(10)).is_empty());
    assert_eq!(None, cache.get(&key(1), at(10)));
    // An entry that is newer than the question stays.
    let late = fetch(&cache, &key(2), 6, at(20));
    cache.remove(&key(2));
    put(&cache, &key(2), 2, at(21));
    assert_eq!(vec![6], complete(&cache, late, None, at(22)));
    assert_eq!(Some(2), cache.get(&key(2), at(22)));
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
