//! Where requests leave their events: a bounded queue in front of the log thread.
//!
//! Leaving an event takes one short lock and never waits for anybody.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use super::{
    event::AuditEvent,
    outbox::Decide,
    streams::{Stream, Subscriber},
};

/// Audit events that may wait for the log thread, in bytes.
const MAX_BYTES: usize = 4 << 20;
/// Errors may be left when audit events can't be any more, in bytes on top.
const RESERVED: usize = 1 << 20;
/// What a message takes besides its text, about, in bytes.
const OVERHEAD: usize = 128;

/// Something for the log thread to do.
pub(super) enum Message {
    /// Log an answered request.
    Audit(AuditEvent),
    /// Log a request whose answer waits for the line to be written, since then.
    Hold(AuditEvent, Instant, Decide),
    /// Log an error.
    Error(SystemTime, String),
    /// Show an audit line to subscribers; stdout is done with it.
    Publish(String),
    /// Add a subscriber.
    Subscribe(Stream, Box<dyn Subscriber>),
    /// Show what is there to subscribers and let them go.
    EndStreams,
}

impl Message {
    fn size(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Audit(event) | Self::Hold(event, ..) => event.path.len(),
                Self::Error(_, text) | Self::Publish(text) => text.len(),
                Self::Subscribe(..) | Self::EndStreams => 0,
            }
    }
}

/// The queue.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    bytes: usize,
    /// The log thread sleeps. Waking costs a system call, so only who must does it.
    is_awaited: bool,
    is_closed: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves `message`, or gives it back if there is no room.
    pub(super) fn push(&self, message: Message) -> Result<(), Message> {
        let mut state = self.lock();
        let limit = match message {
            Message::Audit(_) | Message::Hold(..) => MAX_BYTES,
            Message::Error(..) => MAX_BYTES + RESERVED,
            // Bounded by requests that wait, and by connections.
            Message::Publish(_) | Message::Subscribe(..) | Message::EndStreams => usize::MAX,
        };
        if state.is_closed || state.bytes + message.size() > limit {
            return Err(message);
        }
        state.add(message);
        self.wake(state);
        Ok(())
    }

    /// Leaves two messages with nothing in between, also if there is no room.
    pub(super) fn push_pair(&self, first: Message, second: Message) {
        let mut state = self.lock();
        state.add(first);
        state.add(second);
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let is_awaited = std::mem::take(&mut state.is_awaited);
        drop(state);
        if is_awaited {
            self.arrived.notify_one();
        }
    }

    /// Moves all messages into `batch`, which is empty. Waits for one, but not past `until`.
    /// `false` if none will ever come.
    pub(super) fn take(&self, batch: &mut VecDeque<Message>, until: Option<Instant>) -> bool {
        let mut state = self.lock();
        while state.messages.is_empty() && !state.is_closed {
            state.is_awaited = true;
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            state = match left {
                Some(left) if left.is_zero() => break,
                Some(left) => {
                    let waited = self.arrived.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.arrived.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
        state.is_awaited = false;
        std::mem::swap(batch, &mut state.messages);
        state.bytes = 0;
        !batch.is_empty() || !state.is_closed
    }

    /// Takes no more messages; those that are there can still be taken.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.is_awaited = true;
        self.wake(state);
    }
}

impl State {
    fn add(&mut self, message: Message) {
        self.bytes += message.size();
        self.messages.push_back(message);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn event() -> Message {
        Message::Audit(AuditEvent {
            time: UNIX_EPOCH,
            path: "/version".to_owned(),
            identity: "".into(),
            status: 200,
            took: Duration::ZERO,
        })
    }

    #[test]
    fn a_full_inbox_takes_errors_but_no_more_events_until_it_is_emptied() {
        let inbox = Inbox::default();
        let mut count = 0;
        while inbox.push(event()).is_ok() {
            count += 1;
        }
        assert!(count > 10_000, "{count}");
        let error = || Message::Error(UNIX_EPOCH, "x".to_owned());
        assert!(inbox.push(error()).is_ok());
        let mut batch = VecDeque::new();
        assert!(inbox.take(&mut batch, None));
        assert_eq!(count + 1, batch.len());
        assert!(inbox.push(event()).is_ok());
    }

    #[test]
    fn a_closed_inbox_gives_what_it_has_and_then_ends() {
        let inbox = Inbox::default();
        assert!(inbox.push(event()).is_ok());
        inbox.close();
        assert!(inbox.push(event()).is_err());
        let mut batch = VecDeque::new();
        assert!(inbox.take(&mut batch, None));
        batch.clear();
        assert!(!inbox.take(&mut batch, None));
    }

    #[test]
    fn waiting_ends_at_its_time() {
        let mut batch = VecDeque::new();
        let soon = Instant::now() + Duration::from_millis(20);
        assert!(Inbox::default().take(&mut batch, Some(soon)));
        assert!(batch.is_empty() && Instant::now() >= soon);
    }
}
