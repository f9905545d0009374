//! Subscribers of the log, and how lines get to them.
//!
//! Lines are collected for a moment and handed to every subscriber in one block, in the same order for
//! all. Under load that makes ten writes a second to each of them instead of thousands; a line that comes
//! alone goes out at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::base::panics::survive;

/// The shortest time between two blocks.
const INTERVAL: Duration = Duration::from_millis(100);
/// A block that is so long goes out at once, in bytes.
const MAX_BLOCK: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Audit,
    Error,
}

/// The log's end of a stream. None of these may wait for the client.
pub trait Subscriber: Send {
    /// Takes whole lines. `false` removes the subscriber.
    fn publish(&self, lines: &Arc<[u8]>) -> bool;

    fn is_open(&self) -> bool;

    /// There will be no more lines; if not `is_complete`, some that should have come are missing.
    fn end(&self, is_complete: bool);
}

#[derive(Default)]
pub struct Counts {
    pub subscribers: [AtomicUsize; 2],
    /// Events that were sent, each as often as there were subscribers.
    pub events: [AtomicU64; 2],
    pub dropped: AtomicU64,
}

impl Counts {
    pub fn has(&self, stream: Stream) -> bool {
        self.subscribers[stream as usize].load(Ordering::Relaxed) > 0
    }
}

/// Counts as one subscriber as long as it lives.
pub struct Subscription {
    stream: Stream,
    counts: Arc<Counts>,
}

impl Subscription {
    pub fn new(stream: Stream, counts: &Arc<Counts>) -> Self {
        counts.subscribers[stream as usize].fetch_add(1, Ordering::Relaxed);
        Self { stream, counts: counts.clone() }
    }

    pub fn count_events(&self, lines: &[u8]) {
        let events = memchr::memchr_iter(b'\n', lines).count() as u64;
        self.counts.events[self.stream as usize].fetch_add(events, Ordering::Relaxed);
    }

    /// Counts the subscriber as disconnected because it does not keep up.
    pub fn count_drop(&self) {
        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.counts.subscribers[self.stream as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
pub struct Streams {
    fans: [FanOut; 2],
    /// Before then, no block goes out.
    next: Option<Instant>,
}

#[derive(Default)]
struct FanOut {
    subscribers: Vec<Box<dyn Subscriber>>,
    block: Vec<u8>,
}

impl Streams {
    /// Adds a subscriber, which sees later lines.
    pub fn add(&mut self, stream: Stream, subscriber: Box<dyn Subscriber>) {
        let fan = &mut self.fans[stream as usize];
        fan.flush();
        fan.subscribers.retain(|other| other.is_open());
        fan.subscribers.push(subscriber);
    }

    pub fn push(&mut self, stream: Stream, lines: &str) {
        let fan = &mut self.fans[stream as usize];
        if !fan.subscribers.is_empty() {
            fan.block.extend_from_slice(lines.as_bytes());
            if fan.block.len() >= MAX_BLOCK {
                fan.flush();
            }
        }
    }

    /// Hands out the lines so far, unless that happened a moment ago.
    pub fn flush(&mut self, now: Instant) {
        if self.has_lines() && self.next.is_none_or(|next| now >= next) {
            self.fans.iter_mut().for_each(FanOut::flush);
            self.next = Some(now + INTERVAL);
        }
    }

    /// When [`flush`](Self::flush) has lines to hand out.
    pub fn due(&self) -> Option<Instant> {
        self.next.filter(|_| self.has_lines())
    }

    fn has_lines(&self) -> bool {
        self.fans.iter().any(|fan| !fan.block.is_empty())
    }

    pub fn end(&mut self, stream: Stream, is_complete: bool) {
        let fan = &mut self.fans[stream as usize];
        fan.flush();
        for subscriber in fan.subscribers.drain(..) {
            survive(|| subscriber.end(is_complete));
        }
    }

    pub fn end_all(&mut self) {
        self.end(Stream::Audit, true);
        self.end(Stream::Error, true);
    }
}

impl FanOut {
    fn flush(&mut self) {
        if self.block.is_empty() {
            return;
        }
        let block: Arc<[u8]> = std::mem::take(&mut self.block).into();
        self.subscribers
            .retain(|subscriber| survive(|| subscriber.publish(&block)).unwrap_or(false));
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

    impl Reader {
        fn seen(&self) -> String {
            self.blocks.lock().unwrap().concat()
        }
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

        fn end(&self, is_complete: bool) {
            let end = if is_complete { "end" } else { "gap" };
            self.blocks.lock().unwrap().push(end.to_owned());
        }
    }

    fn subscribe(streams: &mut Streams, stream: Stream, reader: &Reader) {
        streams.add(stream, Box::new(reader.clone()));
    }

    #[test]
    fn a_lone_line_goes_out_at_once_and_a_burst_in_blocks() {
        let (mut streams, reader) = (Streams::default(), Reader::default());
        subscribe(&mut streams, Stream::Audit, &reader);
        let start = Instant::now();
        streams.push(Stream::Audit, "alone\n");
        streams.flush(start);
        assert_eq!("alone\n", reader.seen());
        for _ in 0..1000 {
            streams.push(Stream::Audit, "x\n");
            streams.flush(start + INTERVAL / 2);
        }
        assert_eq!("alone\n", reader.seen());
        assert_eq!(Some(start + INTERVAL), streams.due());
        streams.flush(start + INTERVAL);
        assert_eq!(None, streams.due());
        streams.end_all();
        assert_eq!(vec!["alone\n", &"x\n".repeat(1000), "end"], *reader.blocks.lock().unwrap());
    }

    #[test]
    fn a_long_block_does_not_wait() {
        let (mut streams, reader) = (Streams::default(), Reader::default());
        subscribe(&mut streams, Stream::Audit, &reader);
        for _ in 0..MAX_BLOCK {
            streams.push(Stream::Audit, "x\n");
        }
        assert_eq!(2, reader.blocks.lock().unwrap().len());
    }

    #[test]
    fn a_subscriber_sees_what_comes_after_it_and_may_leave() {
        let (early, late, other) = (Reader::default(), Reader::default(), Reader::default());
        let leaver = Reader { leaves_after: Some(1), ..Reader::default() };
        let mut streams = Streams::default();
        streams.push(Stream::Audit, "nobody hears this\n");
        subscribe(&mut streams, Stream::Audit, &early);
        streams.push(Stream::Audit, "a\n");
        subscribe(&mut streams, Stream::Audit, &late);
        subscribe(&mut streams, Stream::Audit, &leaver);
        subscribe(&mut streams, Stream::Error, &other);
        streams.push(Stream::Audit, "b\n");
        streams.push(Stream::Error, "error\n");
        streams.end_all();
        assert_eq!("a\nb\nend", early.seen());
        assert_eq!("b\nend", late.seen());
        assert_eq!("b\n", leaver.seen());
        assert_eq!("error\nend", other.seen());
    }

    #[test]
    fn a_stream_with_a_gap_is_ended_for_all_who_have_seen_its_beginning() {
        let (early, late) = (Reader::default(), Reader::default());
        let mut streams = Streams::default();
        subscribe(&mut streams, Stream::Audit, &early);
        streams.push(Stream::Audit, "a\n");
        streams.end(Stream::Audit, false);
        subscribe(&mut streams, Stream::Audit, &late);
        streams.push(Stream::Audit, "b\n");
        streams.end_all();
        assert_eq!("a\ngap", early.seen());
        assert_eq!("b\nend", late.seen());
    }
}
