//! A listening socket, as its connections see it.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicBool, Ordering},
};

use super::service::Service;

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
