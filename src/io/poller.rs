//! Sockets that are ready, brought to the worker that owns them.
//!
//! Each worker has an epoll of its own, level-triggered: a socket stays in it and nothing is re-armed.
//! A socket follows its packets to the worker that runs on the core where they arrive, since a request
//! that stays on one core costs less. Knows tokens and sockets only; the
//! [`Driver`] knows whose they are.

use std::{
    io,
    sync::{
        PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::event::{Timespec, epoll};

use super::{
    epoll::WAKE,
    socket::{Epoll, Socket, incoming_core},
};
use crate::base::{
    clock, secret,
    sync::{Mutex, MutexGuard},
};

const EVENTS: usize = 64;
/// Turns of a socket after which its worker looks where its packets arrive.
const LOOK: u8 = 2;
/// A worker that has had no rest for this time hands ready sockets to one that sleeps. Sooner, moving
/// them would cost more than it brings.
const OVERLOAD: Duration = Duration::from_millis(5);
/// Waiting for less than this time is no rest.
const REST: Duration = Duration::from_micros(5);
/// A worker wipes its stack this long after it first drove a connection, whether it is busy or idle by then.
const WIPE: Duration = Duration::from_secs(1);
/// [`WIPE`], for the kernel.
const WIPE_TIMEOUT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

pub trait Driver {
    fn drive(&self, token: u64);

    /// Moves the connection with this token to another worker, by [`Poller::hand_over`].
    fn hand_over(&self, token: u64, worker: usize);
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interest {
    /// To be woken.
    #[default]
    Wake,
    Read,
    Write,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Self::Wake => epoll::EventFlags::empty(),
            Self::Read => epoll::EventFlags::IN | epoll::EventFlags::RDHUP,
            Self::Write => epoll::EventFlags::OUT,
        }
    }
}

/// A connection's place with a worker. All threads may look at it, so that they can wake the worker.
#[derive(Debug)]
pub struct Place {
    token: u64,
    worker: AtomicUsize,
    /// Its token is on the worker's list.
    is_woken: AtomicBool,
}

/// The state of a connection's socket in epoll.
#[derive(Debug, Default)]
pub struct Watch {
    wanted: Interest,
    /// With [`Interest::Wake`] the socket is not in epoll.
    watched: Interest,
    /// Turns since its worker last looked where its packets arrive.
    turns: u8,
    is_registered: bool,
}

impl Place {
    pub fn new(token: u64) -> Self {
        Self { token, worker: AtomicUsize::new(0), is_woken: AtomicBool::new(false) }
    }

    /// A turn begins: from here on, waking means another.
    pub fn begin_turn(&self) {
        self.is_woken.store(false, Ordering::SeqCst);
    }

    fn worker(&self) -> usize {
        self.worker.load(Ordering::Relaxed)
    }
}

pub struct Poller {
    workers: Vec<Worker>,
    /// Sockets follow their packets.
    follows: bool,
    is_stopping: AtomicBool,
}

/// Workers write to theirs all the time, so none shares a cache line.
#[repr(align(128))]
struct Worker {
    epoll: Epoll,
    /// Where it ran last.
    core: AtomicUsize,
    /// Connections to drive though their sockets may not be ready.
    woken: Mutex<Vec<u64>>,
    connections: AtomicUsize,
    is_asleep: AtomicBool,
    /// It has come round since it was last asked.
    has_turned: AtomicBool,
    /// It has had no rest for [`OVERLOAD`].
    is_overloaded: AtomicBool,
}

impl Poller {
    pub fn new(workers: usize) -> io::Result<Self> {
        Ok(Self {
            workers: (0..workers).map(|_| Worker::new()).collect::<io::Result<_>>()?,
            follows: workers > 1,
            is_stopping: AtomicBool::new(false),
        })
    }

    pub fn run(&self, number: usize, driver: &impl Driver) -> io::Result<()> {
        let worker = &self.workers[number];
        let none =
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [none; EVENTS];
        let mut rested = clock::now();
        let mut woken = Vec::new();
        // Since when the stack may hold what turns left there.
        let mut dirty: Option<Instant> = None;
        loop {
            let asked = clock::now();
            worker.is_asleep.store(true, Ordering::Relaxed);
            worker.core.store(worker.epoll.core(), Ordering::Relaxed);
            let timeout = dirty.map(|_| &WIPE_TIMEOUT);
            let count = worker.epoll.wait(&mut events[..], timeout)?;
            let now = clock::now();
            if now - asked >= REST {
                rested = now;
            }
            let is_overloaded = now - rested >= OVERLOAD;
            worker.is_asleep.store(false, Ordering::Relaxed);
            worker.has_turned.store(true, Ordering::Relaxed);
            worker.is_overloaded.store(is_overloaded, Ordering::Relaxed);
            // A worker that is behind keeps every second connection.
            let helper = if is_overloaded { self.sleeper() } else { None };
            for (at, event) in events[..count].iter().enumerate() {
                match (event.data.u64(), helper) {
                    (WAKE, _) => {
                        if self.is_stopping.load(Ordering::Acquire) {
                            return Ok(());
                        }
                        std::mem::swap(&mut woken, &mut worker.woken());
                        woken.drain(..).for_each(|token| driver.drive(token));
                    }
                    (token, Some(helper)) if at % 2 == 1 => driver.hand_over(token, helper),
                    (token, _) => driver.drive(token),
                }
            }
            if count > 0 {
                dirty.get_or_insert(now);
            }
            if dirty.is_some_and(|since| now - since >= WIPE) {
                secret::wipe_stack();
                dirty = None;
            }
        }
    }

    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.workers.iter().for_each(Worker::interrupt);
    }

    /// Whether each worker has come round since the last call. Also wakes those that wait, so that the next
    /// call tells whether they do.
    pub fn have_all_turned(&self) -> bool {
        let mut have_all_turned = true;
        for worker in &self.workers {
            have_all_turned &= worker.has_turned.swap(false, Ordering::Relaxed);
            worker.interrupt();
        }
        have_all_turned
    }

    /// Gives a socket its place, with the worker that has the fewest, and waits for bytes to read.
    pub fn register(&self, place: &Place, watch: &mut Watch, socket: &Socket) -> io::Result<()> {
        let fewest = |number: &usize| self.workers[*number].connections.load(Ordering::Relaxed);
        let worker = (0..self.workers.len()).min_by_key(fewest).unwrap_or(0);
        place.worker.store(worker, Ordering::Relaxed);
        let (wanted, watched) = (Interest::Read, Interest::Read);
        let registered = Watch { wanted, watched, turns: 0, is_registered: true };
        self.watch(place, &registered, socket)?;
        self.workers[worker].connections.fetch_add(1, Ordering::Relaxed);
        *watch = registered;
        Ok(())
    }

    /// Gives up a place; the socket must be the same as ever.
    pub fn leave(&self, place: &Place, watch: &mut Watch, socket: &Socket) {
        let Watch { watched, is_registered: true, .. } = std::mem::take(watch) else { return };
        let worker = &self.workers[place.worker()];
        worker.connections.fetch_sub(1, Ordering::Relaxed);
        if watched != Interest::Wake {
            let _ = worker.epoll.delete(socket);
        }
    }

    /// Says what a connection waits for from now on.
    ///
    /// A socket leaves epoll only when it has become ready to a connection that does not care, which few
    /// do before they are woken. It must leave then: epoll reports errors whether one asks for them or not.
    pub fn set_interest(
        &self,
        place: &Place,
        watch: &mut Watch,
        socket: &Socket,
        wanted: Interest,
    ) -> io::Result<()> {
        let before = std::mem::replace(&mut watch.wanted, wanted);
        let can_wait = wanted == Interest::Wake && before != Interest::Wake;
        if wanted == watch.watched || can_wait {
            return Ok(());
        }
        let was_watched = std::mem::replace(&mut watch.watched, wanted) != Interest::Wake;
        let epoll = &self.workers[place.worker()].epoll;
        match (was_watched, wanted) {
            (true, Interest::Wake) => epoll.delete(socket),
            (true, _) => epoll.modify(socket, place.token, wanted.flags()),
            (false, _) => epoll.add(socket, place.token, wanted.flags()),
        }
    }

    pub fn wake(&self, place: &Place) {
        if place.is_woken.swap(true, Ordering::SeqCst) {
            return;
        }
        let worker = &self.workers[place.worker()];
        let mut woken = worker.woken();
        woken.push(place.token);
        // The worker empties the whole list after it has seen the first.
        if woken.len() == 1 {
            drop(woken);
            worker.interrupt();
        }
    }

    /// A turn ends: now and then the connection moves to the core that its packets arrive on, unless the
    /// worker there is behind.
    pub fn end_turn(&self, place: &Place, watch: &mut Watch, socket: &Socket) -> io::Result<()> {
        if watch.turns < LOOK || !self.follows {
            watch.turns = LOOK.min(watch.turns + 1);
            return Ok(());
        }
        watch.turns = 0;
        let Some(core) = incoming_core(socket) else { return Ok(()) };
        let is_there = |worker: &Worker| {
            worker.core.load(Ordering::Relaxed) == core
                && !worker.is_overloaded.load(Ordering::Relaxed)
        };
        if is_there(&self.workers[place.worker()]) {
            return Ok(());
        }
        match self.workers.iter().position(is_there) {
            Some(worker) => self.hand_over(place, watch, socket, worker),
            None => Ok(()),
        }
    }

    pub fn hand_over(
        &self,
        place: &Place,
        watch: &mut Watch,
        socket: &Socket,
        worker: usize,
    ) -> io::Result<()> {
        let before = place.worker();
        if worker == before || !watch.is_registered {
            return Ok(());
        }
        watch.turns = 0;
        place.worker.store(worker, Ordering::Relaxed);
        self.workers[before].connections.fetch_sub(1, Ordering::Relaxed);
        self.workers[worker].connections.fetch_add(1, Ordering::Relaxed);
        if watch.watched == Interest::Wake {
            return Ok(());
        }
        self.workers[before].epoll.delete(socket)?;
        self.watch(place, watch, socket)
    }

    fn watch(&self, place: &Place, watch: &Watch, socket: &Socket) -> io::Result<()> {
        self.workers[place.worker()].epoll.add(socket, place.token, watch.watched.flags())
    }

    fn sleeper(&self) -> Option<usize> {
        self.workers.iter().position(|worker| worker.is_asleep.load(Ordering::Relaxed))
    }
}

impl Worker {
    fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
            core: AtomicUsize::new(usize::MAX),
            woken: Mutex::default(),
            connections: AtomicUsize::new(0),
            is_asleep: AtomicBool::new(false),
            has_turned: AtomicBool::new(true),
            is_overloaded: AtomicBool::new(false),
        })
    }

    fn woken(&self) -> MutexGuard<'_, Vec<u64>> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interrupt(&self) {
        self.epoll.interrupt();
    }
}

#[cfg(test)]
mod tests;
