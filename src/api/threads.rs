//! The key store threads: a fixed number, in front of them a bounded queue.
//!
//! All calls that may block run here, so that a key store that hangs fills only these threads and their
//! queue.

use std::{
    io,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::failure::Failure;
use crate::base::{
    panics::survive,
    secret,
    sync::{
        Mutex,
        mpsc::{Receiver, Sender, channel},
        thread,
    },
};

/// Stack of a key store thread, in bytes.
const STACK: usize = 256 * 1024;

type Job = (Permit, Box<dyn FnOnce() + Send>);

/// Runs jobs that may block, the oldest first.
#[derive(Clone)]
pub struct Threads {
    jobs: Sender<Job>,
    queued: Arc<AtomicUsize>,
    limit: usize,
}

/// Room for one job, until it is dropped.
pub struct Permit(Arc<AtomicUsize>);

impl Threads {
    /// Starts `threads` threads; at most `limit` jobs wait or run at any time.
    pub fn start(threads: usize, limit: usize) -> io::Result<Self> {
        let (jobs, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..threads {
            let receiver = receiver.clone();
            thread::Builder::new()
                .name(format!("key-store-{number}"))
                .stack_size(STACK)
                .spawn(move || run(&receiver))?;
        }
        Ok(Self { jobs, queued: Arc::default(), limit })
    }

    /// Jobs that wait or run.
    pub fn depth(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Room for one more job, or `None` if the queue is full.
    pub fn reserve(&self) -> Option<Permit> {
        let before = self.queued.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self.queued.clone());
        (before < self.limit).then_some(permit)
    }

    /// Queues `job`; its room is free again when it has run.
    pub fn submit(&self, permit: Permit, job: impl FnOnce() + Send + 'static) {
        // The threads live as long as the process, so the queue is never closed.
        let _ = self.jobs.send((permit, Box::new(job)));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs `job`; a panic is the server's own failure.
pub fn guarded<T>(job: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    survive(job).unwrap_or(Err(Failure::Internal("internal server error")))
}

fn run(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((permit, job)) = next else { return };
        survive(job);
        secret::wipe_stack();
        drop(permit);
    }
}
