//! HTTP without sockets: bytes in, requests out; answers in, bytes out.
//!
//! The two engines, [`one`] and [`two`], report the same events and take the same answers; [`Engine`] is
//! either of them. Knows nothing of TLS, routes or keys. A request whose end is ambiguous is refused, so
//! that no proxy in front of the server can be made to disagree with it.

mod before;
mod date;
mod engine;
mod event;
pub mod one;
pub mod reply;
pub mod request;
pub mod target;
pub mod two;

pub use before::Frame;
pub use engine::Engine;
pub use event::{Code, Event};
pub(crate) use one::answer::{LAST_CHUNK, put_chunk};
pub use request::{Malformed, Method, Refused};

/// Where the old connection finds heads.
#[allow(missing_docs)]
pub mod head {
    pub use super::{
        one::head::*,
        request::{Framing, Head},
        target::{clean, is_clean, unescape},
    };
}

/// Where the old connection finds bodies.
#[allow(missing_docs)]
pub mod body {
    pub use super::one::body::BodyReader;
}
