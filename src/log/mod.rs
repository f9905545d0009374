//! Audit and error events: one line each, to stdout and stderr and to whoever subscribes.
//!
//! A request leaves its event in a bounded inbox and goes on. The log thread formats it once and
//! hands the line to the threads that write stdout and stderr and feed subscribers; nothing in
//! between waits for a reader. Where audit is required, the answer is held until its line is written.

mod event;
mod hub;
mod inbox;
mod limiter;
mod outbox;
mod output;
mod streams;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

pub use self::{
    event::AuditEvent,
    limiter::{Cause, MAX_LINE, cut},
    streams::{Stream, Subscriber, Subscription},
};
use self::{
    hub::{Shared, Task},
    limiter::Limiter,
};

/// The error log hears of lost audit lines at most so often.
const LOSS_INTERVAL: Duration = Duration::from_secs(60);

/// What happens to audit events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditMode {
    /// They go to subscribers only.
    Off,
    /// They go to stdout as long as it is read.
    On,
    /// No key leaves before stdout has its event.
    Required,
}

/// What is logged; can change at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether requests go to stdout.
    pub audit: AuditMode,
    /// Whether errors go to stderr.
    pub error: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { audit: AuditMode::Off, error: true }
    }
}

/// [`Settings`] as requests see them, without a lock.
#[derive(Default)]
struct Switches {
    audit: AtomicU8,
    error: AtomicBool,
}

impl Switches {
    fn set(&self, settings: Settings) {
        self.audit.store(settings.audit as u8, Ordering::Relaxed);
        self.error.store(settings.error, Ordering::Relaxed);
    }

    fn audit(&self) -> AuditMode {
        const ON: u8 = AuditMode::On as u8;
        const REQUIRED: u8 = AuditMode::Required as u8;
        match self.audit.load(Ordering::Relaxed) {
            REQUIRED => AuditMode::Required,
            ON => AuditMode::On,
            _ => AuditMode::Off,
        }
    }

    fn error(&self) -> bool {
        self.error.load(Ordering::Relaxed)
    }
}

/// Where audit and error events go.
pub struct Log {
    shared: Arc<Shared>,
    /// The log thread and the writers, until they are waited for.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Lost audit lines that the error log knows of, and when it may hear of more.
    reported: Mutex<(u64, Option<Instant>)>,
    limiter: Limiter,
}

impl Log {
    /// Starts the threads of the log. Error events are plain text lines if `error_is_plain` (stderr
    /// is a terminal) and JSON lines otherwise.
    ///
    /// # Errors
    /// If a thread can't be started.
    pub fn start(settings: Settings, error_is_plain: bool) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.switches.set(settings);
        shared.error_is_plain.store(error_is_plain, Ordering::Relaxed);
        let start = |name: &str, run: fn(&Shared)| {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name(name.to_owned())
                .stack_size(128 * 1024)
                .spawn(move || run(&shared))
        };
        let threads = vec![
            start("log", hub::run)?,
            start("log-stdout", |shared| {
                let apply = |effects| shared.apply(effects);
                shared.stdout.run(io::stdout(), apply);
            })?,
            start("log-stderr", |shared| {
                shared.stderr.run(io::stderr(), |_| {});
            })?,
            start("log-streams", |shared| streams::run(&shared.streams))?,
        ];
        Ok(Self {
            shared,
            threads: Mutex::new(threads),
            reported: Mutex::default(),
            limiter: Limiter::default(),
        })
    }

    /// Changes what is logged, from the next event on.
    pub fn configure(&self, settings: Settings) {
        self.shared.switches.set(settings);
    }

    /// Whether anybody wants audit events.
    pub fn audits(&self) -> bool {
        self.shared.switches.audit() != AuditMode::Off || self.shared.counts.has(Stream::Audit)
    }

    /// Whether answers with keys must be held ([`Log::hold`]).
    pub fn requires_audit(&self) -> bool {
        self.shared.switches.audit() == AuditMode::Required
    }

    /// Whether answers that must be held are refused, since lines can't be written at the moment.
    pub fn refuses(&self) -> bool {
        self.requires_audit() && self.shared.stdout.with(|outbox| outbox.is_refusing())
    }

    /// Logs an answered request.
    pub fn audit(&self, event: AuditEvent) {
        self.shared.audit(event);
    }

    /// Logs a request whose answer may only leave when the line is written. `decide` hears, from a
    /// thread of the log, whether that is so (`true`), or that the answer is refused, which the line
    /// says then: at the latest a second from now.
    ///
    /// # Errors
    /// Gives the event back if there is no room; `decide` is not called then.
    pub fn hold(
        &self,
        event: AuditEvent,
        decide: impl FnOnce(bool) + Send + 'static,
    ) -> Result<(), AuditEvent> {
        let message = Task::Hold(event, Instant::now(), Box::new(decide));
        match self.shared.inbox.push(message) {
            Err(Task::Hold(event, ..)) => Err(event),
            _ => Ok(()),
        }
    }

    /// Logs an error that nobody outside the server can cause again and again.
    pub fn error(&self, message: &str) {
        if self.wants_errors() {
            self.shared.error(message.to_owned());
        }
    }

    /// Logs an error that others can cause, unless too many of them have the same cause in this second:
    /// then it is counted.
    pub fn error_from_outside(&self, cause: Cause, message: impl FnOnce() -> String) {
        if self.wants_errors() && self.limiter.admits(cause) {
            self.shared.error(cut(message(), MAX_LINE));
        }
    }

    /// Logs how many errors were left out, and lets the next ones be logged. Called once a second.
    pub fn report_left_out(&self) {
        self.limiter.refill().for_each(|line| self.error(&line));
    }

    fn wants_errors(&self) -> bool {
        self.shared.switches.error() || self.shared.counts.has(Stream::Error)
    }

    /// Adds a subscriber. `event` is its own request, the first event it sees if it follows those.
    pub fn subscribe(
        &self,
        stream: Stream,
        subscriber: Box<dyn Subscriber>,
        event: AuditEvent,
    ) -> Subscription {
        let subscription = Subscription::new(stream, &self.shared.counts);
        self.shared.inbox.push_pair(Task::Subscribe(stream, subscriber), Task::Audit(event));
        subscription
    }

    /// Lets subscribers go after the events up to now.
    pub fn end_streams(&self) {
        let _ = self.shared.inbox.push(Task::EndStreams);
    }

    /// Audit lines that did not get to stdout, or to the subscribers.
    pub fn audit_lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Events of a stream that subscribers were sent, each counted for each of them.
    pub fn events(&self, stream: Stream) -> u64 {
        self.shared.counts.events[stream as usize].load(Ordering::Relaxed)
    }

    /// Subscribers at the moment.
    pub fn subscribers(&self) -> usize {
        self.shared.counts.subscribers.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Subscribers that were sent away because they did not keep up.
    pub fn subscribers_dropped(&self) -> u64 {
        self.shared.counts.dropped.load(Ordering::Relaxed)
    }

    /// Logs an error if audit lines were lost, at most once a minute.
    pub fn report_lost(&self, now: Instant) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, next) = *reported;
        let lost = self.audit_lost();
        if lost > known && next.is_none_or(|next| now >= next) {
            *reported = (lost, Some(now + LOSS_INTERVAL));
            self.error(&format!(
                "{} audit lines are lost: whoever reads stdout does not keep up or has gone",
                lost - known
            ));
        }
    }

    /// Writes what is queued, for at most `patience`, and ends the threads.
    pub fn finish(&self, patience: Duration) {
        let until = Instant::now() + patience;
        self.report_left_out();
        self.report_lost(until + LOSS_INTERVAL);
        self.shared.inbox.close();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
            // A writer that is stuck ends with the process.
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}
