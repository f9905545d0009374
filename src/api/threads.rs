//! The key store threads: a fixed number, in front of them a bounded queue.
//!
//! All calls that may block run here, so that a key store that hangs fills only these threads and their
//! queue. Identities take turns: one that asks for much waits behind its own jobs, not in front of others'.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, PoisonError},
};

use super::failure::Failure;
use crate::base::{
    panics::survive,
    secret,
    sync::{self, Condvar, Mutex, MutexGuard},
};

/// Stack of a key store thread, in bytes.
const STACK: usize = 256 * 1024;

/// The permit is for the job: its room is free again when that is dropped.
type Job = (Permit, Box<dyn FnOnce(Permit) + Send>);

/// Runs jobs that may block: those of an identity in their order, a job of each identity in turn.
#[derive(Clone)]
pub struct Threads(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    arrival: Condvar,
    /// Permits there may be.
    limit: usize,
}

#[derive(Default)]
struct Queue {
    /// The identities that have permits.
    lines: HashMap<Arc<str>, Line>,
    /// The identities that have jobs waiting, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    permits: usize,
}

#[derive(Default)]
struct Line {
    jobs: VecDeque<Job>,
    permits: usize,
}

/// Room for one job of an identity, until it is dropped.
pub struct Permit(Arc<Shared>, Arc<str>);

impl Permit {
    /// The identity.
    pub fn identity(&self) -> &Arc<str> {
        &self.1
    }
}

impl Threads {
    /// Starts `threads` threads; at most `limit` jobs wait or run at any time.
    pub fn start(threads: usize, limit: usize) -> io::Result<Self> {
        let shared = Shared { queue: Mutex::default(), arrival: Condvar::new(), limit };
        let shared = Arc::new(shared);
        for number in 0..threads {
            let shared = shared.clone();
            sync::start(&format!("key-store-{number}"), STACK, Box::new(move || shared.run()))?;
        }
        Ok(Self(shared))
    }

    /// Jobs that wait or run.
    pub fn depth(&self) -> usize {
        self.0.lock().permits
    }

    /// Room for one more job of `identity`, or `None` if it has as much as there is left for others: so one alone
    /// gets half of the queue, the next half of the rest. The last eighth is for the first jobs of identities.
    pub fn reserve(&self, identity: &Arc<str>) -> Option<Permit> {
        let mut queue = self.0.lock();
        let own = queue.lines.get(identity).map_or(0, |line| line.permits);
        let limit = self.0.limit;
        let has_enough = own > 0 && queue.permits >= limit - limit / 8;
        if has_enough || queue.permits + own >= limit {
            return None;
        }
        queue.permits += 1;
        queue.lines.entry(identity.clone()).or_default().permits += 1;
        Some(Permit(self.0.clone(), identity.clone()))
    }

    /// Queues `job`, which gets `permit` when its turn comes.
    pub fn submit(&self, permit: Permit, job: impl FnOnce(Permit) + Send + 'static) {
        let identity = permit.1.clone();
        let mut queue = self.0.lock();
        let line = queue.lines.entry(identity.clone()).or_default();
        line.jobs.push_back((permit, Box::new(job)));
        if line.jobs.len() == 1 {
            queue.turns.push_back(identity);
        }
        drop(queue);
        self.0.arrival.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let (permit, job) = self.next();
            survive(|| job(permit));
            secret::wipe_stack();
        }
    }

    /// Waits for a job. The threads live as long as the process.
    fn next(&self) -> Job {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.next() {
                return job;
            }
            queue = self.arrival.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Queue {
    fn next(&mut self) -> Option<Job> {
        let identity = self.turns.pop_front()?;
        let line = self.lines.get_mut(&identity)?;
        let job = line.jobs.pop_front();
        if !line.jobs.is_empty() {
            self.turns.push_back(identity);
        }
        job
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.permits -= 1;
        if let Some(line) = queue.lines.get_mut(&self.1) {
            line.permits -= 1;
            if line.permits == 0 {
                queue.lines.remove(&self.1);
            }
        }
    }
}

/// Runs `job`; a panic is the server's own failure.
pub fn guarded<T>(job: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    survive(job).unwrap_or(Err(Failure::Internal("internal server error")))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{Receiver, Sender, channel},
        time::Duration,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// One thread, which waits until the sender is dropped, and the names of the jobs that have run.
    fn blocked(limit: usize) -> (Threads, Sender<()>, Sender<String>, Receiver<String>) {
        let threads = Threads::start(1, limit).unwrap();
        let (hold, held) = channel::<()>();
        let (begun, has_begun) = channel();
        let permit = threads.reserve(&"first".into()).unwrap();
        threads.submit(permit, move |_| {
            begun.send(()).unwrap();
            let _ = held.recv();
        });
        has_begun.recv_timeout(PATIENCE).unwrap();
        let (names, ran) = channel();
        (threads, hold, names, ran)
    }

    fn submit(threads: &Threads, identity: &str, names: &Sender<String>) -> bool {
        let Some(permit) = threads.reserve(&identity.into()) else { return false };
        let (names, name) = (names.clone(), identity.to_owned());
        threads.submit(permit, move |_| names.send(name).unwrap());
        true
    }

    #[test]
    fn identities_take_turns_however_much_one_asks_for() {
        let (threads, hold, names, ran) = blocked(1000);
        for identity in ["noisy", "noisy", "noisy", "noisy", "a", "b", "a", "noisy"] {
            assert!(submit(&threads, identity, &names));
        }
        drop(hold);
        let order: Vec<_> = (0..8).map(|_| ran.recv_timeout(PATIENCE).unwrap()).collect();
        assert_eq!("noisy a b noisy a noisy noisy noisy", order.join(" "));
    }

    #[test]
    fn one_identity_gets_half_of_the_queue_and_others_their_share_of_the_rest() {
        let (threads, hold, names, _ran) = blocked(101);
        let fill = |identity| (0..1000).filter(|_| submit(&threads, identity, &names)).count();
        assert_eq!(50, fill("noisy"));
        assert_eq!(25, fill("loud"));
        assert_eq!(0, fill("noisy"));
        for number in 0..5 {
            assert!(submit(&threads, &number.to_string(), &names), "{number}");
        }
        assert_eq!(81, threads.depth());
        drop(hold);
        let end = std::time::Instant::now() + PATIENCE;
        while threads.depth() > 0 {
            assert!(std::time::Instant::now() < end, "{} are left", threads.depth());
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(threads.0.lock().lines.is_empty());
    }

    #[test]
    fn many_identities_leave_room_for_the_first_jobs_of_others() {
        let (threads, _hold, names, _ran) = blocked(801);
        for number in 0..20 {
            while submit(&threads, &format!("busy-{number}"), &names) {}
        }
        for number in 0..80 {
            assert!(submit(&threads, &format!("quiet-{number}"), &names), "{number}");
            assert!(!submit(&threads, &format!("quiet-{number}"), &names), "{number}");
        }
    }

    #[test]
    fn room_that_is_not_used_is_given_back() {
        let (threads, _hold, ..) = blocked(5);
        let permits: Vec<_> = (0..2).map_while(|_| threads.reserve(&"a".into())).collect();
        assert_eq!(2, permits.len());
        assert!(threads.reserve(&"a".into()).is_none());
        drop(permits);
        assert!(threads.reserve(&"a".into()).is_some());
        assert_eq!(1, threads.depth());
    }
}
