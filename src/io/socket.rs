//! The socket of a connection, and what watches over it: those of the system. Tests have some in memory, too.

#[cfg(test)]
pub use super::memory::{Epoll, Socket, incoming_core, limit_send_buffer};
#[cfg(not(test))]
pub use {
    super::epoll::{Epoll, incoming_core, limit_send_buffer},
    std::net::TcpStream as Socket,
};
