//! The services behind connections, as these see them: the API and the probes.
//!
//! A [`Service`] stands behind a listener, a [`Session`] behind a connection and a [`Request`] behind
//! each request. None of them waits: a request that needs time says [`Progress::Wait`] and wakes its
//! connection later.

use std::{io, net::SocketAddr, sync::Arc, task::Waker, time::Instant};

use rustls_pki_types::CertificateDer;

use super::transport::Transport;
use crate::{
    http::{Malformed, reply::Reply, request::Head},
    metrics::Connections,
    tls::Group,
};

pub trait Service: Send + Sync {
    /// Opens the transport and the session of a connection. If TLS can't begin, it is dropped.
    fn open(&self, address: SocketAddr) -> io::Result<(Transport, Box<dyn Session>)>;

    fn idle_timeout(&self) -> std::time::Duration;

    fn connections(&self) -> &Connections;

    /// Counts a connection that was refused since there are too many, and gives their name for the
    /// error log.
    fn refuse(&self) -> &'static str;
}

pub struct Handshake<'a> {
    /// The client's certificates, leaf first; empty without TLS.
    pub chain: &'a [CertificateDer<'static>],
    /// The session was resumed: rustls has not verified `chain` again.
    pub is_resumed: bool,
    pub group: Option<Group>,
}

/// A client that is not accepted; the session has logged why.
#[derive(Debug)]
pub struct NotAccepted;

pub trait Session: Send {
    /// The handshake has ended; [`NotAccepted`] closes the connection.
    fn established(&mut self, handshake: &Handshake<'_>) -> Result<(), NotAccepted>;

    fn handshake_failed(&mut self, reason: &str);

    /// The header whose values heads must keep.
    fn kept_header(&self) -> Option<Arc<str>>;

    /// Audits and counts a request that can't be understood and seems to be for `path`.
    fn malformed(&mut self, malformed: Malformed, path: String, now: Instant) -> Reply;

    fn begin(&mut self, head: Head, chain: &[CertificateDer<'static>], now: Instant) -> Begun;
}

pub enum Begun {
    /// The request goes on; its body has at most so many bytes (0: a body is ignored).
    Request(Box<dyn Request>, usize),
    /// The answer. If `true`, the connection ends after it.
    Answer(Reply, bool),
}

/// A request, from its head to its answer. Dropped without an answer, it is audited and counted all the
/// same.
pub trait Request: Send {
    /// The body is whole; `None` if it was too long, malformed or cut off. `waker` makes what wakes the
    /// connection.
    fn run(&mut self, body: Option<&[u8]>, now: Instant, waker: &dyn Fn() -> Waker) -> Progress;

    /// Goes on after a wake, or after [`expire`](Self::expire).
    fn poll(&mut self, now: Instant, waker: &dyn Fn() -> Waker) -> Progress;

    fn expire(&mut self);

    fn deadline(&self) -> Instant;

    /// The memory that it takes while it waits, in bytes.
    fn held(&self) -> usize;

    fn next_lines(&mut self) -> Lines;

    /// Whether the client with these certificates may still see its log stream.
    fn may_go_on(&mut self, chain: &[CertificateDer<'static>]) -> bool;

    /// Counts a log stream that ends because its client does not read.
    fn count_drop(&mut self);
}

pub enum Progress {
    /// It wakes the connection when there is more.
    Wait,
    Reply(Reply),
    Lines,
}

pub enum Lines {
    /// Whole lines.
    Block(Arc<[u8]>),
    Nothing,
    End,
    /// Lines were lost since the client does not read: it must see that some are missing.
    CutOff,
}
