//! A bug ends what it happened in, and never a thread.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `action`; `None` if it panicked, which the panic hook has logged by then.
pub fn survive<T>(action: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(action)).ok()
}
