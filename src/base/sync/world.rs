//! A world of threads in which one runs at a time: a seed decides which, and how time passes.
//!
//! A thread hands over at each lock, wait, send, receive, spawn, sleep and look at the clock. When all wait,
//! the clock jumps to the next time that one waits for. The seed alone decides: neither addresses nor the real
//! time nor the order of a map may.

use std::{
    any::Any,
    cell::RefCell,
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, Thread},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Steps after which a world that has not ended never will.
const MAX_STEPS: u64 = 200_000;
/// Lines of a trace that a failure shows.
const SHOWN: usize = 4000;
/// The time of day at which each world begins, in seconds since 1970.
const DAWN: u64 = 1_750_000_000;
/// Real time for the threads of a world that has ended.
const PATIENCE: Duration = Duration::from_secs(60);
/// An object on which nobody waits.
const NOTHING: usize = 0;

/// What ends the threads of a world that is over.
struct Over;

/// A panic that a simulation wants; no other may happen.
struct Injected;

/// Random numbers that a seed determines (SplitMix64).
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x5DEE_CE66_D1CE_4E5B)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

pub struct World {
    state: Mutex<State>,
    /// A thread has ended.
    ended: Condvar,
    is_over: AtomicBool,
    begun: Instant,
}

struct State {
    random: Random,
    /// One in so many steps hands over though it need not.
    switches: u64,
    /// One in so many steps stalls its thread for a while.
    stalls: u64,
    /// Nanoseconds since the beginning.
    now: u64,
    threads: Vec<Member>,
    steps: u64,
    /// Of all steps so far: two runs of a seed must have the same.
    hash: u64,
    trace: Option<Vec<String>>,
    failure: Option<String>,
    alive: usize,
}

struct Member {
    name: String,
    status: Status,
    has_timed_out: bool,
    gate: Arc<Gate>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Ready,
    Blocked { on: usize, until: Option<u64>, what: &'static str },
    Ended,
}

/// Lets a thread through when it is its turn.
struct Gate {
    is_open: AtomicBool,
    thread: Thread,
}

impl Gate {
    fn open(&self) {
        self.is_open.store(true, Ordering::Release);
        self.thread.unpark();
    }

    fn pass(&self) {
        while !self.is_open.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

#[derive(Clone)]
struct Seat {
    world: Arc<World>,
    id: usize,
}

thread_local! {
    static SEAT: RefCell<Option<Seat>> = const { RefCell::new(None) };
}

fn seat() -> Option<Seat> {
    SEAT.try_with(|seat| seat.borrow().clone()).ok().flatten()
}

/// Whether the calling thread belongs to a simulation.
pub fn is_simulated() -> bool {
    seat().is_some()
}

/// The time on the clock of the simulation, if the calling thread belongs to one.
pub fn now() -> Option<Instant> {
    let seat = seat()?;
    seat.step("clock");
    Some(seat.world.begun + Duration::from_nanos(seat.world.lock().now))
}

/// The time of day there.
pub fn wall() -> Option<SystemTime> {
    let nanos = seat()?.world.lock().now;
    Some(UNIX_EPOCH + Duration::from_secs(DAWN) + Duration::from_nanos(nanos))
}

/// The time since the simulation began. No step.
pub fn elapsed() -> Duration {
    Duration::from_nanos(inside().world.lock().now)
}

/// A random number below `limit`. No step.
pub fn below(limit: u64) -> u64 {
    inside().world.lock().random.below(limit)
}

/// `true` in one of `of` cases.
pub fn one_in(of: u64) -> bool {
    below(of) == 0
}

/// Notes what happens, for the trace.
pub fn note(line: impl FnOnce() -> String) {
    let Seat { world, id } = inside();
    let mut state = world.lock();
    state.hash = state.hash.rotate_left(7) ^ 0x6E6F_7465;
    state.tell(id, line);
}

/// The simulation has found a fault: it ends.
pub fn fail(why: String) {
    if let Some(seat) = seat() {
        seat.world.fail(why);
    }
}

/// Fails with the message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            $crate::base::sync::world::fail(format!($($message)+));
        }
    };
}
pub(crate) use ensure;

/// Panics as a fault of the code would, without a report.
pub fn inject_panic() -> ! {
    resume_unwind(Box::new(Injected))
}

/// A panic was caught in a simulation: it is a fault unless it was injected.
pub fn caught(payload: &(dyn Any + Send)) {
    if payload.is::<Over>() || payload.is::<Injected>() {
        return;
    }
    fail(format!("a panic: {}", text_of(payload)));
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("of some kind")
}

fn inside() -> Seat {
    seat().expect("this runs in a simulation")
}

/// The calling thread may hand over to another.
pub(super) fn step(what: &'static str) -> bool {
    seat().inspect(|seat| seat.step(what)).is_some()
}

/// Waits until `on` is woken or the time is over, which it says. Not in a simulation: `None`.
pub(super) fn wait(on: usize, timeout: Option<Duration>, what: &'static str) -> Option<bool> {
    seat().map(|seat| seat.wait(on, timeout, what))
}

/// Lets those that wait on `on` go on, all or one.
pub(super) fn wake(on: usize, all: bool) {
    if let Some(seat) = seat() {
        seat.world.lock().wake(on, all);
    }
}

/// Whether the simulation is over: nothing may wait any more.
pub(super) fn is_over() -> bool {
    seat().is_some_and(|seat| seat.world.is_over())
}

pub(super) fn spawn(name: String, action: impl FnOnce() + Send + 'static) -> usize {
    let Seat { world, .. } = inside();
    let id = world.spawn(name, action);
    step("spawn");
    id
}

pub(super) fn has_ended(id: usize) -> bool {
    inside().world.lock().threads[id].status == Status::Ended
}

/// Waiting for the end of a thread is waiting on this.
pub(super) fn end_of(id: usize) -> usize {
    // No object is so low.
    id + 1
}

impl Seat {
    fn step(&self, what: &'static str) {
        let Self { world, id } = self;
        if world.is_over() {
            return;
        }
        let mut state = world.lock();
        state.pass(*id, what);
        if state.steps > MAX_STEPS {
            drop(state);
            return world.fail("it never ends".to_owned());
        }
        let (stalls, switches) = (state.stalls, state.switches);
        if state.random.below(stalls) == 0 {
            let span = [100_000, 2_000_000, 30_000_000][state.random.below(3) as usize];
            let pause = state.random.below(span);
            let until = Some(state.now + pause);
            state.threads[*id].status = Status::Blocked { on: NOTHING, until, what: "stall" };
        } else if state.random.below(switches) != 0 {
            return;
        }
        self.hand_over(state);
    }

    /// Waits until `on` is woken or the time is over, which it says.
    fn wait(&self, on: usize, timeout: Option<Duration>, what: &'static str) -> bool {
        let Self { world, id } = self;
        if world.is_over() {
            // There is nothing more to come.
            if thread::panicking() {
                return true;
            }
            resume_unwind(Box::new(Over));
        }
        let mut state = world.lock();
        state.pass(*id, what);
        let until = timeout.map(|timeout| {
            let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX / 2);
            state.now.saturating_add(nanos.max(1))
        });
        state.threads[*id].status = Status::Blocked { on, until, what };
        self.hand_over(state);
        if world.is_over() && !thread::panicking() {
            resume_unwind(Box::new(Over));
        }
        std::mem::take(&mut world.lock().threads[*id].has_timed_out)
    }

    /// Lets the next thread run, and waits for the next turn of this one.
    fn hand_over(&self, mut state: MutexGuard<'_, State>) {
        let Self { world, id } = self;
        match state.choose() {
            Some(next) if next == *id => {}
            Some(next) => {
                let (next, own) =
                    (state.threads[next].gate.clone(), state.threads[*id].gate.clone());
                drop(state);
                next.open();
                own.pass();
            }
            None => {
                let why = state.deadlock();
                drop(state);
                world.fail(why);
            }
        }
    }
}

impl State {
    /// Counts a step.
    fn pass(&mut self, id: usize, what: &'static str) {
        self.steps += 1;
        self.now += 1 + self.random.below(20_000);
        for part in [id as u64, self.now, what.len() as u64] {
            self.hash = (self.hash ^ part).wrapping_mul(0x0000_0100_0000_01B3);
        }
        self.tell(id, || what.to_owned());
    }

    fn tell(&mut self, id: usize, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let (now, name) = (self.now / 1000, &self.threads[id].name);
            let at = format!("{}.{:06}", now / 1_000_000, now % 1_000_000);
            trace.push(format!("{at:>12} {name:<16} {}", line()));
        }
    }

    fn wake(&mut self, on: usize, all: bool) {
        let waits =
            |thread: &Member| matches!(thread.status, Status::Blocked { on: at, .. } if at == on);
        let waiting: Vec<usize> =
            (0..self.threads.len()).filter(|id| waits(&self.threads[*id])).collect();
        let picked = match all {
            true => &waiting[..],
            false if waiting.is_empty() => return,
            // Any of them may be first.
            false => {
                let at = self.random.below(waiting.len() as u64) as usize;
                &waiting[at..=at]
            }
        };
        for id in picked {
            self.threads[*id].status = Status::Ready;
        }
    }

    /// The thread that runs next; `None` if all wait for ever.
    fn choose(&mut self) -> Option<usize> {
        loop {
            let (now, mut next) = (self.now, None::<u64>);
            let mut ready = [0_usize; 64];
            let mut count = 0;
            for (id, thread) in self.threads.iter_mut().enumerate() {
                if let Status::Blocked { until: Some(until), .. } = thread.status {
                    if until <= now {
                        (thread.status, thread.has_timed_out) = (Status::Ready, true);
                    } else {
                        next = Some(next.map_or(until, |next| next.min(until)));
                    }
                }
                if thread.status == Status::Ready && count < ready.len() {
                    ready[count] = id;
                    count += 1;
                }
            }
            if count > 0 {
                return Some(ready[self.random.below(count as u64) as usize]);
            }
            self.now = next?;
        }
    }

    fn deadlock(&self) -> String {
        let mut text = "all threads wait for ever:".to_owned();
        for thread in &self.threads {
            if let Status::Blocked { what, .. } = thread.status {
                let _ = write!(text, " {} ({what})", thread.name);
            }
        }
        text
    }
}

impl World {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    fn fail(&self, why: String) {
        let mut state = self.lock();
        if !self.is_over() && state.failure.is_none() {
            state.failure = Some(why);
        }
        self.end(state);
    }

    /// From here on all threads run as they like, to their ends.
    fn end(&self, state: MutexGuard<'_, State>) {
        self.is_over.store(true, Ordering::Release);
        // The gates of those that have ended may be others' by now.
        let left = state.threads.iter().filter(|thread| thread.status != Status::Ended);
        left.for_each(|thread| thread.gate.open());
    }

    fn spawn(self: &Arc<Self>, name: String, action: impl FnOnce() + Send + 'static) -> usize {
        let world = self.clone();
        let mut state = self.lock();
        let id = state.threads.len();
        state.alive += 1;
        let thread = pool::run(Box::new(move |gate: Arc<Gate>| {
            gate.pass();
            SEAT.set(Some(Seat { world: world.clone(), id }));
            if !world.is_over()
                && let Err(payload) = catch_unwind(AssertUnwindSafe(action))
            {
                caught(&*payload);
            }
            SEAT.set(None);
            world.leave(id);
        }));
        state.threads.push(Member {
            name,
            status: Status::Ready,
            has_timed_out: false,
            gate: thread,
        });
        id
    }

    /// A thread has ended: another one runs.
    fn leave(&self, id: usize) {
        let mut state = self.lock();
        state.threads[id].status = Status::Ended;
        state.wake(end_of(id), true);
        state.alive -= 1;
        // The first one is the simulation itself.
        if id == 0 || self.is_over() {
            self.end(state);
        } else {
            match state.choose() {
                Some(next) => state.threads[next].gate.open(),
                None => {
                    let why = state.deadlock();
                    drop(state);
                    self.fail(why);
                }
            }
        }
        self.ended.notify_all();
    }
}

/// A run of a simulation.
pub struct Run {
    pub failure: Option<String>,
    pub steps: u64,
    pub time: Duration,
    pub hash: u64,
    pub trace: Vec<String>,
}

/// Runs `scenario` in a world of its own. It ends with it.
pub fn simulate(seed: u64, is_traced: bool, scenario: impl FnOnce() + Send + 'static) -> Run {
    let mut random = Random::new(seed);
    let switches = [1, 2, 4, 16][random.below(4) as usize];
    let stalls = [60, 200, 1000][random.below(3) as usize];
    let world = Arc::new(World {
        state: Mutex::new(State {
            random,
            switches,
            stalls,
            now: 0,
            threads: Vec::new(),
            steps: 0,
            hash: 0xCBF2_9CE4_8422_2325,
            trace: is_traced.then(Vec::new),
            failure: None,
            alive: 0,
        }),
        ended: Condvar::new(),
        is_over: AtomicBool::new(false),
        begun: Instant::now(),
    });
    world.spawn("simulation".to_owned(), scenario);
    let mut state = world.lock();
    state.threads[0].gate.open();
    let until = Instant::now() + PATIENCE;
    while state.alive > 0 {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let stuck: Vec<_> = (state.threads.iter())
                .filter(|thread| thread.status != Status::Ended)
                .map(|thread| thread.name.clone())
                .collect();
            state.failure.get_or_insert(format!("threads do not end: {}", stuck.join(", ")));
            break;
        }
        let waited = world.ended.wait_timeout(state, left);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
    let mut trace = state.trace.take().unwrap_or_default();
    trace.drain(..trace.len().saturating_sub(SHOWN));
    Run {
        failure: state.failure.take(),
        steps: state.steps,
        time: Duration::from_nanos(state.now),
        hash: state.hash,
        trace,
    }
}

/// Threads of the system, each for one thread of a simulation after the other.
mod pool {
    use super::*;

    type Job = Box<dyn FnOnce(Arc<Gate>) + Send>;

    static IDLE: Mutex<Vec<(mpsc::Sender<Job>, Arc<Gate>)>> = Mutex::new(Vec::new());

    fn idle() -> MutexGuard<'static, Vec<(mpsc::Sender<Job>, Arc<Gate>)>> {
        IDLE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `job`, which gets its gate, and returns that.
    pub fn run(job: Job) -> Arc<Gate> {
        let (jobs, gate) = idle().pop().unwrap_or_else(start);
        gate.is_open.store(false, Ordering::Release);
        jobs.send(job).expect("a thread of the pool never ends");
        gate
    }

    fn start() -> (mpsc::Sender<Job>, Arc<Gate>) {
        let (jobs, queue) = mpsc::channel::<Job>();
        let own = jobs.clone();
        let (say, heard) = mpsc::channel();
        thread::Builder::new()
            .name("simulated".to_owned())
            .stack_size(4 << 20)
            .spawn(move || {
                let gate =
                    Arc::new(Gate { is_open: AtomicBool::new(false), thread: thread::current() });
                say.send(gate.clone()).expect("the thread that starts this one listens");
                for job in queue {
                    job(gate.clone());
                    idle().push((own.clone(), gate.clone()));
                }
            })
            .expect("the system has threads");
        (jobs, heard.recv().expect("the thread has started"))
    }
}
