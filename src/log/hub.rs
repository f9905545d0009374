//! The log thread: takes events out of the inbox, formats each once, and hands the line to the threads
//! that write stdout and stderr and to the subscribers. It never waits for any of them.

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
    Settings,
    event::{AuditEvent, Clock, Line},
    inbox::{Inbox, Message},
    outbox::{Effects, Hold},
    output::Output,
    streams::{Counts, Stream, Streams},
};
use crate::base::{clock, panics::survive};

/// Events may wait for so long to be handled together.
const NAP: Duration = Duration::from_millis(10);

#[derive(Default)]
pub struct Hub {
    pub inbox: Inbox,
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

impl Hub {
    pub fn audit(&self, event: AuditEvent) {
        if self.inbox.push(Message::Audit(event)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.has_gap[Stream::Audit as usize].store(true, Ordering::Relaxed);
        }
    }

    pub fn error(&self, text: String) {
        if self.inbox.push(Message::Error(clock::wall(), text)).is_err() {
            self.has_gap[Stream::Error as usize].store(true, Ordering::Relaxed);
        }
    }

    pub fn apply(&self, effects: Effects) {
        for decision in effects.decisions {
            survive(|| (decision.decide)(decision.is_accepted));
            if self.counts.has(Stream::Audit) {
                let _ = self.inbox.push(Message::Publish(decision.line));
            }
        }
        self.lost.fetch_add(effects.lost, Ordering::Relaxed);
        if let Some(report) = effects.report {
            self.error(report);
        }
    }
}

struct Formatter<'a> {
    hub: &'a Hub,
    clock: Clock,
    now: Instant,
    /// Lines for stdout, some with answers that wait, until the end of the batch.
    stdout: Vec<(Line, Option<Hold>)>,
    streams: Streams,
}

/// Runs until the inbox is closed and empty.
pub fn run(hub: &Hub) {
    let mut formatter = Formatter {
        hub,
        clock: Clock::local(),
        now: clock::now(),
        stdout: Vec::new(),
        streams: Streams::default(),
    };
    let mut batch = VecDeque::new();
    let mut nap = None;
    loop {
        let expiry = hub.stdout.with(|outbox| outbox.next_expiry());
        let until = expiry.into_iter().chain(formatter.streams.due()).min();
        if !hub.inbox.take(&mut batch, nap, until) {
            break;
        }
        formatter.now = clock::now();
        for message in batch.drain(..) {
            survive(|| formatter.handle(message));
        }
        survive(|| formatter.write());
        formatter.end_at_gaps();
        formatter.streams.flush(formatter.now);
        nap = Some(formatter.now + NAP);
    }
    formatter.streams.end_all();
    hub.stdout.close();
    hub.stderr.close();
}

impl Formatter<'_> {
    fn handle(&mut self, message: Message) {
        match message {
            Message::Audit(event) => self.audit(&event),
            Message::Hold(event, since, decide) => {
                let line = Line::audit(&event, &mut self.clock);
                let hold = Hold { since, took: event.took, decide };
                self.stdout.push((line, Some(hold)));
            }
            Message::Error(time, text) => self.error(time, &text),
            Message::Publish(line) => self.streams.push(Stream::Audit, &line),
            Message::Subscribe(stream, subscriber) => {
                self.end_at_gaps();
                self.streams.add(stream, subscriber);
            }
            Message::EndStreams => {
                self.end_at_gaps();
                self.streams.end_all();
            }
        }
    }

    fn write(&mut self) {
        let now = self.now;
        let effects = self.hub.stdout.with(|outbox| {
            for (line, hold) in self.stdout.drain(..) {
                match hold {
                    Some(hold) => outbox.hold(line, hold, now),
                    None => outbox.push(line),
                }
            }
            outbox.expire(now);
            outbox.take_effects()
        });
        self.hub.apply(effects);
    }

    /// Disconnects the subscribers that miss an event, so that they notice.
    fn end_at_gaps(&mut self) {
        for stream in [Stream::Audit, Stream::Error] {
            if self.hub.has_gap[stream as usize].swap(false, Ordering::Relaxed) {
                self.streams.end(stream, false);
            }
        }
    }

    fn audit(&mut self, event: &AuditEvent) {
        let is_on = self.hub.settings.load().audit.wants(event.is_change);
        let is_followed = self.hub.counts.has(Stream::Audit);
        if !is_on && !is_followed {
            return;
        }
        let line = Line::audit(event, &mut self.clock);
        if is_followed {
            self.streams.push(Stream::Audit, &line.text);
        }
        if is_on {
            self.stdout.push((line, None));
        }
    }

    fn error(&mut self, time: SystemTime, text: &str) {
        let line = Line::error(time, text, &mut self.clock);
        if self.hub.counts.has(Stream::Error) {
            self.streams.push(Stream::Error, &line.text);
        }
        if self.hub.settings.load().error {
            let line = match self.hub.error_is_plain {
                true => Line::error_for_people(time, text, &mut self.clock),
                false => line,
            };
            // Lost error lines are not counted.
            self.hub.stderr.with(|outbox| outbox.push(line));
        }
    }
}
