//! The things that a connection lends its dialog while a worker drives it.

use std::{task::Waker, time::Instant};

use rustls_pki_types::CertificateDer;

use super::{service::Session, socket::Socket, wire::Output};

pub struct Turn<'a> {
    pub session: &'a mut dyn Session,
    /// The certificates of the client, leaf first.
    pub chain: &'a [CertificateDer<'static>],
    pub socket: &'a Socket,
    pub output: &'a mut Output,
    pub waker: &'a dyn Fn() -> Waker,
    pub now: Instant,
    pub is_eof: bool,
    pub is_draining: bool,
    /// The client has just connected, and has still to send its first request.
    pub is_fresh: bool,
    /// An answer can't be completed in a way that the client understands: the connection is closed at
    /// once.
    pub is_broken: bool,
}
