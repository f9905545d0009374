//! Panics: a bug ends one request or task, never a thread.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `action`; `None` if it panicked. The panic hook has logged that by then.
pub fn survive<T>(action: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(action));
    #[cfg(test)]
    if let Err(payload) = &done {
        super::sync::world::caught(&**payload);
    }
    done.ok()
}
