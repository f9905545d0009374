//! An acceptor: takes connections off a listener and hands them to epoll.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{Server, connection::Connection};
use crate::{base::panics::survive, io::service::Service, log::Cause};
use rustix::net::sockopt;

/// A client that has sent nothing for so long is asked whether it is there, so often and so many times.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;
/// A client may take this time to acknowledge what was sent, in milliseconds: as long as it may be silent.
const USER_TIMEOUT: u32 = 120_000;

/// A listener and the thread that accepts.
pub(super) struct Acceptor {
    listener: Arc<TcpListener>,
    is_ending: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Acceptor {
    /// Starts to take connections.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn start(
        server: &Arc<Server>,
        listener: TcpListener,
        service: Arc<dyn Service>,
    ) -> io::Result<Self> {
        detect_dead_peers(&listener);
        let listener = Arc::new(listener);
        let is_ending = Arc::new(AtomicBool::new(false));
        let work = (server.clone(), listener.clone(), is_ending.clone());
        let thread = std::thread::Builder::new()
            .name("acceptor".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || {
                let (server, listener, is_ending) = work;
                while !is_ending.load(Ordering::SeqCst) {
                    survive(|| accept_all(&server, &listener, &service, &is_ending));
                }
            })?;
        Ok(Self { listener, is_ending, thread })
    }

    /// Refuses new connections from now on.
    pub(super) fn stop(self) {
        self.is_ending.store(true, Ordering::SeqCst);
        // Wakes the thread out of `accept`.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        let _ = self.thread.join();
    }
}

/// Lets connections fail whose client is gone without a word, since it lost its power or its network. A
/// log stream on which there is nothing to tell would stay for ever otherwise, and one with little to tell
/// for a quarter of an hour. Accepted sockets have the options of their listener. Where they can't be set,
/// what the system does has to be enough.
fn detect_dead_peers(listener: &TcpListener) {
    let _ = sockopt::set_socket_keepalive(listener, true);
    let _ = sockopt::set_tcp_keepidle(listener, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(listener, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(listener, KEEPALIVE_PROBES);
    let _ = sockopt::set_tcp_user_timeout(listener, USER_TIMEOUT);
}

fn accept_all(
    server: &Server,
    listener: &TcpListener,
    service: &Arc<dyn Service>,
    is_ending: &AtomicBool,
) {
    let failed = |what: &str, error: io::Error| {
        server.core.log.error_from_outside(Cause::Connection, || {
            format!("failed to {what} a connection: {error}")
        });
    };
    while !is_ending.load(Ordering::SeqCst) {
        let accepted = listener.accept();
        if is_ending.load(Ordering::SeqCst) {
            return;
        }
        match accepted {
            // A full server closes it at once, so that the client can go elsewhere.
            Ok((socket, address)) if has_room(server, &**service) => {
                if let Err(e) = take(server, socket, address, service) {
                    failed("take", e);
                }
            }
            Ok(_) => {}
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

/// Whether one more connection may be open. If not, the log and the metrics hear of it.
fn has_room(server: &Server, service: &dyn Service) -> bool {
    let connections = service.connections();
    let (open, limit) = (connections.open(), connections.limit());
    if open >= limit {
        let what = service.refuse();
        server.core.log.error_from_outside(Cause::Connection, || {
            format!("refused a connection: all {limit} {what} are in use")
        });
    }
    open < limit
}

fn take(
    server: &Server,
    socket: TcpStream,
    address: SocketAddr,
    service: &Arc<dyn Service>,
) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    let (transport, session) = service.open(address)?;
    let connection = server.registry.insert(|token| {
        Connection::new(token, socket, transport, session, service.clone(), server)
    });
    connection.register(server).inspect_err(|_| server.registry.remove(connection.token))
}
