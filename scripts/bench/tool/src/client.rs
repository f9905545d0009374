//! One mTLS connection to the server under test, waited for by the caller or by an epoll.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use rustls_pki_types::ServerName;

use crate::http;

const PATIENCE: Duration = Duration::from_secs(10);

/// A connection that sends one request at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) tls: ClientConnection,
    received: Vec<u8>,
}

impl Connection {
    /// Connects; the handshake happens with the first request.
    pub(crate) fn open(addr: SocketAddr, config: &Arc<ClientConfig>) -> Result<Connection> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::from(addr.ip());
        let tls = ClientConnection::new(Arc::clone(config), name).map_err(Error::other)?;
        Ok(Connection { stream, tls, received: Vec::new() })
    }

    /// Whether the handshake used a ticket.
    pub(crate) fn resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Sends a request and waits for the answer, head and body.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        self.stream.set_nonblocking(false)?;
        self.tls.writer().write_all(request)?;
        loop {
            while self.tls.wants_write() {
                self.tls.write_tls(&mut self.stream)?;
            }
            self.read()?;
            if let Some(length) = http::message_length(&self.received) {
                return Ok(self.received.drain(..length).collect());
            }
        }
    }

    /// Queues a request and sends as much as the socket takes.
    pub(crate) fn send(&mut self, request: &[u8]) -> Result<()> {
        self.tls.writer().write_all(request)?;
        self.flush()
    }

    /// Reads the bytes that are there; the status of the answer once it is complete. For non-blocking sockets.
    pub(crate) fn step(&mut self) -> Result<Option<u16>> {
        match self.read() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            _ => self.flush()?,
        }
        let Some(length) = http::message_length(&self.received) else {
            return Ok(None);
        };
        let status = http::status(&self.received);
        self.received.drain(..length);
        Ok(Some(status))
    }

    /// The bytes received since the last answer. For non-blocking sockets.
    pub(crate) fn receive(&mut self) -> Result<Vec<u8>> {
        match self.read() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(std::mem::take(&mut self.received)),
        }
    }

    /// Says goodbye; the socket closes when the connection is dropped.
    pub(crate) fn close(mut self) {
        self.tls.send_close_notify();
        let _ = self.flush(); // a peer that is gone needs no goodbye
    }

    fn read(&mut self) -> Result<()> {
        if self.tls.read_tls(&mut self.stream)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let state = self.tls.process_new_packets().map_err(Error::other)?;
        let start = self.received.len();
        self.received.resize(start + state.plaintext_bytes_to_read(), 0);
        self.tls.reader().read_exact(&mut self.received[start..])
    }

    fn flush(&mut self) -> Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
