//! The bounded queue in front of the log thread.
//!
//! Leaving a message takes one short lock. Waking a thread costs more, so a thread that was busy a moment
//! ago takes a nap, from which only urgent messages wake it.

use std::{
    collections::VecDeque,
    sync::PoisonError,
    time::{Instant, SystemTime},
};

use super::{
    event::AuditEvent,
    outbox::Decide,
    streams::{Stream, Subscriber},
};

use crate::base::{
    clock,
    sync::{Condvar, Mutex, MutexGuard},
};

/// A queue that has grown larger is given back, in messages.
const MAX_KEPT: usize = 1024;
/// Audit events that may wait for the log thread, in bytes.
const MAX_WAITING: usize = 4 << 20;
/// Room for errors when there is none for audit events, in bytes on top. Events that answers wait for have half of it.
const RESERVED: usize = 1 << 20;
/// An event takes about so many bytes besides its text.
const OVERHEAD: usize = 128;

pub enum Message {
    Audit(AuditEvent),
    /// A request whose answer waits for the line to be written, since then.
    Hold(AuditEvent, Instant, Decide),
    Error(SystemTime, String),
    /// Show an audit line to subscribers; stdout is done with it.
    Publish(String),
    Subscribe(Stream, Box<dyn Subscriber>),
    /// End the streams after the events so far.
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

    /// It finds no room where there are more bytes than this with it.
    fn limit(&self) -> usize {
        match self {
            Self::Audit(_) => MAX_WAITING,
            Self::Hold(..) => MAX_WAITING + RESERVED / 2,
            Self::Error(..) => MAX_WAITING + RESERVED,
            // Bounded by requests that wait, and by connections.
            Self::Publish(_) | Self::Subscribe(..) | Self::EndStreams => usize::MAX,
        }
    }

    /// It can't wait for the end of a nap.
    fn is_urgent(&self) -> bool {
        !matches!(self, Self::Audit(_) | Self::Publish(_))
    }
}

#[derive(Default)]
pub struct Inbox {
    state: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Message>,
    bytes: usize,
    has_urgent: bool,
    sleep: Sleep,
    is_closed: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Sleep {
    #[default]
    Awake,
    Nap,
    Sound,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves `message`, or gives it back if there is no room.
    #[allow(clippy::result_large_err, reason = "a message without room goes back to its sender")]
    pub fn push(&self, message: Message) -> Result<(), Message> {
        let mut state = self.lock();
        if state.is_closed || state.bytes + message.size() > message.limit() {
            return Err(message);
        }
        state.add(message);
        self.wake(state);
        Ok(())
    }

    /// Leaves two messages with nothing in between, also if there is no room.
    pub fn push_pair(&self, first: Message, second: Message) {
        let mut state = self.lock();
        state.add(first);
        state.add(second);
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, Queue>) {
        let must_wake = match state.sleep {
            Sleep::Awake => false,
            Sleep::Nap => state.has_urgent || state.is_closed,
            Sleep::Sound => true,
        };
        if must_wake {
            state.sleep = Sleep::Awake;
            drop(state);
            self.arrived.notify_one();
        }
    }

    /// Moves all messages into `batch`, which is empty. Waits for one, until `nap` for an urgent one,
    /// but not past `until`. `false` if none will ever come.
    pub fn take(
        &self,
        batch: &mut VecDeque<Message>,
        nap: Option<Instant>,
        until: Option<Instant>,
    ) -> bool {
        if batch.capacity() > MAX_KEPT {
            *batch = VecDeque::new();
        }
        let mut state = self.lock();
        loop {
            let now = clock::now();
            let nap = nap.filter(|nap| *nap > now);
            let is_ready = match nap {
                Some(_) => state.has_urgent,
                None => !state.messages.is_empty(),
            };
            if is_ready || state.is_closed || until.is_some_and(|until| until <= now) {
                break;
            }
            state.sleep = if nap.is_some() { Sleep::Nap } else { Sleep::Sound };
            state = match nap.into_iter().chain(until).min() {
                Some(end) => {
                    let waited = self.arrived.wait_timeout(state, end - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.arrived.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
            state.sleep = Sleep::Awake;
        }
        std::mem::swap(batch, &mut state.messages);
        state.bytes = 0;
        state.has_urgent = false;
        !batch.is_empty() || !state.is_closed
    }

    pub fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        self.wake(state);
    }
}

impl Queue {
    fn add(&mut self, message: Message) {
        self.bytes += message.size();
        // A queue that gets full can't wait either.
        self.has_urgent |= message.is_urgent() || self.bytes > message.limit() / 4;
        self.messages.push_back(message);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn audit(size: usize) -> Message {
        let (path, identity) = ("x".repeat(size - OVERHEAD), "".into());
        let took = Duration::ZERO;
        Message::Audit(AuditEvent {
            time: UNIX_EPOCH,
            path,
            identity,
            ip: None,
            is_change: false,
            status: 200,
            took,
        })
    }

    fn error() -> Message {
        Message::Error(UNIX_EPOCH, String::new())
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(20))
    }

    #[test]
    fn a_full_inbox_takes_no_more_until_it_is_emptied() {
        let inbox = Inbox::default();
        for _ in 0..4 {
            assert!(inbox.push(audit(1 << 20)).is_ok());
        }
        assert!(inbox.push(audit(1 << 20)).is_err());
        assert!(inbox.push(error()).is_ok(), "errors have a reserve");
        let mut batch = VecDeque::new();
        assert!(inbox.take(&mut batch, None, None));
        assert_eq!(5, batch.len());
        assert!(inbox.push(audit(1 << 20)).is_ok());
    }

    #[test]
    fn a_closed_inbox_gives_what_it_has_and_then_ends() {
        let inbox = Inbox::default();
        assert!(inbox.push(audit(1000)).is_ok());
        inbox.close();
        assert!(inbox.push(audit(1000)).is_err());
        let mut batch = VecDeque::new();
        assert!(inbox.take(&mut batch, soon(), None));
        batch.clear();
        assert!(!inbox.take(&mut batch, soon(), None));
    }

    #[test]
    fn waiting_ends_at_its_time() {
        let (mut batch, until) = (VecDeque::new(), soon());
        assert!(Inbox::default().take(&mut batch, None, until));
        assert!(batch.is_empty() && Some(Instant::now()) >= until);
    }

    #[test]
    fn a_nap_is_interrupted_by_what_is_urgent_only() {
        let far = Some(Instant::now() + Duration::from_secs(60));
        let mut batch = VecDeque::new();
        let inbox = Inbox::default();
        assert!(inbox.push(audit(1000)).is_ok());
        let nap = soon();
        assert!(inbox.take(&mut batch, nap, None));
        assert!(batch.len() == 1 && Some(Instant::now()) >= nap);
        for urgent in [error(), audit(3 << 20)] {
            batch.clear();
            assert!(inbox.push(audit(1000)).is_ok());
            assert!(inbox.push(urgent).is_ok());
            assert!(inbox.take(&mut batch, far, None));
            assert_eq!(2, batch.len());
        }
        batch.clear();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                assert!(inbox.push(error()).is_ok());
            });
            assert!(inbox.take(&mut batch, far, None));
        });
        assert_eq!(1, batch.len());
    }
}
