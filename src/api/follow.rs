//! A log stream between the log, which has lines, and the connection, which sends them.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, Weak},
    task::Waker,
};

use super::exchange::Exchange;
use crate::{
    base::sync::{Mutex, MutexGuard},
    log::{Stream, Subscriber, Subscription},
};

/// Lines that may wait for one client to read, in bytes. A client that falls further behind is
/// disconnected.
const MAX_QUEUE: usize = 1 << 20;

/// The end of a log stream that a request holds; the subscription ends with it.
pub struct Follower {
    /// The identity of the client that follows.
    pub identity: Arc<str>,
    /// The path that the client called.
    pub path: String,
    queue: Arc<Mutex<Queue>>,
    subscription: Subscription,
    is_drop_counted: bool,
}

/// Lines on their way. Blocks are shared by all subscribers, so a queue holds references.
#[derive(Default)]
struct Queue {
    blocks: VecDeque<Arc<[u8]>>,
    size: usize,
    end: Option<End>,
}

/// What a stream has come to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is whole.
    Complete,
    /// Lines are missing.
    CutOff,
}

/// The end of a log stream that the log holds.
struct Source {
    queue: Weak<Mutex<Queue>>,
    waker: Waker,
}

impl Follower {
    /// Answers `exchange` with `stream`, which begins with the audit event of the request itself.
    pub fn new(exchange: Exchange, stream: Stream, waker: Waker) -> Self {
        let queue = Arc::default();
        let source = Source { queue: Arc::downgrade(&queue), waker };
        let (identity, path) = (exchange.identity.clone(), exchange.path.clone());
        let subscription = exchange.subscribe(stream, Box::new(source));
        Self { identity, path, queue, subscription, is_drop_counted: false }
    }

    /// The next lines, if there are any, and how the stream ends once there are none.
    pub fn next_lines(&mut self) -> (Option<Arc<[u8]>>, Option<End>) {
        let mut queue = lock(&self.queue);
        let block = queue.blocks.pop_front();
        queue.size -= block.as_ref().map_or(0, |block| block.len());
        let end = queue.end;
        drop(queue);
        if let Some(block) = &block {
            self.subscription.count_events(block);
        }
        if end == Some(End::CutOff) {
            self.count_drop();
        }
        (block, end)
    }

    /// How much waits for the client to read, in bytes.
    #[cfg(test)]
    pub fn unread(&self) -> usize {
        lock(&self.queue).blocks.iter().map(|block| block.len()).sum()
    }

    /// Ends the stream after the lines that are queued.
    pub fn end(&mut self) {
        lock(&self.queue).end.get_or_insert(End::Complete);
    }

    /// Counts, once, that the client is disconnected since it does not keep up.
    pub fn count_drop(&mut self) {
        if !std::mem::replace(&mut self.is_drop_counted, true) {
            self.subscription.count_drop();
        }
    }
}

impl Subscriber for Source {
    fn publish(&self, lines: &Arc<[u8]>) -> bool {
        let Some(queue) = self.queue.upgrade() else {
            return false;
        };
        let mut queue = lock(&queue);
        if queue.end.is_some() {
            return false;
        }
        let has_room = queue.size + lines.len() <= MAX_QUEUE;
        if has_room {
            queue.blocks.push_back(lines.clone());
            queue.size += lines.len();
        } else {
            *queue = Queue { end: Some(End::CutOff), ..Queue::default() };
        }
        drop(queue);
        self.waker.wake_by_ref();
        has_room
    }

    fn is_open(&self) -> bool {
        self.queue.strong_count() > 0
    }

    fn end(&self, is_complete: bool) {
        if let Some(queue) = self.queue.upgrade() {
            let mut queue = lock(&queue);
            match is_complete {
                true => queue.end = Some(End::Complete),
                false => *queue = Queue { end: Some(End::CutOff), ..Queue::default() },
            }
            drop(queue);
            self.waker.wake_by_ref();
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}
