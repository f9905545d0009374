//! Sockets in memory, for simulations: bytes come in pieces, a buffer is full now and then, and a client may vanish.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{Arc, PoisonError},
    time::Duration,
};

use rustix::event::{
    Timespec,
    epoll::{Event, EventData, EventFlags},
};

use super::epoll::{self, WAKE};
use crate::base::{
    clock,
    sync::{Condvar, Mutex, MutexGuard, world},
};

/// The socket of a connection.
pub enum Socket {
    Tcp(TcpStream),
    Memory(Arc<Pair>),
}

/// The two ends of a connection: the server's and the client's.
pub struct Pair {
    state: Mutex<State>,
    /// The server has written or closed.
    changed: Condvar,
}

struct State {
    /// Bytes on their way to the server, and back.
    to_server: Way,
    to_client: Way,
    bell: Option<Arc<Bell>>,
    /// The client has vanished: both ends fail.
    is_reset: bool,
}

struct Way {
    bytes: VecDeque<u8>,
    room: usize,
    is_closed: bool,
}

impl Way {
    fn new(room: usize) -> Self {
        Self { bytes: VecDeque::new(), room, is_closed: false }
    }
}

impl Pair {
    /// A connection on which so many bytes may be under way to the client.
    pub fn new(room: usize) -> Arc<Self> {
        let (to_server, to_client) = (Way::new(usize::MAX), Way::new(room));
        let state = State { to_server, to_client, bell: None, is_reset: false };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what the server sees.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let bell = state.bell.clone();
        drop(state);
        if let Some(bell) = bell {
            bell.ring();
        }
        result
    }

    /// Sends bytes to the server. `false` if it has closed the connection.
    pub fn send(&self, bytes: &[u8]) -> bool {
        self.change(|state| {
            state.to_server.bytes.extend(bytes);
            !state.to_client.is_closed
        })
    }

    /// The client sends no more.
    pub fn finish(&self) {
        self.change(|state| state.to_server.is_closed = true);
    }

    /// The client is gone.
    pub fn vanish(&self) {
        self.change(|state| {
            state.is_reset = true;
            state.to_client.bytes.clear();
        });
    }

    /// Bytes from the server; none after this time, or at the end, which it says.
    pub fn receive(&self, timeout: Duration) -> (Vec<u8>, bool) {
        let until = clock::now() + timeout;
        let mut state = self.lock();
        while state.to_client.bytes.is_empty() && !state.to_client.is_closed {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return (Vec::new(), false);
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let bytes: Vec<u8> = state.to_client.bytes.drain(..).collect();
        let is_end = bytes.is_empty();
        let bell = state.bell.clone();
        drop(state);
        if let Some(bell) = bell {
            bell.ring();
        }
        (bytes, is_end)
    }

    fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        if state.is_reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let State { to_server, .. } = &mut *state;
        if to_server.bytes.is_empty() {
            return match to_server.is_closed {
                true => Ok(0),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        let most = into.len().min(to_server.bytes.len());
        // Not always all that is there.
        let count = if world::one_in(4) { 1 + world::below(most as u64) as usize } else { most };
        for (place, byte) in into.iter_mut().zip(to_server.bytes.drain(..count)) {
            *place = byte;
        }
        Ok(count)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        if state.is_reset {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let way = &mut state.to_client;
        let most = way.room.saturating_sub(way.bytes.len()).min(bytes.len());
        if most == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = if world::one_in(4) { 1 + world::below(most as u64) as usize } else { most };
        way.bytes.extend(&bytes[..count]);
        drop(state);
        self.changed.notify_all();
        Ok(count)
    }

    fn shutdown(&self) {
        self.lock().to_client.is_closed = true;
        self.changed.notify_all();
    }

    /// The events of `flags` that are there.
    fn events(&self, flags: EventFlags) -> EventFlags {
        let state = self.lock();
        let (to_server, to_client) = (&state.to_server, &state.to_client);
        let mut events = EventFlags::empty();
        if !to_server.bytes.is_empty() || to_server.is_closed {
            events |= EventFlags::IN;
        }
        if to_client.bytes.len() < to_client.room {
            events |= EventFlags::OUT;
        }
        if state.is_reset {
            return EventFlags::ERR | events & flags;
        }
        events & flags
    }
}

impl Socket {
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.shutdown(how),
            Self::Memory(pair) => {
                pair.shutdown();
                Ok(())
            }
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(socket: TcpStream) -> Self {
        Self::Tcp(socket)
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(into),
            Self::Memory(pair) => pair.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::Memory(pair) => pair.write(bytes),
        }
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write_vectored(pieces),
            Self::Memory(pair) => pair.write(pieces.first().map_or(&[], |piece| piece)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As [`epoll::Epoll`], or its likeness in memory.
pub enum Epoll {
    System(epoll::Epoll),
    Memory(Arc<Bell>),
}

#[derive(Default)]
pub struct Bell {
    state: Mutex<Watched>,
    rung: Condvar,
}

#[derive(Default)]
struct Watched {
    sockets: Vec<(u64, Arc<Pair>, EventFlags)>,
    is_interrupted: bool,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        drop(self.lock());
        self.rung.notify_all();
    }

    fn wait(&self, events: &mut [Event], timeout: Option<Duration>) -> usize {
        let until = timeout.map(|timeout| clock::now() + timeout);
        let mut state = self.lock();
        loop {
            let mut count = 0;
            let mut add = |flags, token| {
                if count < events.len() {
                    events[count] = Event { flags, data: EventData::new_u64(token) };
                    count += 1;
                }
            };
            if std::mem::take(&mut state.is_interrupted) {
                add(EventFlags::IN, WAKE);
            }
            for (token, pair, flags) in &state.sockets {
                let found = pair.events(*flags);
                if !found.is_empty() {
                    add(found, *token);
                }
            }
            if count > 0 {
                return count;
            }
            let left = until.map(|until| until.saturating_duration_since(clock::now()));
            state = match left {
                Some(Duration::ZERO) => return 0,
                Some(left) => {
                    self.rung.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.rung.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        match world::is_simulated() {
            true => Ok(Self::Memory(Arc::default())),
            false => epoll::Epoll::new().map(Self::System),
        }
    }

    pub fn add(&self, socket: &Socket, token: u64, flags: EventFlags) -> io::Result<()> {
        match (self, socket) {
            (Self::System(epoll), Socket::Tcp(socket)) => epoll.add(socket, token, flags),
            (Self::Memory(bell), Socket::Memory(pair)) => {
                pair.lock().bell = Some(bell.clone());
                bell.lock().sockets.push((token, pair.clone(), flags));
                bell.ring();
                Ok(())
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub fn modify(&self, socket: &Socket, token: u64, flags: EventFlags) -> io::Result<()> {
        match (self, socket) {
            (Self::System(epoll), Socket::Tcp(socket)) => epoll.modify(socket, token, flags),
            _ => {
                self.delete(socket)?;
                self.add(socket, token, flags)
            }
        }
    }

    pub fn delete(&self, socket: &Socket) -> io::Result<()> {
        match (self, socket) {
            (Self::System(epoll), Socket::Tcp(socket)) => epoll.delete(socket),
            (Self::Memory(bell), Socket::Memory(pair)) => {
                pair.lock().bell = None;
                let mut state = bell.lock();
                let at = state.sockets.iter().position(|(_, other, _)| Arc::ptr_eq(other, pair));
                let removed = at.map(|at| state.sockets.swap_remove(at));
                world::ensure!(removed.is_some(), "a socket leaves an epoll that it is not in");
                Ok(())
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub fn wait(&self, events: &mut [Event], timeout: Option<&Timespec>) -> io::Result<usize> {
        match self {
            Self::System(epoll) => epoll.wait(events, timeout),
            Self::Memory(bell) => {
                Ok(bell.wait(events, timeout.map(|time| Duration::from_secs(time.tv_sec as u64))))
            }
        }
    }

    pub fn interrupt(&self) {
        match self {
            Self::System(epoll) => epoll.interrupt(),
            Self::Memory(bell) => {
                bell.lock().is_interrupted = true;
                bell.ring();
            }
        }
    }

    pub fn core(&self) -> usize {
        match self {
            Self::System(epoll) => epoll.core(),
            Self::Memory(_) => world::below(2) as usize,
        }
    }
}

pub fn incoming_core(socket: &Socket) -> Option<usize> {
    match socket {
        Socket::Tcp(socket) => epoll::incoming_core(socket),
        Socket::Memory(_) => Some(world::below(2) as usize),
    }
}

pub fn limit_send_buffer(socket: &Socket, size: usize) {
    if let Socket::Tcp(socket) = socket {
        epoll::limit_send_buffer(socket, size);
    }
}
