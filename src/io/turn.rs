//! What a connection lends its requests while a worker drives it.

use std::{net::TcpStream, task::Waker, time::Instant};

use rustls_pki_types::CertificateDer;

use super::{service::Session, wire::Output};

/// What a connection lends its dialog for a turn.
pub(super) struct Turn<'a> {
    pub(super) session: &'a mut dyn Session,
    /// The certificates of the client, leaf first.
    pub(super) chain: &'a [CertificateDer<'static>],
    pub(super) socket: &'a TcpStream,
    pub(super) output: &'a mut Output,
    pub(super) waker: &'a dyn Fn() -> Waker,
    /// When the turn began.
    pub(super) now: Instant,
    pub(super) is_eof: bool,
    pub(super) is_draining: bool,
    /// An answer can't be completed in a way that the client understands: the connection is closed at
    /// once.
    pub(super) is_broken: bool,
}
