//! The log thread: takes events out of the inbox, formats each once, and hands the line to stdout or
//! stderr and to the subscribers. It never waits for any of them.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use super::{
    AuditMode, Switches,
    event::{AuditEvent, Clock, Line},
    inbox::{Inbox, Message},
    outbox::{Effects, Hold},
    output::Output,
    streams::{Counts, FanOut, Stream},
};

/// A queue that has grown larger is given back, in messages.
const MAX_KEPT: usize = 1024;

/// What requests, the log thread and the writers share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) inbox: Inbox,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
    pub(super) switches: Switches,
    pub(super) counts: Arc<Counts>,
    /// Audit lines that did not get to stdout or to the subscribers.
    pub(super) lost: AtomicU64,
    pub(super) error_is_plain: AtomicBool,
}

impl Shared {
    /// Carries out what a step at stdout has led to.
    pub(super) fn apply(&self, effects: Effects) {
        for decision in effects.decisions {
            (decision.decide)(decision.is_accepted);
            if self.counts.audit.load(Ordering::Relaxed) > 0 {
                let _ = self.inbox.push(Message::Publish(decision.line));
            }
        }
        if effects.lost > 0 {
            self.lost.fetch_add(effects.lost, Ordering::Relaxed);
        }
        if let Some(report) = effects.report {
            self.error(report);
        }
    }

    /// Leaves an error event.
    pub(super) fn error(&self, message: String) {
        // What can't be left is lost: there is no other place to tell.
        let _ = self.inbox.push(Message::Error(SystemTime::now(), message));
    }
}

/// The state of the log thread.
struct Hub<'a> {
    shared: &'a Shared,
    clock: Clock,
    audit: FanOut,
    error: FanOut,
    now: Instant,
}

/// Runs until the inbox is closed and empty.
pub(super) fn run(shared: &Shared) {
    let mut hub = Hub {
        shared,
        clock: Clock::local(),
        audit: FanOut::default(),
        error: FanOut::default(),
        now: Instant::now(),
    };
    let mut batch = VecDeque::new();
    while shared.inbox.take(&mut batch, hub.next_task()) {
        hub.now = Instant::now();
        for message in batch.drain(..) {
            hub.handle(message);
        }
        hub.tick();
        if batch.capacity() > MAX_KEPT {
            batch = VecDeque::new();
        }
    }
    hub.audit.end(hub.now);
    hub.error.end(hub.now);
    shared.stdout.close();
    shared.stderr.close();
}

impl Hub<'_> {
    /// When there is something to do although nothing comes in.
    fn next_task(&self) -> Option<Instant> {
        let expiry = self.shared.stdout.with(|outbox| outbox.next_expiry());
        let tasks = [self.audit.due(self.now), self.error.due(self.now), expiry];
        tasks.into_iter().flatten().min()
    }

    fn tick(&mut self) {
        let mut effects = Effects::default();
        let now = self.now;
        self.shared
            .stdout
            .with(|outbox| outbox.expire(now, &mut effects));
        self.shared.apply(effects);
        self.audit.flush_if_due(now);
        self.error.flush_if_due(now);
    }

    fn handle(&mut self, message: Message) {
        let now = self.now;
        match message {
            Message::Audit(event) => self.audit(&event),
            Message::Hold(event, since, decide) => {
                let line = Line::audit(&event, &mut self.clock);
                let hold = Hold::new(since, event.took, decide);
                self.to_stdout(|outbox, effects| outbox.hold(line, hold, now, effects));
            }
            Message::Error(time, text) => self.error(time, &text),
            Message::Publish(line) => self.publish(Stream::Audit, &line),
            Message::Subscribe(Stream::Audit, subscriber) => self.audit.add(subscriber, now),
            Message::Subscribe(Stream::Error, subscriber) => self.error.add(subscriber, now),
            Message::EndStreams => {
                self.audit.end(now);
                self.error.end(now);
            }
        }
    }

    fn audit(&mut self, event: &AuditEvent) {
        let is_on = self.shared.switches.audit() != AuditMode::Off;
        if !is_on && !self.audit.is_wanted() {
            return;
        }
        let line = Line::audit(event, &mut self.clock);
        self.publish(Stream::Audit, &line.text);
        if is_on {
            self.to_stdout(|outbox, effects| outbox.push(line, effects));
        }
    }

    fn error(&mut self, time: SystemTime, text: &str) {
        let line = Line::error(time, text, &mut self.clock);
        self.publish(Stream::Error, &line.text);
        if self.shared.switches.error() {
            let line = match self.shared.error_is_plain.load(Ordering::Relaxed) {
                true => Line::error_for_people(time, text, &mut self.clock),
                false => line,
            };
            // Errors that nobody reads are not counted.
            let mut effects = Effects::default();
            self.shared
                .stderr
                .with(|outbox| outbox.push(line, &mut effects));
        }
    }

    fn publish(&mut self, stream: Stream, line: &str) {
        let fan_out = match stream {
            Stream::Audit => &mut self.audit,
            Stream::Error => &mut self.error,
        };
        let sent = fan_out.push(line, self.now) as u64;
        self.shared
            .counts
            .events(stream)
            .fetch_add(sent, Ordering::Relaxed);
    }

    fn to_stdout(&self, step: impl FnOnce(&mut super::outbox::Outbox, &mut Effects)) {
        let mut effects = Effects::default();
        self.shared.stdout.with(|outbox| step(outbox, &mut effects));
        self.shared.apply(effects);
    }
}
