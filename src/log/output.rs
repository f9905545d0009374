//! A thread that writes lines to stdout or stderr, which may be slow, full or gone.
//!
//! It waits for room and then writes no more than a pipe takes at once, so that the fate of every line
//! is known, even if the reader stops.

use std::{os::fd::AsFd, sync::PoisonError, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FileType, fstat},
    io::{Errno, write},
};

use super::outbox::{Effects, Outbox};
use crate::base::{
    clock,
    panics::survive,
    sync::{Condvar, Mutex, MutexGuard, thread},
};

/// A pipe that has any room takes so many bytes without waiting (`PIPE_BUF`).
const PIPE_BLOCK: usize = 4096;
/// Bytes that are written to a file at once.
const FILE_BLOCK: usize = 64 * 1024;
/// After an error, writing is tried again after this time.
const RETRY: Duration = Duration::from_millis(200);
/// Another program took the room that there was.
const CROWDED: Duration = Duration::from_millis(5);

#[derive(Default)]
pub struct Output {
    state: Mutex<Pending>,
    changed: Condvar,
}

#[derive(Default)]
struct Pending {
    outbox: Outbox,
    is_awaited: bool,
    is_closed: bool,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the outbox and wakes the writer if it has to know.
    pub fn with<T>(&self, action: impl FnOnce(&mut Outbox) -> T) -> T {
        let mut state = self.lock();
        let result = action(&mut state.outbox);
        let must_wake = state.is_awaited && !state.outbox.is_empty();
        if must_wake {
            state.is_awaited = false;
            drop(state);
            self.changed.notify_one();
        }
        result
    }

    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Waits for lines. `false` if there are none and never will be.
    fn wait(&self) -> bool {
        let mut state = self.lock();
        while state.outbox.is_empty() && !state.is_closed {
            state.is_awaited = true;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_awaited = false;
        !state.outbox.is_empty()
    }

    /// Writes lines until the output is closed; `apply` carries out what that has led to.
    pub fn run(&self, to: &impl Sink, apply: impl Fn(Effects)) {
        let limit = to.limit();
        let mut block = Vec::new();
        while self.wait() {
            let turn = survive(|| self.write(to, limit, &mut block, &apply));
            if let Some(pause) = turn.unwrap_or(Some(RETRY)) {
                if self.lock().is_closed {
                    return;
                }
                thread::sleep(pause);
            }
        }
    }

    /// Writes a block. If the next has to wait, says how long.
    fn write(
        &self,
        to: &impl Sink,
        limit: usize,
        block: &mut Vec<u8>,
        apply: impl Fn(Effects),
    ) -> Option<Duration> {
        to.wait_for_room();
        self.with(|outbox| outbox.fill(block, limit));
        let written = to.write(block);
        let (pause, effects) = self.with(|outbox| {
            let (count, pause) = match written {
                Ok(count) => (count, None),
                Err(Errno::INTR) => (0, None),
                Err(Errno::AGAIN) => (0, Some(CROWDED)),
                Err(e) => {
                    outbox.failed(&e.to_string(), clock::now());
                    return (Some(RETRY), outbox.take_effects());
                }
            };
            outbox.wrote(count);
            (pause, outbox.take_effects())
        });
        apply(effects);
        pause
    }
}

/// What a writer writes to.
pub trait Sink {
    /// Bytes that are written at once, at most.
    fn limit(&self) -> usize;

    /// Returns when a write does not have to wait, or fails.
    fn wait_for_room(&self);

    fn write(&self, block: &[u8]) -> Result<usize, Errno>;
}

impl<T: AsFd> Sink for T {
    fn limit(&self) -> usize {
        let is_file = fstat(self)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        if is_file { FILE_BLOCK } else { PIPE_BLOCK }
    }

    fn wait_for_room(&self) {
        let mut fds = [PollFd::new(self, PollFlags::OUT)];
        while matches!(poll(&mut fds, None), Err(Errno::INTR)) {}
    }

    fn write(&self, block: &[u8]) -> Result<usize, Errno> {
        write(self, block)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, pipe},
        sync::atomic::{AtomicUsize, Ordering},
        time::{Instant, SystemTime},
    };

    use rustix::fs::{OFlags, fcntl_setfl};

    use super::*;
    use crate::log::{
        event::{Clock, Line},
        outbox::Hold,
    };

    #[test]
    fn a_full_pipe_is_waited_for_whether_it_blocks_or_not() {
        for flags in [OFlags::empty(), OFlags::NONBLOCK] {
            let (mut reader, writer) = pipe().unwrap();
            fcntl_setfl(&writer, flags).unwrap();
            let (output, accepted) = (Output::default(), AtomicUsize::new(0));
            let mut clock = Clock::local();
            let mut expected = String::new();
            for number in 0..2000 {
                // From lines of which many go into one write to lines that need several.
                let text = format!("{number} {}", "x".repeat(number * 7 % 300 * (number % 50)));
                let line = Line::error_for_people(SystemTime::UNIX_EPOCH, &text, &mut clock);
                expected.push_str(&line.text);
                output.with(|outbox| {
                    let now = Instant::now();
                    match number % 100 {
                        0 => {
                            let hold =
                                Hold { since: now, took: Duration::ZERO, decide: Box::new(|_| {}) };
                            outbox.hold(line, hold, now);
                        }
                        _ => outbox.push(line),
                    }
                    if outbox.take_effects().lost > 0 {
                        expected.truncate(expected.trim_end().rfind('\n').unwrap() + 1);
                    }
                });
            }
            output.close();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let writer = writer; // closed at the end
                    output.run(&writer, |effects| {
                        let decisions = effects.decisions.iter();
                        let count = decisions.filter(|decision| decision.is_accepted).count();
                        accepted.fetch_add(count, Ordering::Relaxed);
                    });
                });
                let mut found = Vec::new();
                let mut bytes = [0; 10_000];
                loop {
                    std::thread::sleep(Duration::from_micros(100));
                    match reader.read(&mut bytes).unwrap() {
                        0 => break,
                        count => found.extend_from_slice(&bytes[..count]),
                    }
                }
                assert!(expected.as_bytes() == found, "the lines are others");
            });
            assert!(accepted.into_inner() > 0);
        }
    }
}
