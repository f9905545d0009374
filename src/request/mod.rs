//! A request from its head to its answer: the client, the checks, the handler, the audit line.
//!
//! [`Api`] is the service behind the listener for clients. It meets the sockets in the traits of
//! [`io::service`](crate::io::service) only.

pub mod admit;
pub mod advice;
pub mod client;
pub mod explain;
pub mod proxy;
pub mod session;

use std::{io, net::SocketAddr, time::Duration};

use rustls::ServerConnection;

use self::session::ApiSession;
use crate::{
    api::core::Core,
    io::{
        service::{Service, Session},
        transport::Transport,
    },
    metrics::{Connections, Event},
};

/// A connection may stay open without a request for this time: longer than Go clients keep theirs, 90
/// seconds, so that a request and the close do not cross.
const IDLE_TIMEOUT: Duration = Duration::from_secs(100);

/// The API, as a listener serves it.
pub struct Api(pub &'static Core);

impl Service for Api {
    fn open(&self, address: SocketAddr) -> io::Result<(Transport, Box<dyn Session>)> {
        let state = self.0.state();
        let tls = ServerConnection::new(state.tls.clone()).map_err(io::Error::other)?;
        let session = ApiSession::new(self.0, address, state.trust_generation);
        Ok((Transport::Tls(tls), Box::new(session)))
    }

    fn idle_timeout(&self) -> Duration {
        IDLE_TIMEOUT
    }

    fn connections(&self) -> &Connections {
        &self.0.metrics.connections
    }

    fn refuse(&self) -> &'static str {
        self.0.metrics.count(Event::RefusedConnection);
        "connections (limits.connections)"
    }
}

#[cfg(test)]
mod tests;
