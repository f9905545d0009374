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

/// Starts a thread with this name and so many bytes of stack. Boxed, as threads of each kind would be code of their
/// own.
///
/// # Errors
/// If the system refuses the thread.
pub fn start(
    name: &str,
    stack: usize,
    run: Box<dyn FnOnce() + Send>,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(run)
}

/// Threads that a simulation may be in charge of.
#[cfg(not(test))]
pub mod thread {
    pub use std::thread::{Builder, JoinHandle, sleep};
}
