//! Subscribers of the log, and how lines get to them.
//!
//! Lines are collected for a moment and handed to every subscriber in one block, in the same order
//! for all. Under load that makes twenty writes a second to each of them instead of thousands; a
//! line that comes alone goes out at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// The shortest time between two blocks.
const INTERVAL: Duration = Duration::from_millis(50);
/// A block that is so long goes out at once, in bytes.
const MAX_BLOCK: usize = 64 * 1024;

/// What can be subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Audit events.
    Audit,
    /// Error events.
    Error,
}

/// Somebody who follows a stream. Nothing here may wait for the client at the other end.
pub trait Subscriber: Send {
    /// Takes whole lines. `false` if the subscriber has gone or must go.
    fn publish(&self, lines: &Arc<[u8]>) -> bool;

    /// Whether anybody is there.
    fn is_open(&self) -> bool;

    /// There will be no more lines.
    fn end(&self);
}

/// How many subscribers there are and were.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) audit: AtomicUsize,
    pub(super) error: AtomicUsize,
    pub(super) dropped: AtomicU64,
    audit_events: AtomicU64,
    error_events: AtomicU64,
}

impl Counts {
    pub(super) fn of(&self, stream: Stream) -> &AtomicUsize {
        match stream {
            Stream::Audit => &self.audit,
            Stream::Error => &self.error,
        }
    }

    /// Events that were sent, each as often as there were subscribers.
    pub(super) fn events(&self, stream: Stream) -> &AtomicU64 {
        match stream {
            Stream::Audit => &self.audit_events,
            Stream::Error => &self.error_events,
        }
    }
}

/// Counts as one subscriber as long as it lives.
pub struct Subscription {
    stream: Stream,
    counts: Arc<Counts>,
}

impl Subscription {
    pub(super) fn new(stream: Stream, counts: &Arc<Counts>) -> Self {
        counts.of(stream).fetch_add(1, Ordering::Relaxed);
        Self {
            stream,
            counts: counts.clone(),
        }
    }

    /// Counts a subscriber that is sent away because it does not keep up.
    pub fn count_drop(&self) {
        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.counts.of(self.stream).fetch_sub(1, Ordering::Relaxed);
    }
}

/// The subscribers of one stream and the lines that are collected for them.
#[derive(Default)]
pub(super) struct FanOut {
    subscribers: Vec<Box<dyn Subscriber>>,
    block: Vec<u8>,
    /// No block goes out before.
    next: Option<Instant>,
}

impl FanOut {
    /// Whether anybody follows.
    pub(super) fn is_wanted(&self) -> bool {
        !self.subscribers.is_empty()
    }

    /// Adds a subscriber; it sees what is pushed from now on.
    pub(super) fn add(&mut self, subscriber: Box<dyn Subscriber>, now: Instant) {
        self.flush(now);
        self.subscribers.retain(|other| other.is_open());
        self.subscribers.push(subscriber);
    }

    /// Adds a line to the block, for so many subscribers.
    pub(super) fn push(&mut self, line: &str, now: Instant) -> usize {
        let subscribers = self.subscribers.len();
        if subscribers > 0 {
            self.block.extend_from_slice(line.as_bytes());
            if self.block.len() >= MAX_BLOCK {
                self.flush(now);
            }
        }
        subscribers
    }

    /// When the block must go out, if there is one.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        (!self.block.is_empty()).then(|| self.next.unwrap_or(now))
    }

    /// Hands out the block if it is due.
    pub(super) fn flush_if_due(&mut self, now: Instant) {
        if self.due(now).is_some_and(|due| due <= now) {
            self.flush(now);
        }
    }

    fn flush(&mut self, now: Instant) {
        if self.block.is_empty() {
            return;
        }
        let block: Arc<[u8]> = std::mem::take(&mut self.block).into();
        self.subscribers
            .retain(|subscriber| subscriber.publish(&block));
        self.next = Some(now + INTERVAL);
    }

    /// Hands out what is there and sends everybody home.
    pub(super) fn end(&mut self, now: Instant) {
        self.flush(now);
        for subscriber in self.subscribers.drain(..) {
            subscriber.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Reader {
        blocks: Arc<Mutex<Vec<String>>>,
        leaves_after: Option<usize>,
    }

    impl Subscriber for Reader {
        fn publish(&self, lines: &Arc<[u8]>) -> bool {
            let mut blocks = self.blocks.lock().unwrap();
            blocks.push(String::from_utf8(lines.to_vec()).unwrap());
            self.leaves_after.is_none_or(|count| blocks.len() < count)
        }

        fn is_open(&self) -> bool {
            true
        }

        fn end(&self) {
            self.blocks.lock().unwrap().push("end".to_owned());
        }
    }

    #[test]
    fn a_lone_line_goes_out_at_once_and_a_burst_in_blocks() {
        let (reader, mut fan) = (Reader::default(), FanOut::default());
        let start = Instant::now();
        fan.add(Box::new(reader.clone()), start);
        fan.push("a\n", start);
        fan.flush_if_due(start);
        for (line, millis) in [("b\n", 1), ("c\n", 49)] {
            let now = start + Duration::from_millis(millis);
            fan.push(line, now);
            fan.flush_if_due(now);
        }
        assert_eq!(Some(start + INTERVAL), fan.due(start));
        fan.flush_if_due(start + INTERVAL);
        assert_eq!(None, fan.due(start));
        fan.end(start);
        assert_eq!(vec!["a\n", "b\nc\n", "end"], *reader.blocks.lock().unwrap());
    }

    #[test]
    fn a_subscriber_sees_what_comes_after_it_and_may_leave() {
        let (early, late) = (Reader::default(), Reader::default());
        let leaver = Reader {
            leaves_after: Some(1),
            ..Reader::default()
        };
        let (mut fan, now) = (FanOut::default(), Instant::now());
        fan.push("nobody hears this\n", now);
        fan.add(Box::new(early.clone()), now);
        fan.push("a\n", now);
        fan.add(Box::new(late.clone()), now);
        fan.add(Box::new(leaver.clone()), now);
        fan.push("b\n", now);
        fan.end(now);
        assert_eq!(vec!["a\n", "b\n", "end"], *early.blocks.lock().unwrap());
        assert_eq!(vec!["b\n", "end"], *late.blocks.lock().unwrap());
        assert_eq!(vec!["b\n"], *leaver.blocks.lock().unwrap());
    }
}
