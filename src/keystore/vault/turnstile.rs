//! One thread at a time for each name.

use std::{
    collections::HashSet,
    sync::{Condvar, Mutex, PoisonError},
    time::Instant,
};

use crate::{deadline::Deadline, keystore::KeyName};

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
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
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
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let turnstile = self.0;
        let mut names = (turnstile.names.lock()).unwrap_or_else(PoisonError::into_inner);
        names.remove(self.1);
        turnstile.left.notify_all();
    }
}
