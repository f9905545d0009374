//! One thread at a time for each name, and few that wait for that.

use std::{
    collections::HashSet,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{deadline::Deadline, keystore::KeyName};

/// So many threads wait, for whatever name. The server has eight for the key store: a name that takes
/// long must leave enough of them to all others.
const MAX_WAITING: usize = 2;

/// Lets one thread at a time do something with a name.
#[derive(Default)]
pub(super) struct Turnstile {
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Default)]
struct State {
    names: HashSet<KeyName>,
    waiting: usize,
}

pub(super) struct Turn<'a>(&'a Turnstile, &'a KeyName);

impl Turnstile {
    /// Waits until nobody else has `name`; `None` if too many wait already, or that takes too long.
    pub(super) fn enter<'a>(&'a self, name: &'a KeyName, deadline: Deadline) -> Option<Turn<'a>> {
        let mut state = self.lock();
        if state.names.insert(name.clone()) {
            return Some(Turn(self, name));
        }
        if state.waiting == MAX_WAITING {
            return None;
        }
        state.waiting += 1;
        let has_entered = loop {
            let left = deadline.remaining(Instant::now());
            if left.is_zero() {
                break false;
            }
            let woken = self.left.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            if state.names.insert(name.clone()) {
                break true;
            }
        };
        state.waiting -= 1;
        has_entered.then(|| Turn(self, name))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().names.remove(self.1);
        self.0.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
        time::Duration,
    };

    use super::*;

    #[test]
    fn a_name_that_takes_long_holds_up_few_threads_and_no_other_name() {
        let turnstile = Turnstile::default();
        let deadline = Deadline::after(Instant::now(), Duration::from_secs(60));
        let name = |name| KeyName::parse(name).unwrap();
        let (slow, other) = (name("slow"), name("other"));
        let turn = turnstile.enter(&slow, deadline).unwrap();
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..MAX_WAITING)
                .map(|_| {
                    scope.spawn(|| {
                        let _turn = turnstile.enter(&slow, deadline).unwrap();
                        assert_eq!(0, inside.fetch_add(1, Ordering::SeqCst), "two at once");
                        thread::sleep(Duration::from_millis(20));
                        inside.fetch_sub(1, Ordering::SeqCst);
                    })
                })
                .collect();
            while turnstile.lock().waiting < MAX_WAITING {
                thread::yield_now();
            }
            assert!(turnstile.enter(&slow, deadline).is_none(), "it would wait");
            assert!(turnstile.enter(&other, deadline).is_some());
            assert!(waiting.iter().all(|thread| !thread.is_finished()));
            drop(turn);
        });
        assert!(turnstile.enter(&slow, deadline).is_some());
    }

    #[test]
    fn nobody_waits_longer_than_until_the_deadline() {
        let turnstile = Turnstile::default();
        let name = KeyName::parse("a").unwrap();
        let at_once = Deadline::after(Instant::now(), Duration::ZERO);
        let _turn = turnstile.enter(&name, at_once).unwrap();
        for _ in 0..=MAX_WAITING {
            assert!(turnstile.enter(&name, at_once).is_none());
        }
        assert_eq!(0, turnstile.lock().waiting);
    }
}
