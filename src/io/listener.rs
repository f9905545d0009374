//! A listening socket, as its connections see it.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::service::Service;
use crate::metrics::Connections;

/// A listening socket and what it serves.
pub struct Listener {
    pub socket: TcpListener,
    pub service: Box<dyn Service>,
    pub is_ending: AtomicBool,
}

impl Listener {
    /// It accepts no more connections.
    pub fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::SeqCst)
    }

    /// Whether the end of the server waits for its connections: it accepts no more of them.
    pub fn is_waited_for(&self) -> bool {
        self.is_ending()
    }

    /// A connection may stay open without a request for this time.
    pub fn idle_timeout(&self) -> Duration {
        self.service.idle_timeout()
    }

    /// The gauges of its connections.
    pub fn connections(&self) -> &Connections {
        self.service.connections()
    }
}
