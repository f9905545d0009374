//! The log thread: takes events out of the inbox, formats each once, and hands the line to the
//! threads that write stdout and stderr and feed the subscribers. It never waits for any of them.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;

use super::{
    AuditMode, Settings,
    event::{AuditEvent, Clock, Line},
    inbox::{Inbox, Message},
    outbox::{Decide, Effects, Hold},
    output::Output,
    streams::{Counts, Feed, Stream, Subscriber},
};
use crate::base::panics::survive;

/// Audit events that may wait for the log thread, in bytes.
const MAX_WAITING: usize = 4 << 20;
/// Room for errors when there is none for audit events, in bytes on top.
const RESERVED: usize = 1 << 20;
/// An event takes about so many bytes besides its text.
const OVERHEAD: usize = 128;
/// Events may wait for so long to be handled together.
const NAP: Duration = Duration::from_millis(10);

pub enum Task {
    Audit(AuditEvent),
    /// Log a request whose answer waits for the line to be written, since then.
    Hold(AuditEvent, Instant, Decide),
    Error(SystemTime, String),
    /// Show an audit line to subscribers; stdout is done with it.
    Publish(String),
    Subscribe(Stream, Box<dyn Subscriber>),
    /// End the streams after the events so far.
    EndStreams,
}

impl Message for Task {
    fn size(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Audit(event) | Self::Hold(event, ..) => event.path.len(),
                Self::Error(_, text) | Self::Publish(text) => text.len(),
                Self::Subscribe(..) | Self::EndStreams => 0,
            }
    }

    fn limit(&self) -> usize {
        match self {
            Self::Audit(_) | Self::Hold(..) => MAX_WAITING,
            Self::Error(..) => MAX_WAITING + RESERVED,
            // Bounded by requests that wait, and by connections.
            Self::Publish(_) | Self::Subscribe(..) | Self::EndStreams => usize::MAX,
        }
    }

    fn is_urgent(&self) -> bool {
        !matches!(self, Self::Audit(_) | Self::Publish(_))
    }
}

#[derive(Default)]
pub struct Shared {
    pub inbox: Inbox<Task>,
    pub streams: Inbox<Feed>,
    pub stdout: Output,
    pub stderr: Output,
    pub settings: ArcSwap<Settings>,
    pub counts: Arc<Counts>,
    /// Audit lines that were lost on the way to stdout or to subscribers.
    pub lost: AtomicU64,
    /// For each stream, whether subscribers miss an event.
    pub has_gap: [AtomicBool; 2],
    /// Error lines are plain text, for people.
    pub error_is_plain: bool,
}

impl Shared {
    pub fn audit(&self, event: AuditEvent) {
        if self.inbox.push(Task::Audit(event)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.has_gap[Stream::Audit as usize].store(true, Ordering::Relaxed);
        }
    }

    pub fn error(&self, message: String) {
        let task = Task::Error(SystemTime::now(), message);
        if self.inbox.push(task).is_err() {
            self.has_gap[Stream::Error as usize].store(true, Ordering::Relaxed);
        }
    }

    pub fn apply(&self, effects: Effects) {
        for decision in effects.decisions {
            survive(|| (decision.decide)(decision.is_accepted));
            if self.counts.has(Stream::Audit) {
                let _ = self.inbox.push(Task::Publish(decision.line));
            }
        }
        self.lost.fetch_add(effects.lost, Ordering::Relaxed);
        if let Some(report) = effects.report {
            self.error(report);
        }
    }
}

struct Hub<'a> {
    shared: &'a Shared,
    clock: Clock,
    now: Instant,
    /// Lines for stdout, some with answers that wait, until the end of the batch.
    stdout: Vec<(Line, Option<Hold>)>,
    /// Lines for subscribers, until then.
    audit: String,
    error: String,
}

/// Runs until the inbox is closed and empty.
pub fn run(shared: &Shared) {
    let mut hub = Hub {
        shared,
        clock: Clock::local(),
        now: Instant::now(),
        stdout: Vec::new(),
        audit: String::new(),
        error: String::new(),
    };
    let mut batch = VecDeque::new();
    let mut nap = None;
    loop {
        let expiry = shared.stdout.with(|outbox| outbox.next_expiry());
        if !shared.inbox.take(&mut batch, nap, expiry) {
            break;
        }
        hub.now = Instant::now();
        for task in batch.drain(..) {
            survive(|| hub.handle(task));
        }
        survive(|| hub.write());
        survive(|| hub.feed());
        nap = Some(hub.now + NAP);
    }
    shared.stdout.close();
    shared.stderr.close();
    shared.streams.close();
}

impl Hub<'_> {
    fn handle(&mut self, task: Task) {
        match task {
            Task::Audit(event) => self.audit(&event),
            Task::Hold(event, since, decide) => {
                let line = Line::audit(&event, &mut self.clock);
                let hold = Hold::new(since, event.took, decide);
                self.stdout.push((line, Some(hold)));
            }
            Task::Error(time, text) => self.error(time, &text),
            Task::Publish(line) => self.audit.push_str(&line),
            Task::Subscribe(stream, subscriber) => {
                self.feed();
                let _ = self.shared.streams.push(Feed::Subscribe(stream, subscriber));
            }
            Task::EndStreams => {
                self.feed();
                let _ = self.shared.streams.push(Feed::End);
            }
        }
    }

    fn write(&mut self) {
        let mut effects = Effects::default();
        let now = self.now;
        self.shared.stdout.with(|outbox| {
            for (line, hold) in self.stdout.drain(..) {
                match hold {
                    Some(hold) => outbox.hold(line, hold, now, &mut effects),
                    None => outbox.push(line, &mut effects),
                }
            }
            outbox.expire(now, &mut effects);
        });
        self.shared.apply(effects);
    }

    fn feed(&mut self) {
        let shared = self.shared;
        for (stream, lines) in [(Stream::Audit, &mut self.audit), (Stream::Error, &mut self.error)]
        {
            let mut has_gap = shared.has_gap[stream as usize].swap(false, Ordering::Relaxed);
            let lines = std::mem::take(lines);
            if !lines.is_empty() {
                has_gap |= shared.streams.push(Feed::Lines(stream, lines)).is_err();
            }
            if has_gap {
                let _ = shared.streams.push(Feed::Gap(stream));
            }
        }
    }

    fn audit(&mut self, event: &AuditEvent) {
        let is_on = self.shared.settings.load().audit != AuditMode::Off;
        let is_followed = self.shared.counts.has(Stream::Audit);
        if !is_on && !is_followed {
            return;
        }
        let line = Line::audit(event, &mut self.clock);
        if is_followed {
            self.audit.push_str(&line.text);
        }
        if is_on {
            self.stdout.push((line, None));
        }
    }

    fn error(&mut self, time: SystemTime, text: &str) {
        let line = Line::error(time, text, &mut self.clock);
        if self.shared.counts.has(Stream::Error) {
            self.error.push_str(&line.text);
        }
        if self.shared.settings.load().error {
            let line = match self.shared.error_is_plain {
                true => Line::error_for_people(time, text, &mut self.clock),
                false => line,
            };
            // Lost error lines are not counted.
            let mut effects = Effects::default();
            self.shared.stderr.with(|outbox| outbox.push(line, &mut effects));
        }
    }
}
