//! The acceptor: takes connections off the listener and hands them to epoll.

use std::{
    io,
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustls::ServerConnection;

use super::{Server, connection::Connection};

/// How often the log hears of connections that could not be taken.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// Starts the acceptor; it ends when the server drains and the listener is shut down.
pub(super) fn start(
    server: &Arc<Server>,
    listener: Arc<TcpListener>,
) -> io::Result<JoinHandle<()>> {
    let server = server.clone();
    std::thread::Builder::new()
        .name("acceptor".to_owned())
        .stack_size(128 * 1024)
        .spawn(move || accept_all(&server, &listener))
}

fn accept_all(server: &Server, listener: &TcpListener) {
    let mut last_complaint: Option<Instant> = None;
    let mut complain = |message: &str| {
        let now = Instant::now();
        if last_complaint.is_none_or(|last| now - last >= COMPLAINT_INTERVAL) {
            last_complaint = Some(now);
            server.log_error(message);
        }
    };
    while !server.is_draining() {
        let accepted = listener.accept();
        if server.is_draining() {
            return;
        }
        match accepted {
            Ok(_) if server.registry.len() >= server.limits.connections => {
                let limit = server.limits.connections;
                complain(&format!(
                    "refused a connection: all {limit} connections are in use"
                ));
            }
            Ok((socket, address)) => {
                if let Err(e) = take(server, socket, address) {
                    complain(&format!("failed to take a connection: {e}"));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                complain(&format!("failed to accept a connection: {e}"));
                // Out of descriptors or memory: some may be free again soon.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn take(server: &Server, socket: TcpStream, address: std::net::SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    let state = server.state();
    let tls = ServerConnection::new(state.tls.clone()).map_err(io::Error::other)?;
    let connection = server.registry.insert(|token| {
        Connection::new(token, socket, address, tls, state.trust_generation, server)
    });
    connection
        .register(server)
        .inspect_err(|_| server.registry.remove(connection.token))
}
