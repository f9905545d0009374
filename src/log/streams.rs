//! Subscribers of the log, and how lines get to them.
//!
//! A thread of its own collects lines for a moment and hands them to every subscriber in one block, in
//! the same order for all. Under load that makes ten writes a second to each of them instead of
//! thousands; a line that comes alone goes out at once.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::inbox::{Inbox, Message};
use crate::base::panics::survive;

/// The shortest time between two blocks.
const INTERVAL: Duration = Duration::from_millis(100);
/// How much less urgent than requests it is to feed subscribers (see `nice(2)`).
const NICENESS: i32 = 10;
/// Lines that may wait to be handed out, in bytes.
const MAX_WAITING: usize = 4 << 20;
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

/// How many subscribers and events each stream has.
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

pub enum Feed {
    Lines(Stream, String),
    /// Add a subscriber, which sees later lines.
    Subscribe(Stream, Box<dyn Subscriber>),
    /// Events are lost: disconnect the subscribers, so that they notice.
    Gap(Stream),
    End,
}

impl Message for Feed {
    fn size(&self) -> usize {
        match self {
            Self::Lines(_, lines) => lines.len(),
            _ => 0,
        }
    }

    fn limit(&self) -> usize {
        match self {
            Self::Lines(..) => MAX_WAITING,
            _ => usize::MAX,
        }
    }

    fn is_urgent(&self) -> bool {
        !matches!(self, Self::Lines(..))
    }
}

/// Feeds subscribers until the inbox is closed and empty, on a thread of its own.
pub fn run(inbox: &Inbox<Feed>) {
    // Fifty subscribers cause a burst of fifty writes, which must not delay requests. On Linux, this is
    // the priority of the thread.
    let _ = rustix::process::nice(NICENESS);
    let mut streams = [FanOut::default(), FanOut::default()];
    let mut batch = VecDeque::new();
    let mut nap = None;
    while inbox.take(&mut batch, nap, None) {
        for feed in batch.drain(..) {
            match feed {
                Feed::Lines(stream, lines) => streams[stream as usize].push(&lines),
                Feed::Subscribe(stream, subscriber) => streams[stream as usize].add(subscriber),
                Feed::Gap(stream) => streams[stream as usize].end(false),
                Feed::End => streams.iter_mut().for_each(|stream| stream.end(true)),
            }
        }
        streams.iter_mut().for_each(FanOut::flush);
        nap = Some(Instant::now() + INTERVAL);
    }
    streams.iter_mut().for_each(|stream| stream.end(true));
}

#[derive(Default)]
struct FanOut {
    subscribers: Vec<Box<dyn Subscriber>>,
    block: Vec<u8>,
}

impl FanOut {
    fn add(&mut self, subscriber: Box<dyn Subscriber>) {
        self.flush();
        self.subscribers.retain(|other| other.is_open());
        self.subscribers.push(subscriber);
    }

    fn push(&mut self, lines: &str) {
        if !self.subscribers.is_empty() {
            self.block.extend_from_slice(lines.as_bytes());
            if self.block.len() >= MAX_BLOCK {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        if self.block.is_empty() {
            return;
        }
        let block: Arc<[u8]> = std::mem::take(&mut self.block).into();
        self.subscribers
            .retain(|subscriber| survive(|| subscriber.publish(&block)).unwrap_or(false));
    }

    fn end(&mut self, is_complete: bool) {
        self.flush();
        for subscriber in self.subscribers.drain(..) {
            survive(|| subscriber.end(is_complete));
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

    fn subscribe(inbox: &Inbox<Feed>, stream: Stream, reader: &Reader) {
        let reader = Box::new(reader.clone());
        assert!(inbox.push(Feed::Subscribe(stream, reader)).is_ok());
    }

    fn line(inbox: &Inbox<Feed>, stream: Stream, line: &str) {
        let line = format!("{line}\n");
        assert!(inbox.push(Feed::Lines(stream, line)).is_ok());
    }

    #[test]
    fn a_lone_line_goes_out_at_once_and_a_burst_in_blocks() {
        let inbox = Inbox::default();
        let reader = Reader::default();
        subscribe(&inbox, Stream::Audit, &reader);
        std::thread::scope(|scope| {
            scope.spawn(|| run(&inbox));
            let blocks = |count: usize| {
                while reader.blocks.lock().unwrap().len() < count {
                    std::thread::yield_now();
                }
                reader.blocks.lock().unwrap().clone()
            };
            line(&inbox, Stream::Audit, "alone");
            assert_eq!(vec!["alone\n"], blocks(1));
            for _ in 0..1000 {
                line(&inbox, Stream::Audit, "x");
            }
            inbox.close();
            let blocks = blocks(3);
            assert_eq!("x\n".repeat(1000) + "end", blocks[1..].concat());
            assert!(blocks.len() < 100, "{} blocks", blocks.len());
        });
    }

    #[test]
    fn a_subscriber_sees_what_comes_after_it_and_may_leave() {
        let (early, late, other) = (Reader::default(), Reader::default(), Reader::default());
        let leaver = Reader { leaves_after: Some(1), ..Reader::default() };
        let inbox = Inbox::default();
        line(&inbox, Stream::Audit, "nobody hears this");
        subscribe(&inbox, Stream::Audit, &early);
        line(&inbox, Stream::Audit, "a");
        subscribe(&inbox, Stream::Audit, &late);
        subscribe(&inbox, Stream::Audit, &leaver);
        subscribe(&inbox, Stream::Error, &other);
        line(&inbox, Stream::Audit, "b");
        line(&inbox, Stream::Error, "error");
        inbox.close();
        run(&inbox);
        assert_eq!("a\nb\nend", early.seen());
        assert_eq!("b\nend", late.seen());
        assert_eq!("b\n", leaver.seen());
        assert_eq!("error\nend", other.seen());
    }

    #[test]
    fn a_stream_with_a_gap_is_ended_for_all_who_have_seen_its_beginning() {
        let (early, late) = (Reader::default(), Reader::default());
        let inbox = Inbox::default();
        subscribe(&inbox, Stream::Audit, &early);
        line(&inbox, Stream::Audit, "a");
        assert!(inbox.push(Feed::Gap(Stream::Audit)).is_ok());
        subscribe(&inbox, Stream::Audit, &late);
        line(&inbox, Stream::Audit, "b");
        inbox.close();
        run(&inbox);
        assert_eq!("a\ngap", early.seen());
        assert_eq!("b\nend", late.seen());
    }
}
