//! The system's watch over sockets: those of one worker, and a way to wake it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{
        EventfdFlags, Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
        eventfd,
    },
    io::Errno,
    net::sockopt,
    thread::sched_getcpu,
};

/// The token of the eventfd; no socket has it.
pub const WAKE: u64 = u64::MAX;

/// Level-triggered: a socket stays in it and nothing is re-armed.
pub struct Epoll {
    epoll: OwnedFd,
    wakeup: OwnedFd,
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let wakeup = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edge-triggered, so that nobody has to read it.
        epoll::add(&epoll, &wakeup, EventData::new_u64(WAKE), EventFlags::IN | EventFlags::ET)?;
        Ok(Self { epoll, wakeup })
    }

    /// What is there to read already is reported, too.
    pub fn add(&self, socket: impl AsFd, token: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token), flags)?)
    }

    pub fn modify(&self, socket: impl AsFd, token: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(token), flags)?)
    }

    pub fn delete(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, socket)?)
    }

    /// Waits for events, and says how many there are.
    pub fn wait(&self, events: &mut [Event], timeout: Option<&Timespec>) -> io::Result<usize> {
        match epoll::wait(&self.epoll, events, timeout) {
            Ok(count) => Ok(count),
            Err(Errno::INTR) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }

    /// Ends a wait, or the next one.
    pub fn interrupt(&self) {
        let _ = rustix::io::write(&self.wakeup, &1_u64.to_ne_bytes());
    }

    /// The core that the calling thread runs on.
    pub fn core(&self) -> usize {
        sched_getcpu()
    }
}

/// The core on which the packets of a socket arrive, if the system knows.
pub fn incoming_core(socket: impl AsFd) -> Option<usize> {
    sockopt::socket_incoming_cpu(socket).ok().map(|core| core as usize)
}

/// Bounds what the kernel keeps for a client that does not read, in bytes. Where that can't be set, the system
/// has bounds of its own.
pub fn limit_send_buffer(socket: impl AsFd, size: usize) {
    let _ = sockopt::set_socket_send_buffer_size(socket, size);
}
