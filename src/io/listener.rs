//! A listening socket, as its connections see it.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicBool, Ordering},
};

use super::service::Service;

/// A listening socket, as the server gets it.
#[derive(Debug)]
pub struct Listening {
    pub socket: TcpListener,
    /// Another process has it, too, and listens on when this one ends.
    pub is_shared: bool,
}

/// A socket of the server's own.
impl From<TcpListener> for Listening {
    fn from(socket: TcpListener) -> Self {
        Self { socket, is_shared: false }
    }
}

pub struct Listener {
    pub socket: TcpListener,
    pub service: Box<dyn Service>,
    pub is_ending: AtomicBool,
}

impl Listener {
    pub fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::SeqCst)
    }
}
