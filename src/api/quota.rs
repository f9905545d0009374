//! How much each identity may ask for: requests a second, and requests under way at once.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    base::sync::{Mutex, MutexGuard},
    config::Limits,
};

/// Identities that share a lock are few.
const SHARDS: usize = 16;
/// An identity that has been silent for this long may send as many requests at once as in this time.
const BURST: Duration = Duration::from_secs(1);

type Accounts = HashMap<Arc<str>, Account>;

/// The accounts of all identities that have asked for something lately.
pub struct Quotas {
    shards: [Mutex<Accounts>; SHARDS],
    hasher: RandomState,
}

/// What an identity has asked for.
struct Account {
    /// Each request takes its share of a second, one after the other; those of before are done then.
    taken_until: Instant,
    under_way: usize,
}

/// A request under way, until it is dropped.
pub struct UnderWay(&'static Quotas, Arc<str>);

impl Default for Quotas {
    fn default() -> Self {
        Self { shards: Default::default(), hasher: RandomState::new() }
    }
}

impl Quotas {
    /// Counts a request of `identity`, which must be one with rights, so that there are only so many
    /// accounts. `Err` if it has reached a limit, with its name. A request that waits a second will not meet
    /// the limit of requests a second: each takes a second or less.
    pub fn count(
        &'static self,
        limits: &Limits,
        identity: &Arc<str>,
        now: Instant,
    ) -> Result<Option<UnderWay>, &'static str> {
        if !limits.are_for_identities() {
            return Ok(None);
        }
        let mut accounts = self.accounts(identity);
        let account = match accounts.get_mut(identity) {
            Some(account) => account,
            None => {
                if accounts.len() == accounts.capacity() {
                    accounts.retain(|_, account| !account.is_idle(now));
                }
                let account = Account { taken_until: now, under_way: 0 };
                accounts.entry(identity.clone()).or_insert(account)
            }
        };
        if limits.concurrent.is_some_and(|most| account.under_way >= most) {
            return Err("limits.concurrent");
        }
        if let Some(rate) = limits.requests_per_second {
            let share = Duration::from_secs(1) / u32::try_from(rate).unwrap_or(u32::MAX);
            let taken_until = account.taken_until.max(now) + share;
            if taken_until > now + BURST {
                return Err("limits.requests_per_second");
            }
            account.taken_until = taken_until;
        }
        account.under_way += 1;
        Ok(Some(UnderWay(self, identity.clone())))
    }

    fn accounts(&self, identity: &Arc<str>) -> MutexGuard<'_, Accounts> {
        let shard = self.hasher.hash_one(identity) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn is_idle(&self, now: Instant) -> bool {
        self.under_way == 0 && self.taken_until <= now
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(account) = self.0.accounts(&self.1).get_mut(&self.1) {
            account.under_way -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas() -> &'static Quotas {
        Box::leak(Box::default())
    }

    fn limits(requests_per_second: Option<usize>, concurrent: Option<usize>) -> Limits {
        Limits { requests_per_second, concurrent, ..Limits::default() }
    }

    fn accounts(quotas: &Quotas) -> usize {
        quotas.shards.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }

    #[test]
    fn one_second_of_requests_may_come_at_once_and_then_as_many_as_time_passes() {
        for rate in [1_usize, 3, 7, 1000] {
            let (quotas, limits, start) = (quotas(), limits(Some(rate), None), Instant::now());
            let asks = |identity: &str, millis| {
                let now = start + Duration::from_millis(millis);
                let all = (0..2 * rate + 2)
                    .take_while(|_| quotas.count(&limits, &identity.into(), now).is_ok());
                all.count()
            };
            assert_eq!(rate, asks("a", 0), "{rate}");
            assert_eq!(0, asks("a", 0), "{rate}");
            // Another one has its own.
            assert_eq!(rate, asks("b", 0), "{rate}");
            assert_eq!(rate * 501 / 1000, asks("a", 501), "{rate}");
            // What is not used is not saved up for longer than a second.
            assert_eq!(rate, asks("a", 60_000), "{rate}");
            // A refusal lasts for less than a second.
            assert!(asks("a", 61_000) >= 1, "{rate}");
        }
    }

    #[test]
    fn so_many_requests_may_be_under_way_and_those_that_end_make_room() {
        let (quotas, limits, now) = (quotas(), limits(None, Some(2)), Instant::now());
        let ask = |identity: &str| quotas.count(&limits, &identity.into(), now);
        let first = ask("a").ok().flatten().unwrap();
        let _second = ask("a").ok().flatten().unwrap();
        assert_eq!(Some("limits.concurrent"), ask("a").err());
        assert!(ask("b").is_ok());
        drop(first);
        let _third = ask("a").ok().flatten().unwrap();
        assert_eq!(Some("limits.concurrent"), ask("a").err());
    }

    #[test]
    fn new_limits_go_on_with_the_counts_of_the_old_ones() {
        let (quotas, now) = (quotas(), Instant::now());
        let ask = |rate, concurrent| quotas.count(&limits(rate, concurrent), &"a".into(), now);
        let _held: Vec<_> = (0..10).map(|_| ask(Some(10), Some(10)).ok().flatten()).collect();
        assert_eq!(Some("limits.concurrent"), ask(Some(10), Some(10)).err());
        assert_eq!(Some("limits.concurrent"), ask(None, Some(3)).err());
        assert_eq!(Some("limits.requests_per_second"), ask(Some(20), None).err());
        assert!(ask(None, Some(11)).is_ok());
        assert!(ask(None, None).is_ok());
    }

    #[test]
    fn without_limits_there_are_no_accounts_and_idle_ones_go() {
        let (quotas, start) = (quotas(), Instant::now());
        assert!(matches!(quotas.count(&limits(None, None), &"a".into(), start), Ok(None)));
        assert_eq!(0, accounts(quotas));
        let limits = limits(Some(1000), Some(1));
        let kept = quotas.count(&limits, &"kept".into(), start).ok().flatten().unwrap();
        for number in 0..100_000 {
            let now = start + Duration::from_millis(number);
            assert!(quotas.count(&limits, &number.to_string().into(), now).is_ok());
        }
        assert!(accounts(quotas) < 1000, "{}", accounts(quotas));
        let later = start + Duration::from_secs(1000);
        assert!(quotas.count(&limits, &"kept".into(), later).is_err());
        drop(kept);
        assert!(quotas.count(&limits, &"kept".into(), later).is_ok());
    }
}
