//! The key store threads: a fixed number, in front of them a bounded queue.
//!
//! Whatever may block is done here, so that a key store that hangs fills these threads and their
//! queue, and nothing else.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

/// Stack of a key store thread, in bytes.
const STACK: usize = 256 * 1024;

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs that may block, the oldest first.
pub(super) struct Pool {
    jobs: Sender<Job>,
    queued: Arc<AtomicUsize>,
    limit: usize,
}

/// The right to submit one job.
pub(super) struct Permit<'a>(&'a Pool);

impl Pool {
    /// Starts `threads` threads; at most `limit` jobs wait or run at any time.
    pub(super) fn start(threads: usize, limit: usize) -> io::Result<Self> {
        let (jobs, receiver) = channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        let queued = Arc::new(AtomicUsize::new(0));
        for number in 0..threads {
            let (receiver, queued) = (receiver.clone(), queued.clone());
            std::thread::Builder::new()
                .name(format!("key-store-{number}"))
                .stack_size(STACK)
                .spawn(move || run(&receiver, &queued))?;
        }
        Ok(Self {
            jobs,
            queued,
            limit,
        })
    }

    /// Jobs that wait or run.
    pub(super) fn depth(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Room for one more job, or `None` if the queue is full.
    pub(super) fn reserve(&self) -> Option<Permit<'_>> {
        let permit = Permit(self);
        (self.queued.fetch_add(1, Ordering::Relaxed) < self.limit).then_some(permit)
    }
}

impl Permit<'_> {
    /// Queues `job`; its room is free again when it has run.
    pub(super) fn submit(self, job: impl FnOnce() + Send + 'static) {
        // The threads live as long as the process, so the queue is never closed.
        if self.0.jobs.send(Box::new(job)).is_ok() {
            std::mem::forget(self);
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::Relaxed);
    }
}

fn run(jobs: &Mutex<Receiver<Job>>, queued: &AtomicUsize) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // The panic hook has told the log; the request ends with its timeout.
        let _ = catch_unwind(AssertUnwindSafe(job));
        queued.fetch_sub(1, Ordering::Relaxed);
    }
}
