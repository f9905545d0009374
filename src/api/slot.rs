//! The place where a request that waits finds what it waits for.
//!
//! The request owns the [`Slot`]. A [`Waiter`] keeps nothing of the request alive: a value for a request
//! that has gone is dropped at once.

use std::{
    sync::{Arc, PoisonError, Weak},
    task::Waker,
};

use crate::base::sync::{Mutex, MutexGuard};

/// Room for one value; the first that comes is the one that counts.
pub struct Slot<T>(Arc<Mutex<Option<T>>>);

/// Fills a slot.
pub struct Waiter<T> {
    slot: Weak<Mutex<Option<T>>>,
    waker: Waker,
}

impl<T> Slot<T> {
    /// An empty slot, and what fills it and wakes its owner then.
    pub fn new(waker: Waker) -> (Self, Waiter<T>) {
        let slot = Arc::new(Mutex::new(None));
        let waiter = Waiter { slot: Arc::downgrade(&slot), waker };
        (Self(slot), waiter)
    }

    /// Takes the value out. The slot must be dropped then, or another value may come.
    pub fn take(&self) -> Option<T> {
        lock(&self.0).take()
    }

    /// Fills the slot unless it is full. Says whether it was empty.
    pub fn put(&self, value: T) -> bool {
        put(&self.0, value)
    }

    /// Looks at the value.
    pub fn look<U>(&self, look: impl FnOnce(&T) -> U) -> Option<U> {
        lock(&self.0).as_ref().map(look)
    }
}

impl<T> Waiter<T> {
    /// Hands `value` over, unless the request has gone or its time is over.
    pub fn deliver(self, value: T) {
        // Waking may take a lock, so the lock of the slot is not held meanwhile.
        if self.slot.upgrade().is_some_and(|slot| put(&slot, value)) {
            self.waker.wake();
        }
    }
}

fn lock<T>(slot: &Mutex<Option<T>>) -> MutexGuard<'_, Option<T>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put<T>(slot: &Mutex<Option<T>>, value: T) -> bool {
    let mut content = lock(slot);
    let is_empty = content.is_none();
    if is_empty {
        *content = Some(value);
    }
    is_empty
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_counts_and_what_comes_for_nobody_is_dropped() {
        let (slot, waiter) = Slot::new(Waker::noop().clone());
        assert!(slot.put(1));
        waiter.deliver(2);
        assert_eq!(Some(1), slot.take());

        let secret = Arc::new(());
        let (slot, waiter) = Slot::new(Waker::noop().clone());
        drop(slot);
        waiter.deliver(secret.clone());
        assert_eq!(1, Arc::strong_count(&secret));

        let (slot, waiter) = Slot::new(Waker::noop().clone());
        waiter.deliver(secret.clone());
        drop(slot);
        assert_eq!(1, Arc::strong_count(&secret));
    }
}
