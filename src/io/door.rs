//! The way into a simulated server, past the acceptor, which waits for the system.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
};

use super::{
    Sockets,
    listener::Listener,
    memory::{Pair, Socket},
    service::Service,
};

pub struct Door {
    sockets: Arc<Sockets>,
    listener: Arc<Listener>,
    next: AtomicU16,
}

impl Door {
    pub fn new(sockets: &Arc<Sockets>, service: Box<dyn Service>) -> Self {
        static SOCKET: OnceLock<TcpListener> = OnceLock::new();
        let socket = SOCKET.get_or_init(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let socket = socket.try_clone().unwrap();
        let listener = Arc::new(Listener { socket, service, is_ending: AtomicBool::new(false) });
        Self { sockets: sockets.clone(), listener, next: AtomicU16::new(0) }
    }

    /// A connection on which so many bytes may be under way to the client, if the server takes it, and its number.
    /// The port of its address is twice that, and one more if it speaks HTTP/2.
    pub fn enter(&self, room: usize, speaks_http2: bool) -> io::Result<(Arc<Pair>, u32)> {
        if self.listener.is_ending() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], 2 * number + u16::from(speaks_http2)));
        let pair = Pair::new(room);
        self.sockets.take(&self.listener, Socket::Memory(pair.clone()), address)?;
        Ok((pair, u32::from(number)))
    }

    pub fn close(&self) {
        self.listener.is_ending.store(true, Ordering::SeqCst);
    }
}
