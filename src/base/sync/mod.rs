//! Locks, threads and channels of the standard library. In tests a simulation may be in charge of them: a
//! thread that belongs to one runs when a seeded scheduler lets it, in time that passes as it wants.

#[cfg(test)]
mod simulated;
#[cfg(test)]
pub mod world;

#[cfg(test)]
pub use simulated::{Condvar, Mutex, MutexGuard, mpsc, thread};
#[cfg(not(test))]
pub use std::sync::{Condvar, Mutex, MutexGuard, mpsc};

/// Threads that a simulation may be in charge of.
#[cfg(not(test))]
pub mod thread {
    pub use std::thread::{Builder, JoinHandle, sleep};
}
