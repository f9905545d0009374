//! The thread of a listener: takes connections off its socket and hands them to the workers.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    net::sockopt,
};

use super::{
    Sockets,
    connection::Connection,
    listener::{Listener, Listening},
    service::Service,
};
use crate::{base::panics::survive, log::Cause};

/// A client that has sent nothing for so long is probed, so often and so many times.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;
/// A client may take this time to acknowledge what was sent, in milliseconds: as long as it may be silent.
const USER_TIMEOUT: u32 = 120_000;

pub struct Acceptor {
    listener: Arc<Listener>,
    is_shared: bool,
    /// Wakes the thread when it has to end.
    wakeup: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl Acceptor {
    pub fn start(
        sockets: &Arc<Sockets>,
        listening: Listening,
        service: Box<dyn Service>,
    ) -> io::Result<Self> {
        let Listening { socket, is_shared } = listening;
        detect_dead_peers(&socket);
        // The other process may take the connection that woke this one.
        socket.set_nonblocking(true)?;
        let wakeup = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let listener = Arc::new(Listener { socket, service, is_ending: AtomicBool::new(false) });
        let (of, among) = (Arc::downgrade(&listener), Arc::downgrade(sockets));
        listener.service.connections().count_idle_by(move || {
            among.upgrade().map_or(0, |sockets| {
                let is_ours = |connection: &Connection| {
                    std::ptr::eq(&*connection.listener, of.as_ptr()) && connection.is_idle()
                };
                sockets.registry.select(is_ours).len()
            })
        });
        let (sockets, accepting, ending) = (sockets.clone(), listener.clone(), wakeup.clone());
        let thread = std::thread::Builder::new()
            .name("acceptor".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || {
                while !accepting.is_ending() {
                    survive(|| accept_all(&sockets, &accepting, &ending));
                }
            })?;
        Ok(Self { listener, is_shared, wakeup, thread })
    }

    pub fn stop(self) {
        self.listener.is_ending.store(true, Ordering::SeqCst);
        let _ = rustix::io::write(&self.wakeup, &1_u64.to_ne_bytes());
        let _ = self.thread.join();
        // Connections keep the listener. A shared one would be shut down for the other process, too.
        if !self.is_shared {
            let _ = rustix::net::shutdown(&self.listener.socket, rustix::net::Shutdown::Both);
        }
    }
}

/// Lets connections fail whose client has lost its power or its network. A log stream on which there is
/// nothing to tell would stay for ever otherwise, and one with little to tell for a quarter of an hour.
/// Accepted sockets inherit the options of their listener. Where they can't be set, the system's own have to
/// be enough.
fn detect_dead_peers(socket: &TcpListener) {
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES);
    let _ = sockopt::set_tcp_user_timeout(socket, USER_TIMEOUT);
}

fn accept_all(sockets: &Arc<Sockets>, listener: &Arc<Listener>, wakeup: &OwnedFd) {
    let failed = |what: &str, error: io::Error| {
        sockets.log.error_from_outside(Cause::Connection, || {
            format!("failed to {what} a connection: {error}")
        });
    };
    while !listener.is_ending() {
        match listener.socket.accept() {
            // A full server closes it at once, so that the client can go elsewhere.
            Ok((socket, address)) if has_room(sockets, listener) => {
                if let Err(e) = take(sockets, listener, socket, address) {
                    failed("take", e);
                }
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let fd = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
                let mut fds = [fd(listener.socket.as_fd()), fd(wakeup.as_fd())];
                let _ = poll(&mut fds, None);
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                failed("accept", e);
                // Out of descriptors or memory: some may be free again soon.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// Whether one more connection may be open. If not, this is logged and counted.
fn has_room(sockets: &Sockets, listener: &Listener) -> bool {
    let limit = listener.service.connections().limit();
    let has_room = listener.service.connections().open() < limit;
    if !has_room {
        let name = listener.service.refuse();
        sockets.log.error_from_outside(Cause::Connection, || {
            format!("refused a connection: all {limit} {name} are in use")
        });
    }
    has_room
}

fn take(
    sockets: &Arc<Sockets>,
    listener: &Arc<Listener>,
    socket: TcpStream,
    address: SocketAddr,
) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    #[allow(clippy::useless_conversion, reason = "tests have sockets of other kinds, too")]
    sockets.take(listener, socket.into(), address)
}
