//! A listening socket, as its connections see it.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::service::Service;
use crate::metrics::Connections;

pub struct Listener {
    pub socket: TcpListener,
    pub service: Box<dyn Service>,
    pub is_ending: AtomicBool,
}

impl Listener {
    pub fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::SeqCst)
    }

    pub fn is_waited_for(&self) -> bool {
        self.is_ending()
    }

    pub fn idle_timeout(&self) -> Duration {
        self.service.idle_timeout()
    }

    pub fn connections(&self) -> &Connections {
        self.service.connections()
    }
}
