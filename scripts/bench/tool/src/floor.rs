//! The least a TLS server of the product's design can cost: accept, decrypt, find the end of the
//! request, answer 200 fixed bytes.
//!
//! One acceptor, a fixed number of workers on one shared epoll (ONESHOT, one event a wait), one
//! read and one write a request. Knows nothing of routes, identities, keys or deadlines.
//!
//! It writes as rustls does by itself, by `writev`; the product has found `send` to be 0.7 us cheaper.
//! The floor stays as it was, so that ratios to it can be compared with those before.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustls::{ServerConfig, ServerConnection};

use crate::args::Args;
use crate::{Result, http, tls};

const ANSWER_BYTES: usize = 200;

/// Serves until it is killed; prints one line once it listens.
pub(crate) fn run(args: &Args) -> Result<()> {
    crate::process::raise_file_limit();
    let config = tls::server(args.text("cert")?, args.text("key")?)?;
    let listener = TcpListener::bind(args.text("addr")?)?;
    let shared = Arc::new(Shared {
        epoll: epoll::create(CreateFlags::CLOEXEC)?,
        connections: (0..20_000).map(|_| Mutex::new(None)).collect(),
        answer: answer(),
    });
    for number in 0..args.number("workers", 2)? {
        let shared = Arc::clone(&shared);
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || work(&shared))?;
    }
    println!("{{\"listening\":\"{}\"}}", listener.local_addr()?);
    loop {
        match listener.accept() {
            Ok((stream, _)) => shared.register(stream, &config),
            Err(error) => eprintln!("failed to accept: {error}"),
        }
    }
}

struct Shared {
    epoll: OwnedFd,
    /// By file descriptor. The mutex is never contended: ONESHOT gives a connection to one worker.
    connections: Vec<Mutex<Option<Box<Connection>>>>,
    answer: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    tls: ServerConnection,
    /// A request that is not complete yet.
    pending: Vec<u8>,
}

impl Shared {
    fn register(&self, stream: TcpStream, config: &Arc<ServerConfig>) {
        let fd = stream.as_raw_fd() as usize;
        let Some(slot) = self.connections.get(fd) else {
            return;
        };
        let Ok(tls) = ServerConnection::new(Arc::clone(config)) else {
            return;
        };
        if stream.set_nonblocking(true).is_err() || stream.set_nodelay(true).is_err() {
            return;
        }
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = slot.insert(Box::new(Connection { stream, tls, pending: Vec::new() }));
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        if epoll::add(&self.epoll, &connection.stream, EventData::new_u64(fd as u64), flags).is_err() {
            *slot = None;
        }
    }
}

fn work(shared: &Shared) {
    let mut events = Vec::with_capacity(1);
    let mut scratch = vec![0; 16 << 10];
    loop {
        events.clear();
        if epoll::wait(&shared.epoll, spare_capacity(&mut events), None).is_err() {
            continue;
        }
        for event in &events {
            let data = event.data;
            let slot = &shared.connections[data.u64() as usize];
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(connection) = slot.as_mut() else {
                continue;
            };
            let alive = connection.step(&shared.answer, &mut scratch);
            if !alive || connection.arm(&shared.epoll, data).is_err() {
                *slot = None;
            }
        }
    }
}

impl Connection {
    /// One read, then all steps that it allows, then one write. `false` ends the connection.
    fn step(&mut self, answer: &[u8], scratch: &mut [u8]) -> bool {
        match self.tls.read_tls(&mut self.stream) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
        let healthy = self.tls.process_new_packets();
        while let Ok(count) = self.tls.reader().read(scratch) {
            if count == 0 {
                return false; // close_notify
            }
            self.pending.extend_from_slice(&scratch[..count]);
        }
        while let Some(length) = http::message_length(&self.pending) {
            self.pending.drain(..length);
            if self.tls.writer().write_all(answer).is_err() {
                return false;
            }
        }
        if self.tls.wants_write() {
            match self.tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        healthy.is_ok()
    }

    fn arm(&self, epoll: &OwnedFd, data: EventData) -> rustix::io::Result<()> {
        let mut flags = EventFlags::IN | EventFlags::ONESHOT;
        if self.tls.wants_write() {
            flags |= EventFlags::OUT;
        }
        epoll::modify(epoll, &self.stream, data, flags)
    }
}

/// An answer of 200 bytes whose body has the members that every operation of the load reads.
fn answer() -> Vec<u8> {
    const START: &str = "{\"plaintext\":\"AAAA\",\"ciphertext\":\"";
    const END: &str = "\"}";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 128\r\n\r\n";
    let body = ANSWER_BYTES - head.len();
    assert_eq!(128, body, "the head says how long the body is");
    let filler = "A".repeat(body - START.len() - END.len());
    format!("{head}{START}{filler}{END}").into_bytes()
}
