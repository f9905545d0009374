//! Audit and error events: one line each, to stdout, stderr and subscribers.
//!
//! A request leaves its event in a bounded inbox and goes on. The log thread formats it once and hands
//! the line to the threads that write stdout and stderr and to the subscribers; nothing in between waits
//! for a reader. Where audit is required, the answer is held until its line is written.

mod event;
mod hub;
mod inbox;
mod limiter;
mod outbox;
mod output;
mod streams;

use std::{
    io,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

#[cfg(test)]
pub use self::output::Sink;
#[cfg(not(test))]
use self::output::Sink;
pub use self::{
    event::AuditEvent,
    limiter::{Cause, MAX_LINE, cut},
    streams::{Stream, Subscriber, Subscription},
};
use self::{hub::Hub, inbox::Message, limiter::Limiter};

use crate::base::{
    clock,
    sync::{
        self, Mutex,
        thread::{self, JoinHandle},
    },
};

const LOSS_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditMode {
    /// They go to subscribers only.
    Off,
    /// Only those of keys that were created or deleted go to stdout too.
    Changes,
    /// They go to stdout as long as it is read.
    On,
    /// No key leaves before stdout has its event.
    Required,
}

impl AuditMode {
    /// Whether an event goes to stdout. `is_change` if it says that a key was created or deleted.
    fn wants(self, is_change: bool) -> bool {
        match self {
            Self::Off => false,
            Self::Changes => is_change,
            Self::On | Self::Required => true,
        }
    }
}

/// The settings of the log, which can change at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub audit: AuditMode,
    /// Whether errors go to stderr.
    pub error: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { audit: AuditMode::Off, error: true }
    }
}

pub struct Log {
    hub: Arc<Hub>,
    /// The log thread and the writers, until they are waited for.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Lost audit lines that were reported, and when more may be.
    reported: Mutex<(u64, Option<Instant>)>,
    limiter: Limiter,
}

impl Log {
    /// Starts the threads of the log. Error events are plain text lines if `error_is_plain` (stderr
    /// is a terminal) and JSON lines otherwise.
    pub fn start(settings: Settings, error_is_plain: bool) -> io::Result<Self> {
        Self::start_on(settings, error_is_plain, io::stdout(), io::stderr())
    }

    /// The same with other places for the lines.
    pub fn start_on(
        settings: Settings,
        error_is_plain: bool,
        stdout: impl Sink + Send + 'static,
        stderr: impl Sink + Send + 'static,
    ) -> io::Result<Self> {
        let settings = ArcSwap::from_pointee(settings);
        let hub = Arc::new(Hub { settings, error_is_plain, ..Hub::default() });
        let start = |name: &str, run: Box<dyn FnOnce(&Hub) + Send>| {
            let hub = hub.clone();
            sync::start(name, 128 * 1024, Box::new(move || run(&hub)))
        };
        let write = move |hub: &Hub| hub.stdout.run(&stdout, |effects| hub.apply(effects));
        let threads = vec![
            start("log", Box::new(hub::run))?,
            start("log-stdout", Box::new(write))?,
            start("log-stderr", Box::new(move |hub| hub.stderr.run(&stderr, |_| {})))?,
        ];
        Ok(Self {
            hub,
            threads: Mutex::new(threads),
            reported: Mutex::default(),
            limiter: Limiter::default(),
        })
    }

    /// A log that is read by [`Log::take_audit_lines`] alone.
    #[cfg(any(test, fuzzing))]
    pub fn without_threads(settings: Settings) -> Self {
        let hub = Hub { settings: ArcSwap::from_pointee(settings), ..Hub::default() };
        let hub = Arc::new(hub);
        Self {
            hub,
            threads: Mutex::default(),
            reported: Mutex::default(),
            limiter: Limiter::default(),
        }
    }

    /// The lines of the audit events so far. Ends the log streams that have begun.
    #[cfg(any(test, fuzzing))]
    pub fn take_audit_lines(&self) -> Vec<String> {
        let (mut batch, mut clock) = (std::collections::VecDeque::new(), event::Clock::local());
        self.hub.inbox.take(&mut batch, None, Some(clock::now()));
        let lines = batch.into_iter().filter_map(|message| match message {
            Message::Audit(event) => Some(event::Line::audit(&event, &mut clock).text),
            Message::Subscribe(_, subscriber) => {
                subscriber.end(true);
                None
            }
            _ => None,
        });
        lines.collect()
    }

    pub fn configure(&self, settings: Settings) {
        self.hub.settings.store(Arc::new(settings));
    }

    /// Whether an audit event goes anywhere. `is_change` if it says that a key was created or deleted.
    pub fn audits(&self, is_change: bool) -> bool {
        self.hub.settings.load().audit.wants(is_change) || self.hub.counts.has(Stream::Audit)
    }

    /// Whether answers with keys must be held ([`Log::hold`]).
    pub fn requires_audit(&self) -> bool {
        self.hub.settings.load().audit == AuditMode::Required
    }

    /// Whether answers that must be held are refused at the moment, since stdout takes no lines.
    pub fn refuses(&self) -> bool {
        self.requires_audit() && self.hub.stdout.with(|outbox| outbox.is_refusing())
    }

    pub fn audit(&self, event: AuditEvent) {
        self.hub.audit(event);
    }

    /// Logs a request whose answer may leave only once its line is written. Within a second, a thread of
    /// the log calls `decide`: with `false` if the answer is refused, which the line then says.
    ///
    /// # Errors
    /// Gives the event back if there is no room; `decide` is not called then.
    pub fn hold(
        &self,
        event: AuditEvent,
        decide: impl FnOnce(bool) + Send + 'static,
    ) -> Result<(), AuditEvent> {
        let message = Message::Hold(event, clock::now(), Box::new(decide));
        match self.hub.inbox.push(message) {
            Err(Message::Hold(event, ..)) => Err(event),
            _ => Ok(()),
        }
    }

    /// Logs an error that clients cannot cause at will.
    pub fn error(&self, message: &str) {
        if self.wants_errors() {
            self.hub.error(message.to_owned());
        }
    }

    /// Logs an error that clients can cause. Beyond the allowance of its cause, it is only counted.
    pub fn error_from_outside(&self, cause: Cause, message: impl FnOnce() -> String) {
        if self.wants_errors() && self.limiter.admits(cause) {
            self.hub.error(cut(message(), MAX_LINE));
        }
    }

    /// Logs how many errors were left out, and lets the next ones be logged. Called once a second.
    pub fn report_left_out(&self) {
        self.limiter.refill().for_each(|line| self.error(&line));
    }

    fn wants_errors(&self) -> bool {
        self.hub.settings.load().error || self.hub.counts.has(Stream::Error)
    }

    /// Adds a subscriber. `event` is its own request, the first event it sees if it follows those.
    pub fn subscribe(
        &self,
        stream: Stream,
        subscriber: Box<dyn Subscriber>,
        event: AuditEvent,
    ) -> Subscription {
        let subscription = Subscription::new(stream, &self.hub.counts);
        self.hub.inbox.push_pair(Message::Subscribe(stream, subscriber), Message::Audit(event));
        subscription
    }

    /// How much waits for stdout, in bytes.
    #[cfg(test)]
    pub fn unwritten(&self) -> usize {
        self.hub.stdout.with(|outbox| outbox.unwritten())
    }

    pub fn end_streams(&self) {
        let _ = self.hub.inbox.push(Message::EndStreams);
    }

    /// Audit lines that were lost on the way to stdout or to subscribers.
    pub fn audit_lost(&self) -> u64 {
        self.hub.lost.load(Ordering::Relaxed)
    }

    /// Events of a stream that were sent, each counted once for each subscriber.
    pub fn events(&self, stream: Stream) -> u64 {
        self.hub.counts.events[stream as usize].load(Ordering::Relaxed)
    }

    pub fn subscribers(&self) -> usize {
        self.hub.counts.subscribers.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub fn subscribers_dropped(&self) -> u64 {
        self.hub.counts.dropped.load(Ordering::Relaxed)
    }

    /// Logs an error if audit lines were lost, at most once a minute.
    pub fn report_lost(&self, now: Instant) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, next) = *reported;
        let lost = self.audit_lost();
        if lost > known && next.is_none_or(|next| now >= next) {
            *reported = (lost, Some(now + LOSS_INTERVAL));
            self.error(&format!(
                "{} audit lines are lost: stdout is read too slowly, or not at all",
                lost - known
            ));
        }
    }

    /// Writes what is queued, for at most `patience`, and ends the threads.
    pub fn finish(&self, patience: Duration) {
        let until = clock::now() + patience;
        self.report_left_out();
        self.report_lost(until + LOSS_INTERVAL);
        self.hub.inbox.close();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            while !thread.is_finished() && clock::now() < until {
                thread::sleep(Duration::from_millis(2));
            }
            // A writer that is stuck ends with the process.
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}
