//! Sockets that are ready, brought to the worker that owns them.
//!
//! Each worker has an epoll of its own, level-triggered: a socket stays in it and nothing is re-armed.
//! Where a core has exactly one worker, a socket follows its packets to the worker of the core that they
//! arrive on, since a request that stays on one core costs half. Knows tokens and sockets only; the
//! [`Driver`] knows whose they are.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    net::sockopt,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// Sockets that a worker takes off its epoll at a time.
const EVENTS: usize = 64;
/// Turns of a socket after which its worker looks where its packets arrive.
const LOOK: u8 = 16;
/// A worker that has had no rest for this time hands ready sockets to one that sleeps. Sooner, moving
/// them would cost more than it brings.
const OVERLOAD: Duration = Duration::from_millis(5);
/// Waiting for less than this time is no rest.
const REST: Duration = Duration::from_micros(5);
/// The token of the eventfd of each worker; no socket has it.
const WAKE: u64 = u64::MAX;

/// What takes turns when sockets are ready.
pub(crate) trait Driver {
    /// Gives the connection with this token its turn: its socket is ready, or it was woken.
    fn drive(&self, token: u64);

    /// Moves the connection with this token to another worker, by [`Poller::hand_over`].
    fn hand_over(&self, token: u64, worker: usize);
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// To be woken.
    Wake,
    /// Bytes to read.
    Read,
    /// Room to write.
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

/// A connection's place with a worker.
#[derive(Debug)]
pub(crate) struct Place {
    token: u64,
    worker: usize,
    wanted: Interest,
    /// What epoll watches for; with [`Interest::Wake`] the socket is not in it.
    watched: Interest,
    turns: u8,
    /// Its token is on the worker's list.
    is_woken: bool,
}

/// The epolls of all workers.
pub(crate) struct Poller {
    workers: Vec<Worker>,
    /// The worker of each core; empty if workers are not bound to cores.
    cores: HashMap<usize, usize>,
    is_stopping: AtomicBool,
}

/// What others see of a worker. Workers write to theirs all the time, so none shares a cache line.
#[repr(align(128))]
struct Worker {
    epoll: OwnedFd,
    core: Option<usize>,
    wakeup: OwnedFd,
    /// Connections to drive though their sockets may not be ready.
    woken: Mutex<Vec<u64>>,
    /// How many connections have their place here.
    connections: AtomicUsize,
    load: AtomicU8,
}

/// How much a worker has to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    Asleep,
    Awake,
    /// It has had no rest for [`OVERLOAD`].
    Overloaded,
}

impl Poller {
    /// An epoll for each of `workers`. They are bound to cores if this process may use exactly as many.
    ///
    /// # Errors
    /// If the system refuses descriptors.
    pub(crate) fn new(workers: usize) -> io::Result<Self> {
        let cores = usable_cores().filter(|cores| cores.len() == workers).unwrap_or_default();
        let workers = (0..workers).map(|number| Worker::new(cores.get(number).copied()));
        Ok(Self {
            workers: workers.collect::<io::Result<_>>()?,
            cores: cores.into_iter().enumerate().map(|(number, core)| (core, number)).collect(),
            is_stopping: AtomicBool::new(false),
        })
    }

    /// Does the work of one worker until [`Poller::stop`].
    ///
    /// # Errors
    /// If the system refuses to wait for events.
    pub(crate) fn run(&self, number: usize, driver: &impl Driver) -> io::Result<()> {
        let worker = &self.workers[number];
        worker.bind();
        let none =
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [none; EVENTS];
        let mut rested = Instant::now();
        let mut woken = Vec::new();
        loop {
            let asked = Instant::now();
            worker.set_load(Load::Asleep);
            let count = match epoll::wait(&worker.epoll, &mut events[..], None) {
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => 0,
                Err(e) => return Err(e.into()),
            };
            let now = Instant::now();
            if now - asked >= REST {
                rested = now;
            }
            let is_overloaded = now - rested >= OVERLOAD;
            worker.set_load(if is_overloaded { Load::Overloaded } else { Load::Awake });
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
        }
    }

    /// Ends all workers after what they are busy with.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.workers.iter().for_each(Worker::interrupt);
    }

    /// Gives a socket its place, with the worker that has the fewest, and waits for bytes to read.
    ///
    /// # Errors
    /// If the system refuses to watch it.
    pub(crate) fn register(&self, token: u64, socket: impl AsFd) -> io::Result<Place> {
        let fewest = |number: &usize| self.workers[*number].connections.load(Ordering::Relaxed);
        let worker = (0..self.workers.len()).min_by_key(fewest).unwrap_or(0);
        let (wanted, watched) = (Interest::Read, Interest::Read);
        let place = Place { token, worker, wanted, watched, turns: 0, is_woken: false };
        self.watch(&place, socket)?;
        self.workers[worker].connections.fetch_add(1, Ordering::Relaxed);
        Ok(place)
    }

    /// Gives up a place; the socket must be the same as ever.
    pub(crate) fn leave(&self, place: Place, socket: impl AsFd) {
        let worker = &self.workers[place.worker];
        worker.connections.fetch_sub(1, Ordering::Relaxed);
        if place.watched != Interest::Wake {
            let _ = epoll::delete(&worker.epoll, socket);
        }
    }

    /// Says what a connection waits for from now on.
    ///
    /// A socket leaves epoll only when it has become ready to a connection that does not care, which few
    /// do before they are woken. It must leave then: epoll reports errors whether one asks for them or not.
    ///
    /// # Errors
    /// If the system refuses to watch it.
    pub(crate) fn set_interest(
        &self,
        place: &mut Place,
        socket: impl AsFd,
        wanted: Interest,
    ) -> io::Result<()> {
        let before = std::mem::replace(&mut place.wanted, wanted);
        let can_wait = wanted == Interest::Wake && before != Interest::Wake;
        if wanted == place.watched || can_wait {
            return Ok(());
        }
        let was_watched = std::mem::replace(&mut place.watched, wanted) != Interest::Wake;
        let epoll = &self.workers[place.worker].epoll;
        let token = epoll::EventData::new_u64(place.token);
        Ok(match (was_watched, wanted) {
            (true, Interest::Wake) => epoll::delete(epoll, socket),
            (true, _) => epoll::modify(epoll, socket, token, wanted.flags()),
            (false, _) => epoll::add(epoll, socket, token, wanted.flags()),
        }?)
    }

    /// Has the worker give the connection a turn, whatever its socket does.
    pub(crate) fn wake(&self, place: &mut Place) {
        if std::mem::replace(&mut place.is_woken, true) {
            return;
        }
        let worker = &self.workers[place.worker];
        let mut woken = worker.woken();
        woken.push(place.token);
        // The worker empties the whole list after it has seen the first.
        if woken.len() == 1 {
            drop(woken);
            worker.interrupt();
        }
    }

    /// A turn begins: from here on, waking means another.
    pub(crate) fn begin_turn(&self, place: &mut Place) {
        place.is_woken = false;
    }

    /// A turn ends: now and then the connection moves to the core that its packets arrive on, unless the
    /// worker there is behind.
    ///
    /// # Errors
    /// If the system refuses to watch it there.
    pub(crate) fn end_turn(&self, place: &mut Place, socket: impl AsFd) -> io::Result<()> {
        if place.turns < LOOK || self.cores.is_empty() {
            place.turns = LOOK.min(place.turns + 1);
            return Ok(());
        }
        place.turns = 0;
        let core = sockopt::socket_incoming_cpu(&socket).ok();
        let worker = core.and_then(|core| self.cores.get(&(core as usize)));
        match worker {
            Some(&worker) if self.workers[worker].load() != Load::Overloaded => {
                self.hand_over(place, socket, worker)
            }
            _ => Ok(()),
        }
    }

    /// Moves a connection to another worker.
    ///
    /// # Errors
    /// If the system refuses to watch it there.
    pub(crate) fn hand_over(
        &self,
        place: &mut Place,
        socket: impl AsFd,
        worker: usize,
    ) -> io::Result<()> {
        if worker == place.worker {
            return Ok(());
        }
        place.turns = 0;
        let before = &self.workers[std::mem::replace(&mut place.worker, worker)];
        before.connections.fetch_sub(1, Ordering::Relaxed);
        self.workers[worker].connections.fetch_add(1, Ordering::Relaxed);
        if place.watched == Interest::Wake {
            return Ok(());
        }
        epoll::delete(&before.epoll, &socket)?;
        self.watch(place, socket)
    }

    /// Level-triggered: what is there to read already is reported, too.
    fn watch(&self, place: &Place, socket: impl AsFd) -> io::Result<()> {
        let token = epoll::EventData::new_u64(place.token);
        Ok(epoll::add(&self.workers[place.worker].epoll, socket, token, place.watched.flags())?)
    }

    fn sleeper(&self) -> Option<usize> {
        self.workers.iter().position(|worker| worker.load() == Load::Asleep)
    }
}

impl Worker {
    fn new(core: Option<usize>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wakeup = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edge-triggered, so that nobody has to read it.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &wakeup, epoll::EventData::new_u64(WAKE), flags)?;
        Ok(Self {
            epoll,
            core,
            wakeup,
            woken: Mutex::default(),
            connections: AtomicUsize::new(0),
            load: AtomicU8::new(Load::Awake as u8),
        })
    }

    /// Binds this thread to the worker's core. Where that is refused, or the core goes away, the thread
    /// runs anywhere, and does all the same.
    fn bind(&self) {
        if let Some(core) = self.core {
            let mut cores = CpuSet::new();
            cores.set(core);
            let _ = sched_setaffinity(None, &cores);
        }
    }

    fn woken(&self) -> std::sync::MutexGuard<'_, Vec<u64>> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interrupt(&self) {
        let _ = rustix::io::write(&self.wakeup, &1_u64.to_ne_bytes());
    }

    fn set_load(&self, load: Load) {
        self.load.store(load as u8, Ordering::Relaxed);
    }

    fn load(&self) -> Load {
        let load = self.load.load(Ordering::Relaxed);
        let all = [Load::Asleep, Load::Awake, Load::Overloaded];
        all.into_iter().find(|&known| known as u8 == load).unwrap_or(Load::Awake)
    }
}

/// The cores that this process may use, if the system says.
fn usable_cores() -> Option<Vec<usize>> {
    let set = sched_getaffinity(None).ok()?;
    Some((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

#[cfg(test)]
mod tests;
