//! A bounded queue in front of a thread of the log.
//!
//! Leaving a message takes one short lock. Waking a thread costs more, so a thread that was busy a moment
//! ago takes a nap, from which only urgent messages wake it.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// A queue that has grown larger is given back, in messages.
const MAX_KEPT: usize = 1024;

pub trait Message {
    /// About what it takes, in bytes.
    fn size(&self) -> usize;

    /// It finds no room where there are more bytes than this with it.
    fn limit(&self) -> usize;

    /// Whether it can't wait for the end of a nap.
    fn is_urgent(&self) -> bool;
}

pub struct Inbox<M> {
    state: Mutex<Queue<M>>,
    arrived: Condvar,
}

struct Queue<M> {
    messages: VecDeque<M>,
    bytes: usize,
    has_urgent: bool,
    sleep: Sleep,
    is_closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleep {
    Awake,
    Nap,
    Sound,
}

impl<M> Default for Inbox<M> {
    fn default() -> Self {
        Self {
            state: Mutex::new(Queue {
                messages: VecDeque::new(),
                bytes: 0,
                has_urgent: false,
                sleep: Sleep::Awake,
                is_closed: false,
            }),
            arrived: Condvar::new(),
        }
    }
}

impl<M: Message> Inbox<M> {
    fn lock(&self) -> MutexGuard<'_, Queue<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves `message`, or gives it back if there is no room.
    pub fn push(&self, message: M) -> Result<(), M> {
        let mut state = self.lock();
        if state.is_closed || state.bytes + message.size() > message.limit() {
            return Err(message);
        }
        state.add(message);
        self.wake(state);
        Ok(())
    }

    /// Leaves two messages with nothing in between, also if there is no room.
    pub fn push_pair(&self, first: M, second: M) {
        let mut state = self.lock();
        state.add(first);
        state.add(second);
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, Queue<M>>) {
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
        batch: &mut VecDeque<M>,
        nap: Option<Instant>,
        until: Option<Instant>,
    ) -> bool {
        if batch.capacity() > MAX_KEPT {
            *batch = VecDeque::new();
        }
        let mut state = self.lock();
        loop {
            let now = Instant::now();
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

impl<M: Message> Queue<M> {
    fn add(&mut self, message: M) {
        self.bytes += message.size();
        // A queue that gets full can't wait either.
        self.has_urgent |= message.is_urgent() || self.bytes > message.limit() / 4;
        self.messages.push_back(message);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Its size, and whether it is urgent.
    struct Parcel(usize, bool);

    impl Message for Parcel {
        fn size(&self) -> usize {
            self.0
        }

        fn limit(&self) -> usize {
            100
        }

        fn is_urgent(&self) -> bool {
            self.1
        }
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(20))
    }

    #[test]
    fn a_full_inbox_takes_no_more_until_it_is_emptied() {
        let inbox = Inbox::default();
        for _ in 0..10 {
            assert!(inbox.push(Parcel(10, false)).is_ok());
        }
        assert!(inbox.push(Parcel(10, false)).is_err());
        let mut batch = VecDeque::new();
        assert!(inbox.take(&mut batch, None, None));
        assert_eq!(10, batch.len());
        assert!(inbox.push(Parcel(10, false)).is_ok());
    }

    #[test]
    fn a_closed_inbox_gives_what_it_has_and_then_ends() {
        let inbox = Inbox::default();
        assert!(inbox.push(Parcel(1, false)).is_ok());
        inbox.close();
        assert!(inbox.push(Parcel(1, false)).is_err());
        let mut batch = VecDeque::new();
        assert!(inbox.take(&mut batch, soon(), None));
        batch.clear();
        assert!(!inbox.take(&mut batch, soon(), None));
    }

    #[test]
    fn waiting_ends_at_its_time() {
        let (mut batch, until) = (VecDeque::new(), soon());
        assert!(Inbox::<Parcel>::default().take(&mut batch, None, until));
        assert!(batch.is_empty() && Some(Instant::now()) >= until);
    }

    #[test]
    fn a_nap_is_interrupted_by_what_is_urgent_only() {
        let far = Some(Instant::now() + Duration::from_secs(60));
        let mut batch = VecDeque::new();
        let inbox = Inbox::default();
        assert!(inbox.push(Parcel(1, false)).is_ok());
        let nap = soon();
        assert!(inbox.take(&mut batch, nap, None));
        assert!(batch.len() == 1 && Some(Instant::now()) >= nap);
        for urgent in [Parcel(1, true), Parcel(90, false)] {
            batch.clear();
            assert!(inbox.push(Parcel(1, false)).is_ok());
            assert!(inbox.push(urgent).is_ok());
            assert!(inbox.take(&mut batch, far, None));
            assert_eq!(2, batch.len());
        }
        batch.clear();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                assert!(inbox.push(Parcel(1, true)).is_ok());
            });
            assert!(inbox.take(&mut batch, far, None));
        });
        assert_eq!(1, batch.len());
    }
}
