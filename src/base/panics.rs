//! Panics: a bug ends one request or task, never a thread.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `action`; `None` if it panicked. The panic hook has logged that by then.
pub fn survive<T>(action: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(action)).ok()
}
