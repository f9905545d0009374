//! HTTP without sockets: bytes in, requests out; answers in, bytes out.
//!
//! The two engines, [`one`] and [`two`], report the same events and take the same answers; [`Engine`] is
//! either of them. Knows nothing of TLS, routes or keys. A request whose end is ambiguous is refused, so
//! that no proxy in front of the server can be made to disagree with it.

mod date;
mod engine;
mod event;
pub mod one;
pub mod reply;
pub mod request;
pub mod target;
pub mod two;

pub use engine::Engine;
pub use event::{Code, Event};
pub use request::{Malformed, Method, Refused};

/// An unread body up to this length is read and dropped to keep the connection, in bytes.
pub const MAX_DISCARD: u64 = 256 * 1024;
