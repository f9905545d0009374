//! One thread at a time for each name. Requests do not come here together: the server lets one of a name
//! through. The threads that create what the configuration asks for come by themselves.

use std::{
    collections::HashSet,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{base::deadline::Deadline, keystore::KeyName};

/// Lets one thread at a time do something with a name.
#[derive(Default)]
pub(super) struct Turnstile {
    names: Mutex<HashSet<KeyName>>,
    left: Condvar,
}

pub(super) struct Turn<'a>(&'a Turnstile, &'a KeyName);

impl Turnstile {
    /// Waits until nobody else has `name`; `None` if that takes too long.
    pub(super) fn enter<'a>(&'a self, name: &'a KeyName, deadline: Deadline) -> Option<Turn<'a>> {
        let mut names = self.lock();
        while !names.insert(name.clone()) {
            let left = deadline.remaining(Instant::now());
            if left.is_zero() {
                return None;
            }
            let woken = self.left.wait_timeout(names, left);
            names = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(Turn(self, name))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<KeyName>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(self.1);
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
    fn one_thread_at_a_time_has_a_name_and_others_have_other_names() {
        let turnstile = Turnstile::default();
        let deadline = Deadline::after(Instant::now(), Duration::from_secs(60));
        let name = |name| KeyName::parse(name).unwrap();
        let (slow, other) = (name("slow"), name("other"));
        let turn = turnstile.enter(&slow, deadline).unwrap();
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let _turn = turnstile.enter(&slow, deadline).unwrap();
                        assert_eq!(0, inside.fetch_add(1, Ordering::SeqCst), "two at once");
                        thread::sleep(Duration::from_millis(20));
                        inside.fetch_sub(1, Ordering::SeqCst);
                    })
                })
                .collect();
            assert!(turnstile.enter(&other, deadline).is_some());
            thread::sleep(Duration::from_millis(50));
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
        let turn = turnstile.enter(&name, at_once).unwrap();
        assert!(turnstile.enter(&name, at_once).is_none());
        drop(turn);
        assert!(turnstile.enter(&name, at_once).is_some());
    }
}
